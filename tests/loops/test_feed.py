"""The feed with a fake `collect`: order, bound, errors, and its end at any time."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.loops.feed import Feed

WAIT_S = 20.0


class Collector:
    """Notes what begins and ends; each step ends when its gate is open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.version = 0
        self.begun: list[tuple[int, int]] = []  # (step, published version then)
        self.running = self.most = 0
        self.gates: dict[int, threading.Event] = {}
        self.stopped = threading.Event()

    def gate(self, step: int) -> threading.Event:
        with self.lock:
            return self.gates.setdefault(step, threading.Event())

    def __call__(self, step: int) -> str:
        with self.lock:
            self.begun.append((step, self.version))
            self.running += 1
            self.most = max(self.most, self.running)
        gate = self.gate(step)
        while not gate.wait(0.01) and not self.stopped.is_set():
            pass
        with self.lock:
            self.running -= 1
        if self.stopped.is_set() and not gate.is_set():
            raise RuntimeError("abandoned")
        return f"samples of {step}"


def collect_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("collect-")]


def wait_for(condition) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(0, 4), steps=st.integers(1, 8), every=st.integers(1, 3), data=st.data())
def test_steps_come_in_order_and_never_too_early(depth: int, steps: int, every: int, data: st.DataObject) -> None:
    every = min(every, depth + 1)
    collector, prepared = Collector(), []
    order = data.draw(st.permutations(range(steps)))
    for step in range(steps) if depth == 0 else order[: data.draw(st.integers(0, steps))]:
        collector.gate(step).set()  # these end at once, the others when they are taken
    feed = Feed(collector, depth, steps, prepared.append)
    feed.start(0)
    for step in range(steps):
        collector.gate(step).set()
        assert feed.take(step) == f"samples of {step}"
        if (step + 1) % every == 0:
            with collector.lock:
                collector.version = step + 1
            feed.published(step + 1)
        assert len(feed.snapshot()) <= depth + 1
    feed.close()
    assert sorted(step for step, _ in collector.begun) == list(range(steps))
    assert all(version >= step - depth for step, version in collector.begun)
    assert collector.most <= depth + 1
    assert prepared == list(range(steps))
    wait_for(lambda: not collect_threads())


def test_steps_ahead_run_while_one_is_trained() -> None:
    collector = Collector()
    feed = Feed(collector, 1, 4)
    feed.start(0)
    wait_for(lambda: collector.running == 2)
    assert feed.snapshot() == [0, 1]
    collector.gate(0).set()
    feed.take(0)
    assert feed.snapshot() == [1], "step 2 waits for the weights of step 1"
    feed.published(1)
    wait_for(lambda: collector.running == 2)
    assert feed.snapshot() == [1, 2]
    for step in range(4):
        collector.gate(step).set()
    assert [feed.take(1), feed.take(2)] == ["samples of 1", "samples of 2"]
    feed.close()


def test_without_depth_the_caller_collects() -> None:
    seen = []
    feed = Feed(lambda step: seen.append(threading.current_thread()), 0, 2)
    feed.start(0)
    assert seen == []
    feed.take(0)
    assert seen == [threading.current_thread()]


def test_an_error_is_raised_in_its_turn_with_the_step() -> None:
    def collect(step: int) -> int:
        if step == 1:
            raise ValueError("no such prompt")
        return step

    feed = Feed(collect, 2, 5)
    feed.start(0)
    assert feed.take(0) == 0
    with pytest.raises(ValueError, match="no such prompt") as caught:
        feed.take(1)
    assert caught.value.__notes__ == ["raised while the samples of step 2 were collected"]
    feed.close()


def test_a_step_that_may_not_begin_yet_is_an_error_and_no_hang() -> None:
    feed = Feed(lambda step: step, 1, 5)
    feed.start(0)
    feed.take(0), feed.take(1)
    with pytest.raises(RuntimeError, match="step 3 has not begun; under way are"):
        feed.take(2)
    feed.close()
    with pytest.raises(RuntimeError, match="closed"):
        feed.take(2)


@settings(max_examples=25, deadline=None)
@given(depth=st.integers(0, 3), taken=st.integers(0, 4), delay=st.floats(0, 0.01))
def test_it_closes_at_any_time(depth: int, taken: int, delay: float) -> None:
    collector = Collector()
    feed = Feed(collector, depth, 10, abandon=collector.stopped.set)
    feed.start(0)
    for step in range(taken):
        collector.gate(step).set()
        feed.take(step)
        with collector.lock:
            collector.version = step + 1
        feed.published(step + 1)
    time.sleep(delay)
    under_way = len(feed.snapshot())
    feed.close()
    feed.close()
    feed.published(9)
    assert feed.snapshot() == []
    assert collector.stopped.is_set() == (depth > 0 and under_way > 0)
    wait_for(lambda: not collect_threads())
