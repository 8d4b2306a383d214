"""Prompts of steps that overlap, and of steps that run again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.sources.prompts import PromptStream
from rlcore.loops.step_prompts import StepPrompts
from tests.fakes import prompts

NUM = 40


def source() -> PromptStream:
    return PromptStream(prompts(NUM), seed=3)


def uids(found) -> list[str]:
    return [prompt.uid for prompt in found]


def again(state) -> StepPrompts:
    other = StepPrompts(source())
    other.load_state_dict(**state)
    return other


def test_one_step_at_a_time_takes_what_the_source_gives() -> None:
    plain, steps = source(), StepPrompts(source())
    for step in range(20):
        first = plain.take(4)
        steps.reserve(step, 4)
        assert uids(steps.take(step, 4)) == uids(first)
        more = plain.take(2, without=uids(first))
        assert uids(steps.take(step, 2, without=uids(first))) == uids(more)
        steps.trained(step)
        assert steps.state_dict() == {"prompts": plain.state_dict(), "taken": {}, "returned": []}


def test_a_step_that_runs_again_gets_its_prompts_again() -> None:
    steps = StepPrompts(source())
    steps.reserve(0, 4), steps.reserve(1, 4)
    one = uids(steps.take(1, 4)) + uids(steps.take(1, 2))
    none = uids(steps.take(0, 4)) + uids(steps.take(0, 1))
    state = steps.state_dict()
    assert state["taken"] == {"0": none, "1": one}
    other = again(state)
    for step, had in ((0, none), (1, one)):
        other.reserve(step, 4)
        assert uids(other.take(step, 4)) + uids(other.take(step, len(had) - 4)) == had
    assert uids(other.take(1, 3)) == uids(steps.take(1, 3)), "the source goes on where it was"


def test_what_a_step_does_not_need_again_goes_to_the_next_take() -> None:
    steps = StepPrompts(source())
    steps.reserve(0, 4)
    first, more = uids(steps.take(0, 4)), uids(steps.take(0, 3))
    other = again(steps.state_dict())
    other.reserve(0, 4)
    assert uids(other.take(0, 4)) == first
    other.trained(0)
    assert other.state_dict()["returned"] == more
    other = again(other.state_dict())
    assert uids(other.take(1, 2, without=more[:1])) == more[1:]
    assert uids(other.take(1, 1)) == more[:1]


def test_other_data_is_refused() -> None:
    state = StepPrompts(source()).state_dict()
    with pytest.raises(ValueError, match="the training data changed"):
        StepPrompts(PromptStream(prompts(3), seed=3)).load_state_dict(**state)


ACTIONS = st.tuples(st.sampled_from(["begin", "refill", "train", "kill"]), st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_one_epoch_is_trained_once_whatever_happens(actions: list[tuple[str, int]]) -> None:
    """Steps overlap, refill, are killed and run again; each prompt that left the source is trained once or waits."""
    steps, trained, step = StepPrompts(source()), Counter[str](), 0
    taken: dict[int, list[str]] = {}
    for what, which in actions:
        left_source = steps.state_dict()["prompts"]["position"]
        if what == "begin" and len(taken) < 3 and left_source < NUM - 2:
            begun = step + len(taken)
            steps.reserve(begun, 2)
            taken[begun] = uids(steps.take(begun, 2))
        elif what == "refill" and step + which in taken and left_source < NUM - 2:
            taken[step + which] += uids(steps.take(step + which, 2, without=taken[step + which]))
        elif what == "train" and taken:
            trained.update(taken.pop(step))
            steps.trained(step)
            step += 1
        elif what == "kill":
            steps, taken = again(steps.state_dict()), {}
    state = steps.state_dict()
    left = [uid for had in state["taken"].values() for uid in had] + state["returned"]
    assert max(trained.values(), default=1) == 1
    assert not set(left) & set(trained)
    assert len(left) == len(set(left))
    assert len(left) + len(trained) == state["prompts"]["position"], "nothing of what left the source is lost"
