"""The samples of coming steps: collected when the loop asks for them, or ahead, while earlier steps train."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
CLOSE_S = 10.0  # how long `close` waits for the threads


class Feed(Generic[T]):
    """Runs `collect(step)` for steps in order, at most `depth` steps ahead of the weights in the engines.

    A step may begin once weights of `step - depth` trained steps are published. So with depth 0 every token comes from
    the newest weights, and `take` collects in the caller's thread; with depth K no token is older than K steps, and
    each step under way, at most K + 1, has a thread. Nothing is dropped: every step begun is taken, in order.

    Args:
        collect: called once per step, outside of the caller's thread if `depth` is above 0.
        depth: K, in steps.
        last: number of steps of the run; none after it begins.
        prepare: called in the caller's thread and in the order of steps, just before `collect`.
        abandon: ends what `collect` waits for; called by `close` if a step is under way.
    """

    def __init__(
        self,
        collect: Callable[[int], T],
        depth: int,
        last: int,
        prepare: Callable[[int], None] = lambda step: None,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._collect, self._depth, self._last = collect, depth, last
        self._prepare, self._abandon = prepare, abandon
        self._next = 0  # first step that has not begun
        self._ahead: dict[int, tuple[Future[T], threading.Thread]] = {}
        self.closed = False

    @property
    def ahead(self) -> bool:
        """True if steps are collected ahead, on threads."""
        return self._depth > 0

    def start(self, step: int) -> None:
        """`step` is the first to be taken, and the weights before it are published."""
        self._next = step
        self.published(step)

    def published(self, version: int) -> None:
        """The engines have the weights of `version` trained steps: begins all steps that may sample from them."""
        while self._depth and not self.closed and self._next <= min(version + self._depth, self._last - 1):
            self._begin(self._next)
            self._next += 1

    def take(self, step: int) -> T:
        """The samples of `step`; waits for them.

        Raises:
            RuntimeError: the feed is closed, or the step has not begun: an earlier one was not published.
            Exception: whatever `collect` raised for this step, with a note that names it.
        """
        if self.closed:
            raise RuntimeError(f"step {step + 1}: the feed is closed")
        if not self._depth:
            self._prepare(step)
            return self._collect(step)
        if step not in self._ahead:
            raise RuntimeError(f"step {step + 1} has not begun; under way are {[s + 1 for s in self.snapshot()]}")
        try:
            found = self._ahead[step][0].result()  # `collect` has deadlines of its own
        except Exception as error:
            if self._ahead[step][0].done():
                error.add_note(f"raised while the samples of step {step + 1} were collected")
            raise
        del self._ahead[step]
        return found

    def snapshot(self) -> list[int]:
        """Steps that have begun and were not taken, oldest first."""
        return sorted(self._ahead)

    def close(self) -> None:
        """Ends the steps under way, whose samples are lost; safe at any time, and twice."""
        self.closed = True
        threads = [thread for _, thread in self._ahead.values()]
        if any(thread.is_alive() for thread in threads):
            self._abandon()
        for thread in threads:
            thread.join(CLOSE_S / len(threads))
        self._ahead.clear()

    def _begin(self, step: int) -> None:
        self._prepare(step)
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(self._collect(step))
            except BaseException as error:  # raised in `take`
                future.set_exception(error)

        thread = threading.Thread(target=run, name=f"collect-{step + 1}", daemon=True)
        self._ahead[step] = (future, thread)
        thread.start()
