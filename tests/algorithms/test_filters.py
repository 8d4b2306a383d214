from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore.algorithms.config import AlgorithmConfig, Baseline, FilterConfig, Scale
from rlcore.algorithms.policy_gradient import filter_groups
from tests.algorithms.cases import group


def test_filters_by_hand() -> None:
    groups = [
        group("mixed", [1.0, 0.0, None], cut=[1]),  # without the cut sample one score is left: no variance
        group("equal", [1.0, 1.0, 1.0]),
        group("good", [1.0, 0.0, 0.0], cut=[2]),
        group("failed", [None, None], cut=[0]),
    ]

    def kept(**filters: bool) -> tuple[dict[str, list[str]], dict[str, int]]:
        left, counts = filter_groups(groups, FilterConfig(**filters))
        return {g.prompt.uid: [t.sample_id[-1] for t in g.trajectories] for g in left}, counts

    assert kept() == (
        {"mixed": ["0", "1"], "equal": ["0", "1", "2"], "good": ["0", "1", "2"]},
        {"unscorable": 3, "overlong": 0, "truncated": 0, "zero_variance": 0, "alone": 0},
    )
    assert kept(zero_variance=True) == (
        {"mixed": ["0", "1"], "good": ["0", "1", "2"]},
        {"unscorable": 3, "overlong": 0, "truncated": 0, "zero_variance": 3, "alone": 0},
    )
    assert kept(truncated=True) == (
        {"mixed": ["0"], "equal": ["0", "1", "2"], "good": ["0", "1"]},
        {"unscorable": 3, "overlong": 0, "truncated": 2, "zero_variance": 0, "alone": 0},
    )
    assert kept(truncated=True, zero_variance=True) == (
        {"good": ["0", "1"]},
        {"unscorable": 3, "overlong": 0, "truncated": 2, "zero_variance": 4, "alone": 0},
    )
    assert [len(g.trajectories) for g in groups] == [3, 3, 3, 2]  # the given groups are as they were


def test_a_sample_with_nothing_to_compare_it_to_is_dropped_on_request() -> None:
    groups = [group("cut", [1.0, 0.0], cut=[1]), group("failed", [1.0, None]), group("two", [1.0, 1.0])]
    left, counts = filter_groups(groups, FilterConfig(truncated=True), alone=False)
    assert [g.prompt.uid for g in left] == ["two"]
    assert counts == {"unscorable": 1, "overlong": 0, "truncated": 1, "zero_variance": 0, "alone": 2}


@pytest.mark.parametrize(
    ("settings", "useful"),
    [
        ({}, False),
        ({"baseline": Baseline.leave_one_out, "scale": Scale.none}, False),
        ({"baseline": Baseline.none, "scale": Scale.none}, True),
        ({"baseline": Baseline.none}, False),  # the deviation of one sample
        ({"advantage": "returns"}, True),
        ({"advantage": "nash_md"}, False),
        ({"kl_coef": 0.1}, True),
        ({"entropy_coef": 0.1}, True),
    ],
)
def test_what_one_sample_of_a_prompt_can_teach(settings: dict[str, Any], useful: bool) -> None:
    assert AlgorithmConfig(**settings).learns_from_one_sample == useful


SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), max_size=5)


@given(st.lists(st.tuples(SCORES, st.sets(st.integers(0, 4))), max_size=5), st.booleans(), st.booleans(), st.booleans())
def test_no_sample_is_lost(
    drawn: list[tuple[list[float | None], set[int]]], zero_variance: bool, truncated: bool, alone: bool
) -> None:
    groups = [group(str(i), scores, sorted(cut)) for i, (scores, cut) in enumerate(drawn)]
    kept, counts = filter_groups(groups, FilterConfig(zero_variance, truncated), alone)
    samples = [t for g in kept for t in g.trajectories]
    assert sum(len(g.trajectories) for g in groups) == len(samples) + sum(counts.values())
    if zero_variance:  # what is left has something to learn in every group
        assert all(len({t.reward.score for t in g.trajectories if t.reward}) > 1 for g in kept)
