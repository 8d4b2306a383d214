"""Which engine gets which prompt."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.generation.work_queue import Call, Task, WorkQueue
from rlcore.interfaces import Sampling
from rlcore.types import Prompt


def call_of(number: int, count: int, samples: int = 1) -> Call:
    prompts = [Prompt(uid=f"{number}.{i}", token_ids=(1,), text="") for i in range(count)]
    return Call(number, prompts, Sampling(samples, 4), 0.0, lambda _: None)


def taken(queue: WorkQueue, rank: int) -> list[tuple[int, int]]:
    tasks = queue.take(rank)
    for task in tasks:
        queue.begin(rank, f"call-{task.number}", [task])
    return [(task.number, task.place) for task in tasks]


def test_a_call_that_fits_is_dealt_in_turn() -> None:
    queue = WorkQueue(engines=3, slots=8)
    queue.add(call_of(0, 8, samples=4))
    assert [taken(queue, rank) for rank in (2, 0, 1)] == [
        [(0, 2), (0, 5)], [(0, 0), (0, 3), (0, 6)], [(0, 1), (0, 4), (0, 7)],
    ]  # fmt: skip
    assert not queue.waiting


def test_beyond_slots_and_one_waiting_group_prompts_wait_for_any_engine() -> None:
    queue = WorkQueue(engines=2, slots=8)
    queue.add(call_of(0, 9, samples=4))
    assert [taken(queue, rank) for rank in (0, 1)] == [[(0, 0), (0, 2), (0, 4)], [(0, 1), (0, 3), (0, 5)]]
    assert (queue.wants_more_at(0), taken(queue, 0)) == (8, [])
    queue.observe(1, unfinished=8, seconds=9.0)
    assert taken(queue, 1) == [(0, 6)]
    queue.observe(0, unfinished=3, seconds=9.0)
    assert taken(queue, 0) == [(0, 7), (0, 8)]
    assert queue.wants_more_at(0) == -1


def test_a_single_idle_engine_gets_a_whole_call() -> None:
    queue = WorkQueue(engines=1, slots=8)
    queue.add(call_of(0, 20, samples=4))
    queue.add(call_of(1, 20, samples=4))
    assert taken(queue, 0) == [(0, i) for i in range(20)]
    queue.observe(0, unfinished=5, seconds=1e9)
    assert taken(queue, 0) == [(1, 0)]  # stragglers keep their slots


def test_stragglers_keep_their_slots_and_the_next_call_fills_the_rest() -> None:
    queue = WorkQueue(engines=2, slots=4)
    queue.add(call_of(0, 4))
    taken(queue, 0), taken(queue, 1)
    queue.add(call_of(1, 12))
    assert taken(queue, 0) == [(1, 0), (1, 2), (1, 4)]  # two slots and one that waits
    assert taken(queue, 1) == [(1, 1), (1, 3), (1, 5)]
    queue.add(call_of(2, 1))
    queue.observe(1, unfinished=0, seconds=1e9)
    assert taken(queue, 1) == [(1, i) for i in (6, 7, 8, 9, 10)]  # calls in order


def test_a_fast_engine_gets_more_in_advance() -> None:
    queue = WorkQueue(engines=2, slots=4)
    queue.add(call_of(0, 5))
    queue.add(call_of(1, 500))
    taken(queue, 0)
    queue.observe(0, unfinished=0, seconds=0.005)  # 5 samples, averaged with 0: 500 per second
    assert len(taken(queue, 0)) == 4 + 2 * 25 + 1
    assert queue.wants_more_at(0) == 4 + 25


def test_lost_work_returns_to_its_place() -> None:
    queue = WorkQueue(engines=2, slots=2)
    queue.add(call_of(0, 4))
    queue.add(call_of(1, 4))
    assert (taken(queue, 0), taken(queue, 1)) == ([(0, 0), (0, 2), (1, 0)], [(0, 1), (0, 3), (1, 1)])
    assert queue.finish(0, "call-0", 2) is not None
    queue.engines[0].down = True
    assert queue.give_back(0) == ["call-0", "call-1"]
    assert [task[:2] for task in queue.waiting] == [(0, 0), (1, 0), (1, 2), (1, 3)]
    assert taken(queue, 0) == []
    queue.observe(1, unfinished=1, seconds=1e9)
    assert taken(queue, 1) == [(0, 0), (1, 0)]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_every_prompt_is_in_one_place(engines: int, slots: int, samples: int, seed: int) -> None:
    """Random calls, turns, failures and drops: no task is lost or twice, and the oldest prompts go first."""
    rng, queue, done = random.Random(seed), WorkQueue(engines, slots), set[tuple[int, int]]()
    calls: list[Call] = []
    for turn in range(60):
        rank = rng.randrange(engines)
        engine = queue.engines[rank]
        match rng.choice(["add", "take", "take", "finish", "finish", "give back", "drop"]):
            case "add":
                calls.append(call_of(len(calls), rng.randrange(1, 12), samples))
                queue.add(calls[-1])
            case "take":
                waiting = list(queue.waiting)
                tasks = queue.take(rank)
                for task in tasks:
                    queue.begin(rank, f"{task.number}.{turn}", [task])
                assert list(queue.waiting) == waiting[len(waiting) - len(queue.waiting) :]
                assert engines == 1 or engine.samples <= slots + samples
            case "finish" if engine.under_way:
                name, index = rng.choice(sorted(engine.under_way))
                task = queue.finish(rank, name, index)
                assert task is not None
                assert task[:2] not in done
                done.add(task[:2])
                queue.observe(rank, samples * len(engine.under_way), 1e9)
            case "give back":
                queue.give_back(rank)
            case "drop" if queue.calls and rng.random() < 0.2:
                queue.drop(rng.choice(queue.calls))
        held: list[Task] = [*queue.waiting]
        for e in queue.engines:
            held += [*e.inbox, *e.under_way.values()]
        alive = {(call.number, i) for call in queue.calls for i in range(len(call.prompts))}
        assert sorted(task[:2] for task in held) == sorted(alive - done)
        assert list(queue.waiting) == sorted(queue.waiting, key=lambda task: task[:2])


def test_a_continued_prompt_goes_to_its_engine_if_that_has_room():
    queue = WorkQueue(2, 4)
    calls = [call_of(number, 1, samples=1) for number in range(8)]
    for call in calls:
        call.engine = 1
        queue.add(call)
    assert [task.call for task in queue.take(1)] == calls[:5]  # its slots, and one group that waits
    queue.begin(1, "s", [])
    assert [task.call for task in queue.take(0)] == calls[5:]  # another engine takes the rest
