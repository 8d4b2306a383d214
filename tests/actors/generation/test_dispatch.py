"""Several calls at once over engines of this process, which fail, hang and refuse as a test wants."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.generation.dispatch import Dispatcher, RolloutStalled
from actors.generation.handle import RolloutHandle
from actors.generation.rollout import Collected, Finished, Request, Sample
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorDied
from actors.placement.restarts import RestartPolicy, WorkerFailed
from rlcore import metrics as M
from rlcore.interfaces import RolloutAbandoned, Sampling
from rlcore.types import Prompt
from tests.actors.weights.test_handle import INFO, Pool

SAMPLE = Sample(np.array([7], dtype=np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), "stop", "7")
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=4)  # prompts of calls


def prompts(name: str, count: int) -> list[Prompt]:
    return [Prompt(uid=f"{name}{i}", token_ids=(i + 1,), text=str(i)) for i in range(count)]


class Engine:
    """Runs `slots` groups of one sample each, the oldest first; finishes one group a millisecond while `open`."""

    def __init__(self, slots: int = 2) -> None:
        self.slots, self.open, self.dead, self.nudged = slots, threading.Event(), False, False
        self.groups: dict[tuple[str, int], str] = {}  # -> uid
        self.submitted: list[list[str]] = []
        self.seeds: list[int | None] = []
        self.aborted: list[str] = []
        self.answered = 0
        self.dies_after: int | None = None
        self.failing: Exception | None = None  # raised by `submit`
        self.spent = (1.0, 3.0)
        self.open.set()
        self.changed = threading.Condition()

    def alive(self) -> None:
        if self.dead or (self.dies_after is not None and self.answered >= self.dies_after):
            self.dead = True
            raise ActorDied("it died", INFO, "gen", 0.0, "")

    def submit(self, name: str, requests: Sequence[Request], sampling: Sampling) -> None:
        with self.changed:
            self.alive()
            if self.failing is not None:
                raise self.failing
            for request in requests:
                if request.uid.startswith("long"):
                    raise ValueError(f"prompt {request.uid!r} has 300 tokens: raise rollout.max_model_len")
            assert not {(name, r.index) for r in requests} & self.groups.keys()
            self.groups |= {(name, request.index): request.uid for request in requests}
            self.submitted.append([request.uid for request in requests])
            self.seeds.append(sampling.seed)

    def collect(self, timeout_s: float, call_id: str | None, below: int) -> Collected:
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at:
            time.sleep(0.001)
            with self.changed:
                self.alive()
                if self.nudged or len(self.groups) <= below:
                    break
                if self.groups and self.open.is_set():
                    (name, index) = key = next(iter(self.groups))
                    del self.groups[key]
                    self.answered += 1
                    return Collected([Finished(name, index, [SAMPLE])], len(self.groups))
        self.nudged = False
        return Collected([], len(self.groups))

    def nudge(self) -> None:
        self.nudged = True

    def abort(self, *names: str) -> None:
        with self.changed:
            self.alive()
            self.aborted += names
            self.groups = {key: uid for key, uid in self.groups.items() if key[0] not in names}

    def seconds(self) -> tuple[float, float]:
        self.alive()
        return self.spent


class Rig:
    def __init__(self, engines: int = 2, slots: int = 2, idle_timeout_s: float = 20.0, max_restarts: int = 3) -> None:
        self.engines = [Engine(slots) for _ in range(engines)]
        self.pool: Any = Pool(*self.engines)
        self.slots, self.restarted = slots, list[int]()
        self.may_restart = threading.Event()
        self.may_restart.set()
        self.restart_fails: Exception | None = None
        self.restarts = RestartPolicy(self.pool, self.restart, max_restarts, "max_restarts", lambda text: None)
        self.dispatcher = Dispatcher(self.pool, self.restarts, slots, idle_timeout_s)
        self.callers = ThreadPoolExecutor(8)

    def restart(self, ranks: Sequence[int]) -> None:
        assert self.may_restart.wait(20)
        if self.restart_fails is not None:
            raise self.restart_fails
        self.restarted += ranks
        for rank in ranks:
            self.engines[rank] = self.pool.workers[rank] = Engine(self.slots)

    def call(self, name: str, count: int, seed: int | None = None) -> Future[list[str]]:
        """uid@engine of each arrival."""
        return self.callers.submit(lambda: list(self.arrivals(name, count, seed)))

    def arrivals(self, name: str, count: int, seed: int | None = None) -> Iterator[str]:
        for prompt, _, rank in self.dispatcher.groups(prompts(name, count), Sampling(1, 4, seed=seed)):
            yield f"{prompt.uid}@{rank}"

    def close_engines(self) -> None:
        for engine in self.engines:
            engine.open.clear()

    def open_engines(self) -> None:
        for engine in self.engines:
            engine.open.set()


@contextmanager
def rig_of(*args: Any, **options: Any) -> Iterator[Rig]:
    rig = Rig(*args, **options)
    try:
        yield rig
    finally:
        rig.may_restart.set()
        rig.dispatcher.close()
        rig.callers.shutdown()
        assert not [thread for thread in rig.dispatcher._threads if thread.is_alive()]


def until(condition: Callable[[], object]) -> None:
    ends_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.002)


def uids(found: Future[list[str]]) -> list[str]:
    return sorted(item.partition("@")[0] for item in found.result(20))


def names(name: str, count: int) -> list[str]:
    return sorted(f"{name}{i}" for i in range(count))


def test_a_single_engine_gets_a_call_in_one_piece() -> None:
    with rig_of(engines=1) as rig:
        assert uids(rig.call("a", 9, seed=5)) == names("a", 9)
        assert rig.engines[0].submitted == [[f"a{i}" for i in range(9)]]
        assert rig.engines[0].seeds == [5]


def test_what_fits_is_dealt_in_turn_with_a_seed_per_engine() -> None:
    with rig_of(engines=2) as rig:
        for _ in range(3):
            assert uids(rig.call("a", 5, seed=5)) == names("a", 5)
        assert rig.engines[0].submitted == [["a0", "a2", "a4"]] * 3
        assert rig.engines[1].submitted == [["a1", "a3"]] * 3
        assert [engine.seeds for engine in rig.engines] == [[5] * 3, [6] * 3]


def test_an_engine_is_seeded_once_per_call() -> None:
    with rig_of(engines=2, slots=1) as rig:
        assert uids(rig.call("a", 400, seed=5)) == names("a", 400)
        for rank, engine in enumerate(rig.engines):
            assert engine.seeds == [5 + rank] + [None] * (len(engine.submitted) - 1)
        assert sum(len(engine.submitted) for engine in rig.engines) > 2


def test_two_calls_at_once_get_their_own_groups() -> None:
    with rig_of() as rig:
        rig.close_engines()
        first = rig.call("a", 20)
        until(lambda: all(engine.groups for engine in rig.engines))
        second = rig.call("b", 20)
        rig.open_engines()
        assert (uids(first), uids(second)) == (names("a", 20), names("b", 20))
        order = [uid for engine in rig.engines for submitted in engine.submitted for uid in submitted]
        assert sorted(order) == sorted(names("a", 20) + names("b", 20))


def test_a_later_call_fills_the_slots_that_stragglers_leave() -> None:
    with rig_of(engines=1, slots=4) as rig:
        engine = rig.engines[0]
        engine.open.clear()
        first = rig.call("a", 3)
        until(lambda: engine.submitted)
        begun = time.monotonic()
        second = rig.call("b", 9)
        until(lambda: len(engine.groups) == 5)  # four slots and one that waits
        assert time.monotonic() - begun < 0.5  # the collector was waiting in `collect`
        assert engine.submitted[1] == ["b0", "b1"]
        engine.open.set()
        assert (uids(first), uids(second)) == (names("a", 3), names("b", 9))


def test_a_call_that_begins_during_a_submission_does_not_wait_for_a_group() -> None:
    with rig_of(engines=2, slots=4) as rig:
        engine, begun, may_end = rig.engines[0], threading.Event(), threading.Event()
        submit = engine.submit

        def slow(*args: Any) -> None:
            begun.set()
            assert may_end.wait(10)
            submit(*args)

        engine.submit = slow  # type: ignore[method-assign]
        rig.close_engines()
        first = rig.call("a", 2)
        assert begun.wait(10)
        second = rig.call("b", 2)
        until(lambda: len(rig.dispatcher._work.calls) == 2)
        may_end.set()
        since = time.monotonic()
        until(lambda: len(engine.submitted) == 2)
        assert time.monotonic() - since < 0.5
        rig.open_engines()
        assert (uids(first), uids(second)) == (names("a", 2), names("b", 2))


def test_a_free_engine_takes_the_next_prompt() -> None:
    with rig_of(engines=2, slots=2) as rig:
        rig.engines[0].open.clear()
        found = rig.call("a", 30)
        until(lambda: sum(map(len, rig.engines[1].submitted)) == 27)
        rig.engines[0].open.set()
        assert uids(found) == names("a", 30)
        assert rig.engines[0].submitted == [["a0", "a2", "a4"]]


def test_prompts_of_a_dead_engine_are_served_by_the_others_while_it_restarts() -> None:
    with rig_of(engines=2, slots=4) as rig:
        rig.may_restart.clear()
        rig.engines[0].dies_after = 2
        first, second = rig.call("a", 8), rig.call("b", 8)
        for name, found in {"a": first, "b": second}.items():
            assert uids(found) == names(name, 8)
            assert sum(item.endswith("@0") for item in found.result()) <= 2
        assert rig.restarted == []
        rig.may_restart.set()
        until(lambda: rig.restarted == [0])
        until(lambda: not rig.dispatcher._work.engines[0].down)
        assert {item[-1] for item in rig.call("c", 8).result(20)} == {"0", "1"}


def test_a_single_engine_that_dies_gets_its_prompts_again() -> None:
    with rig_of(engines=1) as rig:
        rig.engines[0].dies_after = 3
        assert uids(rig.call("a", 7)) == names("a", 7)
        assert rig.restarted == [0]
        assert rig.engines[0].submitted == [[f"a{i}" for i in range(3, 7)]]


def test_a_failed_restart_ends_all_calls() -> None:
    with rig_of(engines=2) as rig:
        rig.close_engines()
        calls = [rig.call("a", 9), rig.call("b", 9)]
        until(lambda: len(rig.dispatcher._work.calls) == 2)
        rig.restart_fails = WorkerFailed("it cannot be restarted")
        rig.engines[1].dead = True
        for call in calls:
            with pytest.raises(WorkerFailed, match="cannot be restarted"):
                call.result(20)
        assert not rig.engines[0].groups  # dropped
        rig.restart_fails = None
        rig.open_engines()
        assert uids(rig.call("c", 9)) == names("c", 9)  # another restart succeeds


def test_an_engine_that_keeps_failing_ends_the_calls() -> None:
    with rig_of(engines=1, max_restarts=2) as rig:
        restart = rig.restart

        def restart_broken(ranks: Sequence[int]) -> None:
            restart(ranks)
            rig.engines[0].dies_after = 0

        rig.restarts.restart = restart_broken
        rig.engines[0].dies_after = 1
        with pytest.raises(WorkerFailed, match="failed 3 times"):
            rig.call("a", 5).result(20)


def test_a_bad_prompt_ends_its_call_alone() -> None:
    with rig_of(engines=2) as rig:
        rig.close_engines()
        good = rig.call("good", 30)
        until(lambda: all(engine.groups for engine in rig.engines))
        bad = rig.call("long", 3)
        rig.open_engines()
        with pytest.raises(WorkerFailed, match=r"^rollout\[\d\] cannot serve .* prompt 'long\d' .*max_model_len$"):
            bad.result(20)
        assert uids(good) == names("good", 30)
        assert rig.restarted == []


def test_abandoned_calls_end_at_once_and_later_ones_work() -> None:
    with rig_of(engines=2) as rig:
        rig.close_engines()
        calls = [rig.call("a", 9), rig.call("b", 2)]
        until(lambda: all(engine.groups for engine in rig.engines))
        until(lambda: len(rig.dispatcher._work.calls) == 2)
        begun = time.monotonic()
        rig.dispatcher.abandon()
        for call in calls:
            with pytest.raises(RolloutAbandoned, match=r"a call of \d prompts was abandoned"):
                call.result(5)
        assert time.monotonic() - begun < 1.0
        assert not any(engine.groups for engine in rig.engines)
        rig.open_engines()
        assert uids(rig.call("c", 9)) == names("c", 9)
        assert all(call.over for call in rig.dispatcher._work.calls) or not rig.dispatcher._work.calls


def test_a_caller_that_stops_early_drops_its_own_call() -> None:
    with rig_of(engines=2, slots=8) as rig:
        other = rig.call("a", 40)
        arrivals = rig.arrivals("b", 40)
        next(arrivals)
        arrivals.close()  # type: ignore[attr-defined]
        assert not [uid for engine in rig.engines for uid in engine.groups.values() if uid.startswith("b")]
        assert uids(other) == names("a", 40)


def test_a_hung_engine_does_not_keep_a_caller_that_stops() -> None:
    with rig_of(engines=1) as rig:
        engine, held = rig.engines[0], threading.Event()
        collect = engine.collect

        def hang(*args: Any) -> Collected:
            held.wait(20)
            return collect(*args)

        engine.collect = hang  # type: ignore[method-assign]
        found = rig.call("a", 3)
        until(lambda: engine.groups)
        begun = time.monotonic()
        rig.dispatcher.abandon()
        with pytest.raises(RolloutAbandoned):
            found.result(5)
        assert time.monotonic() - begun < 1.5
        held.set()
        until(lambda: not engine.groups)


def test_a_call_is_stalled_when_neither_it_nor_an_earlier_one_gets_groups() -> None:
    with rig_of(engines=1, slots=1, idle_timeout_s=0.7) as rig:
        engine = rig.engines[0]
        collect = engine.collect

        def slow(*args: Any) -> Collected:  # a group takes 0.25 s
            time.sleep(0.25)
            return collect(*args)

        engine.collect = slow  # type: ignore[method-assign]
        first = rig.call("a", 5)
        until(lambda: engine.submitted)
        second = rig.call("b", 1)  # waits longer than 0.7 s
        assert uids(first) == names("a", 5)
        assert uids(second) == names("b", 1)
        engine.open.clear()
        with pytest.raises(RolloutStalled, match=r"no group finished for 1 s, 2 of 2 are missing \(cluster"):
            rig.call("c", 2).result(20)


def test_a_restart_by_another_thread_loses_no_prompt() -> None:
    """As in `publish`, between two calls of the collector: the new process knows nothing of the old one's requests."""
    with rig_of(engines=2) as rig:
        rig.close_engines()
        found = rig.call("a", 4)
        until(lambda: all(engine.groups for engine in rig.engines))
        rig.restarts.recover({0: "died while it received weights"})
        rig.open_engines()
        assert uids(found) == names("a", 4)
        assert rig.restarted == [0]


