"""Calls of `generate` from several threads at once, over engines that take prompts from one queue.

Threads: one collector per engine. It alone submits to its engine, aborts and collects there, and restarts it if it
fails. It sleeps while its engine has nothing to do, and otherwise waits in `collect`, which ends when a group is
finished, when the engine has room for more, after a `nudge`, or after a second. Callers wait for their own groups.
Everything shared is guarded by `_changed`, which is never held during a call of an engine.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace

from actors.generation.rollout import Collected, Request, RolloutWorker
from actors.generation.work_queue import Arrival, Call, Task, WorkQueue
from actors.placement.group import ActorError, ActorGroup, Pending, WorkerError
from actors.placement.restarts import REQUEST_ERRORS, RestartPolicy
from rlcore.interfaces import RolloutAbandoned, Sampling
from rlcore.problems import UserError
from rlcore.types import Prompt

COLLECT_S = 1.0
ABORT_S = 0.8  # an engine in a long step drops the requests after it
CLOSE_S = 2.0
NUDGE_S = 60.0
Submission = tuple[str, Call, list[Task]]
Abort = tuple[list[str], threading.Event]


class RolloutStalled(UserError, RuntimeError):
    """The engines respond, but no group finished before the deadline."""


class Dispatcher:
    """See the module docstring and `WorkQueue`.

    A failed engine returns its unfinished prompts to the queue, from which other engines take them. If its restart
    fails, all calls under way raise that error. An error caused by a request ends its call only.

    Args:
        slots: samples that an engine processes at the same time.
        idle_timeout_s: time without a finished group.
    """

    def __init__(
        self, group: ActorGroup[RolloutWorker], restarts: RestartPolicy, slots: int, idle_timeout_s: float
    ) -> None:
        self._group, self._restarts, self._idle_timeout_s = group, restarts, idle_timeout_s
        self._limit_s = idle_timeout_s + 60
        self._changed = threading.Condition()
        self._work = WorkQueue(len(group), slots)
        self._aborts: list[list[Abort]] = [[] for _ in range(len(group))]
        self._starts = [restarts.starts(rank) for rank in range(len(group))]  # at which the engines' work began
        self._collecting: set[int] = set()
        self._nudged: set[int] = set()  # their `collect` is about to end
        self._calls, self._submissions = itertools.count(), itertools.count()
        self._threads: list[threading.Thread] = []
        self._closed = False

    # ---- callers' threads

    def groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[Arrival]:
        """Every prompt once, in order of completion; see `RolloutEngine.generate`.

        Raises:
            RolloutAbandoned, RolloutStalled, WorkerFailed: see there.
        """
        arrived: queue.Queue[Arrival | None] = queue.Queue()
        call, missing = self._begin(prompts, sampling, arrived.put), len(prompts)
        try:
            while missing:
                try:
                    item = arrived.get(timeout=0.5)  # short, so that signals are handled
                except queue.Empty:
                    continue
                if call.failure is not None:
                    raise call.failure
                if item is not None:
                    missing -= 1
                    yield item
        finally:
            self._end([call])
            ends_at = time.monotonic() + ABORT_S
            for dropped in call.aborts:
                dropped.wait(max(ends_at - time.monotonic(), 0.0))

    def abandon(self, why: str = "was abandoned") -> None:
        with self._changed:
            calls = list(self._work.calls)
        for call in calls:
            self._end([call], RolloutAbandoned(f"gen: a call of {len(call.prompts)} prompts {why}"))

    def close(self) -> None:
        """Ends all calls and threads. A restart under way is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.abandon("was abandoned: the engines are shut down")
        ends_at = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(ends_at - time.monotonic(), 0.0))

    def submit(self, prompt: Prompt, sampling: Sampling, engine: int = -1) -> Future[Arrival]:
        """One prompt, preferably on `engine`. Cancelling the future drops the prompt; errors are those of `groups`."""
        future: Future[Arrival] = Future()

        def deliver(item: Arrival | None) -> None:
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                if item is not None:
                    future.set_result(item)
                elif call.failure is not None:
                    future.set_exception(call.failure)

        with self._changed:
            chosen = self._work.quietest() if engine < 0 else engine
        call = self._begin([prompt], sampling, deliver, chosen)
        future.add_done_callback(lambda _: self._end([call]))
        return future

    def _begin(
        self, prompts: Sequence[Prompt], sampling: Sampling, deliver: Callable[[Arrival | None], None], engine: int = -1
    ) -> Call:
        with self._changed:
            if self._closed:
                raise RuntimeError("the rollout engines are shut down")
            call = Call(next(self._calls), prompts, sampling, time.monotonic(), deliver, engine)
            self._work.add(call)
            if not self._threads:
                for rank in range(len(self._starts)):
                    name = f"rollout-{rank}"
                    self._threads.append(threading.Thread(target=self._serve, args=(rank,), daemon=True, name=name))
                    self._threads[-1].start()
        self._wake(range(len(self._starts)))
        return call

    def _stalled(self, call: Call) -> RolloutStalled:
        missing = sum(task.call is call for task in self._work.tasks())
        return RolloutStalled(
            f"gen: no group finished for {self._idle_timeout_s:.0f} s, {missing} of {len(call.prompts)} are "
            "missing (cluster.deadlines.generate_s)"
        )

    def _end(self, calls: Iterable[Call], failure: Exception | None = None) -> None:
        """Drops calls: what waits at once, what an engine has by its collector."""
        ranks: set[int] = set()
        ended: list[Call] = []
        with self._changed:
            for call in calls:
                if call.over:
                    continue
                call.over, call.failure = True, failure
                for rank, names in self._work.drop(call).items():
                    dropped = threading.Event()
                    call.aborts.append(dropped)
                    self._aborts[rank].append((names, dropped))
                    ranks.add(rank)
                ended.append(call)
        for call in ended:
            call.deliver(None)
        if ranks:
            self._wake(ranks)

    def _wake(self, ranks: Iterable[int]) -> None:
        with self._changed:
            self._changed.notify_all()
            waiting = self._collecting.intersection(ranks) - self._nudged
            self._nudged |= waiting
        for rank in waiting:
            with contextlib.suppress(Exception):  # a dead engine: its collector finds out
                self._group.submit_one(rank, RolloutWorker.nudge, timeout_s=NUDGE_S, phase="nudge")

    # ---- collectors

    def _serve(self, rank: int) -> None:
        while (turn := self._next(rank)) is not None:
            (aborts, submissions), begun = turn, time.monotonic()
            try:
                for names, _ in aborts:
                    self._group.one(rank, RolloutWorker.abort, *names, timeout_s=self._limit_s, phase="abort")
                self._submit(rank, submissions)
                self._collect(rank, begun)
            except Exception as error:
                self._recover(rank, error)
            finally:
                for _, dropped in aborts:
                    dropped.set()

    def _next(self, rank: int) -> tuple[list[Abort], list[Submission]] | None:
        """Waits for work; None: closed."""
        with self._changed:
            while not self._closed:
                if self._starts[rank] != (starts := self._restarts.starts(rank)):  # restarted by another thread
                    self._starts[rank] = starts
                    if names := self._work.give_back(rank):
                        self._aborts[rank].append((names, threading.Event()))
                submissions = []
                for call, tasks in itertools.groupby(self._work.take(rank), key=lambda task: task.call):
                    submissions.append((f"call-{call.number}.{next(self._submissions)}", call, share := list(tasks)))
                    self._work.begin(rank, submissions[-1][0], share)
                aborts, self._aborts[rank] = self._aborts[rank], []
                if aborts or submissions or self._work.engines[rank].under_way:
                    return aborts, submissions
                self._changed.wait()
            for _, dropped in self._aborts[rank]:
                dropped.set()
            return None

    def _submit(self, rank: int, submissions: Sequence[Submission]) -> None:
        """All at once, because an engine takes requests between two steps: one after the other, each would wait."""
        sent = [(call, self._send(rank, name, call, tasks)) for name, call, tasks in submissions if not call.over]
        for call, pending in sent:
            try:
                pending.result()
            except WorkerError as error:
                if not isinstance(error.__cause__, REQUEST_ERRORS):
                    raise
                self._end([call], self._restarts.refusal(error))

    def _send(self, rank: int, name: str, call: Call, tasks: list[Task]) -> Pending[None]:
        seed = None  # but for the first prompts of a call, otherwise later ones would repeat their random numbers
        if call.sampling.seed is not None and rank not in call.seeded:
            seed = (call.sampling.seed + rank) % 2**31
        call.seeded.add(rank)
        sampling, prompts = replace(call.sampling, seed=seed), [call.prompts[task.place] for task in tasks]
        requests = [Request(t.place, p.uid, p.token_ids) for t, p in zip(tasks, prompts, strict=True)]
        limit, phase = self._limit_s, "gen"
        return self._group.submit_one(
            rank, RolloutWorker.submit, name, requests, sampling, timeout_s=limit, phase=phase
        )

    def _collect(self, rank: int, begun: float) -> None:
        with self._changed:
            engine = self._work.engines[rank]
            if not engine.under_way or engine.inbox or self._aborts[rank]:  # nothing to wait for, or more to do first
                return
            below = self._work.wants_more_at(rank)
            self._collecting.add(rank)
        try:
            collected = self._group.one(
                rank, RolloutWorker.collect, COLLECT_S, None, below, timeout_s=self._limit_s, phase="gen"
            )
        finally:
            with self._changed:
                self._collecting.discard(rank)
                self._nudged.discard(rank)
        self._route(rank, collected, time.monotonic() - begun)

    def _route(self, rank: int, collected: Collected, seconds: float) -> None:
        if collected.groups:
            self._restarts.served(rank)
        arrived: list[tuple[Task, Arrival]] = []
        with self._changed:
            now, first = time.monotonic(), len(self._work.calls)
            self._work.observe(rank, collected.unfinished, seconds)
            for finished in collected.groups:
                task = self._work.finish(rank, finished.call_id, finished.index)
                if task is not None:  # otherwise its call is over
                    arrived.append((task, Arrival(task.call.prompts[task.place], finished, rank)))
                    first = min(first, self._work.calls.index(task.call))
            if any(engine.down for engine in self._work.engines):  # a restart has a deadline of its own
                first = 0
            for call in self._work.calls[first:]:  # later calls waited for these slots
                call.heard = now
            stalled = [call for call in self._work.calls if now - call.heard > self._idle_timeout_s]
        for task, item in arrived:
            task.call.deliver(item)
        for call in stalled:
            self._end([call], self._stalled(call))

    def _recover(self, rank: int, error: Exception) -> None:
        """Returns the engine's work to the queue and restarts it, unless another thread did so."""
        engine = self._work.engines[rank]
        with self._changed:
            if self._closed:
                return
            self._work.give_back(rank)
            engine.down = True
        self._wake(range(len(self._starts)))
        try:
            if not isinstance(error, ActorError):
                raise error
            self._restarts.recover({rank: error}, {rank: self._starts[rank]})
        except Exception as failure:
            with self._changed:
                calls = list(self._work.calls)
            self._end(calls, failure)
        with self._changed:
            engine.down = False
            for call in self._work.calls:
                call.heard = time.monotonic()
