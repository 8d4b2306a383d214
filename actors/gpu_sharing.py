"""Rollout engines and models on the same GPUs: engines sleep while models work, and wake before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from actors.group import ActorDied, ActorGroup
from actors.rollout import RolloutWorker

DROPS_WEIGHTS = 2  # the sleep level from which an engine has to be sent its weights again


class GpuSharing:
    """The turns of engines and models. May be used from several threads, as models that score side by side do.

    A generation is under way from `generating` until its last group arrived or the caller gave up. Models work between
    generations only: a scorer that is fed during one first calls `wait_for_generation`.

    An engine that died holds no memory: it is skipped here, and restarted by whoever calls it next.

    Args:
        level: `rollout.sleep_level`; 0: the engines stay awake and models may work at any time.
        timeout_s: of one call.
    """

    def __init__(self, rollout: ActorGroup[RolloutWorker], level: int, timeout_s: float) -> None:
        self._rollout, self._level, self._timeout_s = rollout, level, timeout_s
        self._awake, self._generations, self._changed = True, 0, threading.Condition()
        self.resend: Callable[[], None] = lambda: None  # sends the engines the weights that they held last

    def for_training(self) -> None:
        """Frees the engines' memory.

        Raises:
            RuntimeError: a generation is under way.
        """
        if not self._level:
            return
        with self._changed:
            if self._generations:
                raise RuntimeError(
                    "a model that shares the engines' GPUs was called while rollout engines generate: read every group "
                    "first (rollout.sleep_level)"
                )
            if self._awake:
                self._each(RolloutWorker.sleep, self._level, phase="sleep")
                self._awake = False

    def for_weights(self) -> None:
        """Wakes the engines; they may be without weights until the caller has sent some."""
        with self._changed:
            self._wake()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Wakes the engines, with the weights they held last, and keeps them awake until the end of the block."""
        with self._changed:
            self._generations += 1
            woken = self._wake()
        try:
            if woken and self._level >= DROPS_WEIGHTS:
                self.resend()
            yield
        finally:
            with self._changed:
                self._generations -= 1
                self._changed.notify_all()

    def wait_for_generation(self) -> None:
        """Blocks until no generation is under way. A generation has deadlines of its own, hence none here."""
        if not self._level:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._generations)

    def _wake(self) -> bool:
        if self._awake:
            return False
        self._each(RolloutWorker.wake, phase="wake")
        self._awake = True
        return True

    def _each(self, method: Callable[..., Any], *args: Any, phase: str) -> None:
        calls = [
            self._rollout.submit_one(rank, method, *args, timeout_s=self._timeout_s, phase=phase)
            for rank in range(len(self._rollout))
        ]
        for call in calls:
            with suppress(ActorDied):
                call.result()