def test_close_ends_calls_and_threads() -> None:
    with rig_of(engines=2) as rig:
        rig.close_engines()
        found = rig.call("a", 4)
        until(lambda: all(engine.groups for engine in rig.engines))
        rig.dispatcher.close()
        with pytest.raises(RolloutAbandoned, match="shut down"):
            found.result(5)
        with pytest.raises(RuntimeError, match="shut down"):
            rig.call("b", 1).result(5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), COUNTS, st.integers(0, 2**32))
def test_each_prompt_is_answered_once_whatever_fails(engines: int, slots: int, counts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    with rig_of(engines, slots, max_restarts=99) as rig:
        for engine in rig.engines:
            engine.dies_after = rng.choice([None, rng.randrange(6)])
        calls = {f"{name}-": rig.call(f"{name}-", count) for name, count in zip("abcd", counts, strict=False)}
        bad = rig.call("long", 2) if rng.random() < 0.3 else None
        if rng.random() < 0.5:
            rig.restarts.recover({rng.randrange(engines): "died while it received weights"})
        for (name, found), count in zip(calls.items(), counts, strict=True):
            assert uids(found) == names(name, count)
        if bad is not None:
            with pytest.raises(WorkerFailed, match="prompt 'long"):
                bad.result(20)
        work = rig.dispatcher._work
        until(lambda: not (work.calls or work.waiting or any(e.under_way or e.inbox for e in work.engines)))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), COUNTS, st.integers(0, 2**32))
