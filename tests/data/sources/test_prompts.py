"""The resumable stream of prompts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.sources.prompts import PromptStream
from rlcore.types import Prompt


def make(num: int, first: int = 0) -> list[Prompt]:
    return [Prompt(uid=f"p{i}", token_ids=(i,), text=str(i)) for i in range(first, first + num)]


def uids(prompts: list[Prompt]) -> list[str]:
    return [p.uid for p in prompts]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 15), max_size=8),
    st.lists(st.integers(0, 15), min_size=1, max_size=8),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_resumed_stream_goes_on_with_the_same_order(num, before, after, seed, shuffle):
    straight = PromptStream(make(num), seed, shuffle)
    for size in before:
        straight.take(size)
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = PromptStream(make(num), seed, shuffle)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [uids(resumed.take(n)) for n in after] == [uids(straight.take(n)) for n in after]
    assert resumed.state_dict() == straight.state_dict()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=12), st.integers(0, 99), st.booleans())
def test_epochs_are_whole_and_a_take_repeats_nothing_it_need_not(num, sizes, seed, shuffle):
    stream, taken = PromptStream(make(num), seed, shuffle), []
    for size in sizes:
        batch = uids(stream.take(size))
        assert len(batch) == size
        if size <= num:
            assert len(set(batch)) == size
        taken += batch
    for start in range(0, len(taken), num):
        epoch = taken[start : start + num]
        assert len(set(epoch)) == len(epoch)
    counts = Counter(taken)
    assert not taken or max(counts.values()) - min(counts.get(f"p{i}", 0) for i in range(num)) <= 1


def test_every_epoch_has_an_order_of_its_own():
    stream = PromptStream(make(20), seed=0)
    first, second = uids(stream.take(20)), uids(stream.take(20))
    assert first != second
    assert stream.epoch == 1
    assert first == uids(PromptStream(make(20), seed=0).take(20))
    assert first != uids(PromptStream(make(20), seed=1).take(20))


def test_without_shuffling_the_order_is_that_of_the_data():
    stream = PromptStream(make(4), seed=0, shuffle=False)
    assert uids(stream.take(3)) == ["p0", "p1", "p2"]
    # p0 and p1 would do, too: neither is in this take yet
    assert uids(stream.take(3)) == ["p3", "p0", "p1"]


def test_refuses_changed_data_and_keeps_its_place():
    state = PromptStream(make(5), seed=0).state_dict()
    for changed in (make(6), make(5, first=1), make(5)[::-1]):
        stream = PromptStream(changed, seed=0)
        stream.take(2)
        before = stream.state_dict()
        with pytest.raises(ValueError, match=f"training data changed: .* in 5 prompts, now there are {len(changed)}"):
            stream.load_state_dict(state)
        assert stream.state_dict() == before


def test_uids_are_hashed_apart():
    def named(*names: str) -> PromptStream:
        return PromptStream([Prompt(uid=n, token_ids=(1,), text="x") for n in names], seed=0)

    assert named("ab", "c").state_dict()["uids"] != named("a", "bc").state_dict()["uids"]


def test_refuses_another_seed_or_shuffle():
    state = PromptStream(make(5), seed=3).state_dict()
    with pytest.raises(ValueError, match="taken with seed=3, now it is 4"):
        PromptStream(make(5), seed=4).load_state_dict(state)
    with pytest.raises(ValueError, match="taken with shuffle=True, now it is False"):
        PromptStream(make(5), seed=3, shuffle=False).load_state_dict(state)


def test_refuses_no_prompts_twins_and_negative_takes():
    with pytest.raises(ValueError, match="no prompts"):
        PromptStream([], seed=0)
    with pytest.raises(ValueError, match="share a uid"):
        PromptStream(make(2) + make(1), seed=0)
    with pytest.raises(ValueError, match="cannot take -1"):
        PromptStream(make(2), seed=0).take(-1)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12), st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=4), max_size=8), st.integers(0, 99)
)
def test_a_step_of_several_takes_repeats_nothing_and_every_epoch_is_whole(num, steps, seed):
    stream, taken = PromptStream(make(num), seed), []
    for sizes in steps:
        step: list[str] = []
        for size in sizes:
            batch = uids(stream.take(min(size, num), without=step))
            taken += batch
            new = min(len(batch), num - len(step))  # the rest cannot but repeat
            assert set(batch[:new]).isdisjoint(step)
            assert len(set(batch)) == len(batch)
            step += batch[:new]
            resumed = PromptStream(make(num), seed)
            resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
            stream = resumed
        assert len(set(step)) == len(step)
    counts = Counter(taken)
    assert not taken or max(counts.values()) - min(counts.get(f"p{i}", 0) for i in range(num)) <= 2


def test_prompts_that_were_passed_over_come_first_in_the_next_take():
    stream = PromptStream(make(4), seed=0, shuffle=False)
    assert uids(stream.take(3)) == ["p0", "p1", "p2"]
    assert uids(stream.take(2)) == ["p3", "p0"]
    assert uids(stream.take(1, without=["p3", "p0", "p1"])) == ["p2"]  # the only other one
    assert uids(stream.take(3)) == ["p1", "p3", "p0"]


def test_a_state_of_version_0_1_is_read():
    """Its epoch had the order 2, 0, 1, 3: 0 and 1 were moved back, behind the first one; 2 was taken."""
    old = PromptStream(make(4), seed=0, shuffle=False).state_dict() | {"epoch": 1, "position": 1}
    del old["passed_over"]
    stream = PromptStream(make(4), seed=0, shuffle=False)
    stream.load_state_dict(old | {"deferred": [0, 1], "deferred_at": 1})
    assert uids(stream.take(3)) == ["p0", "p1", "p3"]
