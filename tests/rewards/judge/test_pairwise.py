"""Comparisons in both orders, and win rates."""

import numpy as np
import pytest

from rlcore import metrics
from rlcore.rewards.judge.config import (
    JudgeReading,
)  # fmt: skip
from rlcore.rewards.judge.pairwise import PairwiseJudge, comparison_of, pairs_of, position_bias
from rlcore.rewards.judge.prompts import Comparison, Reply
from rlcore.types import Pair, Prompt, Sample
from tests.rewards.judge.cases import Scripted, config, longer, sides


def test_a_fair_judge_names_the_better_in_both_orders():
    judge = PairwiseJudge(Scripted(longer), config())
    verdicts = judge.compare([Comparison("p", "long", "s"), Comparison("p", "s", "long"), Comparison("p", "ab", "cd")])
    assert [v.preference for v in verdicts] == [1.0, 0.0, 0.5]
    assert not any(v.flipped for v in verdicts)


def test_a_judge_that_likes_the_first_place_makes_ties_and_shows_in_the_metrics():
    verdicts = PairwiseJudge(Scripted(lambda talk: "[[A]]"), config()).compare([Comparison("p", "x", "y")] * 4)
    assert [(v.preference, v.flipped) for v in verdicts] == [(0.5, True)] * 4
    shown = metrics.values(position_bias(verdicts))
    assert shown == {"judge/flip_share": 1.0, "judge/tie_share": 1.0, "judge/first_share": 1.0,
                     "judge/failed_share": 0.0}  # fmt: skip


def test_equal_responses_tie_unasked():
    scripted = Scripted(longer)
    assert PairwiseJudge(scripted, config()).compare([Comparison("p", "x", "x")])[0].preference == 0.5
    assert sum(len(prompts) for prompts, *_ in scripted.calls) == 0


def test_choices_average_over_both_orders_and_are_symmetric():
    def answer(talk):
        return Reply("A", logprobs=tuple(np.log([0.9, 0.1] if sides(talk)[0] == "x" else [0.6, 0.4])))

    judge = PairwiseJudge(Scripted(answer), config(how=JudgeReading.choice))
    one, other = judge.compare([Comparison("p", "x", "y"), Comparison("p", "y", "x")])
    assert one.preference == pytest.approx((0.9 + 0.4) / 2)
    assert one.preference + other.preference == pytest.approx(1.0)
    assert one.flipped
    assert other.flipped


def test_preferences_of_pairs():
    prompt = Prompt("u", (1,), "q")
    pair = Pair(prompt, Sample(prompt, "a", "s", (1,)), Sample(prompt, "b", "long", (1,)))
    assert comparison_of(pair, config()) == Comparison("q", "s", "long")
    assert PairwiseJudge(Scripted(longer), config()).preferences([pair]) == [0.0]
    assert PairwiseJudge(Scripted(lambda t: "?"), config()).preferences([pair]) == [None]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8])
def test_pairs_are_all_of_them_and_spread_evenly_when_capped(count):
    every = pairs_of(count, 10**6)
    assert {frozenset(p) for p in every} == {frozenset((i, j)) for i in range(count) for j in range(i)}
    assert len(every) == count * (count - 1) // 2
    if count > 2:
        assert {sum(i in p for p in pairs_of(count, count)) for i in range(count)} == {2}