def test_it_can_be_closed_at_any_time(engines: int, counts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    with rig_of(engines) as rig:
        calls = [rig.call(f"{i}-", count) for i, count in enumerate(counts)]
        time.sleep(rng.random() * 0.02)
        rig.dispatcher.close()
        for i, (call, count) in enumerate(zip(calls, counts, strict=True)):
            failure = call.exception(20)
            if failure is None:
                assert uids(call) == names(f"{i}-", count)
            else:
                assert "shut down" in str(failure)


def test_engine_seconds_since_the_last_call() -> None:
    rig = Rig(engines=3)
    handle = RolloutHandle(rig.pool, GpuSharing(rig.pool, 0, 1.0), 5.0, rig.restarts, 2)
    assert M.values(handle.metrics()) == {"wait/engine_idle_s": 1.0, "wait/engine_idle_share": 0.25}
    rig.engines[0].spent, rig.engines[1].spent, rig.engines[2].dead = (2.0, 12.0), (4.0, 10.0), True
    assert M.values(handle.metrics()) == {"wait/engine_idle_s": 2.0, "wait/engine_idle_share": 0.2}
    rig.restart([2])
    rig.engines[2].spent = (0.5, 0.5)
    assert M.values(handle.metrics()) == {"wait/engine_idle_s": pytest.approx(0.5 / 3), "wait/engine_idle_share": 0.5}
    for engine in rig.engines:
        engine.dead = True
    assert handle.metrics() == {}
    handle.close()
