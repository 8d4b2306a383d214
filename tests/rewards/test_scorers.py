"""Scorers of a reward model and of a judge, and the assignment of terms."""

import threading
import time

import numpy as np
import pytest

from rlcore import metrics
from rlcore.rewards.config import RewardConfig, RewardTermConfig
from rlcore.rewards.judge.config import (
    JudgeAgainst,
    JudgeMode,
)  # fmt: skip
from rlcore.rewards.judge.prompts import Reply
from rlcore.rewards.registry import RewardError
from rlcore.rewards.scorers import Batcher, JudgeScorer, ScorerLate, Terms, verifier_config
from rlcore.types import Prompt, Status
from tests.rewards.judge.cases import Scripted, Verifiers, composed, config, group, longer, reward_model, scored, sides


def test_win_rates_within_a_group():
    scorer = JudgeScorer(Scripted(longer), config(mode=JudgeMode.pairwise))
    [results, alone] = scored(scorer, group(["a", "bbb", "cc"]), group(["x"]))
    assert [r.score for r in results] == [0.0, 1.0, 0.5]
    assert results[0].parts == {"flips": 0.0}
    assert alone[0].status is Status.UNPARSABLE
    assert "two samples" in alone[0].info["error"]
    assert metrics.values(scorer.metrics())["judge/flip_share"] == 0.0
    assert scorer.metrics() == {}
    scorer.close()


def test_against_the_reference():
    scorer = JudgeScorer(Scripted(longer), config(mode=JudgeMode.pairwise, against=JudgeAgainst.reference))
    [results, without] = scored(scorer, group(["a", "bbb", "cccccc"]), group(["x"], reference=None))
    assert [r.score for r in results] == [0.0, 0.5, 1.0]
    assert "no reference" in without[0].info["error"]
    scorer.close()


def test_samples_whose_comparisons_failed_have_a_status():
    def answer(talk):
        return Reply(status=Status.ERROR, error="HTTP 500") if "x" in sides(talk) else longer(talk)

    scorer = JudgeScorer(Scripted(answer), config(mode=JudgeMode.pairwise))
    [results] = scored(scorer, group(["aaa", "x", "bb"]))
    assert [(r.status, r.score) for r in results] == [(Status.OK, 1.0), (Status.ERROR, 0.0), (Status.OK, 0.0)]
    assert "HTTP 500" in results[1].info["error"]
    assert results[0].info["not_judged"] == 1
    scorer.close()


def test_groups_travel_together_while_a_call_is_under_way():
    begun, go, sizes = threading.Event(), threading.Event(), []

    def call(items):
        begun.set()
        assert go.wait(30)
        sizes.append(len(items))
        return items

    batcher = Batcher("b", call, lambda items: 60.0)
    first = batcher.submit(1)
    assert begun.wait(30)
    rest = [batcher.submit(i) for i in range(5)]
    go.set()
    assert [f.result(30) for f in (first, *rest)] == [1, 0, 1, 2, 3, 4]
    assert sizes[:2] == [1, 5]
    batcher.close()


def test_errors_and_deadlines_reach_every_future():
    def broken(items):
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"):
        Batcher("b", broken, lambda items: 60.0).submit(1).result(30)
    hold = threading.Event()
    late = Batcher("the reward model", lambda items: hold.wait(30) and items, lambda items: 0.2)
    futures = [late.submit(0)]
    time.sleep(0.05)
    futures += [late.submit(i) for i in range(3)]
    for future in futures:
        with pytest.raises(ScorerLate, match="no answer of the reward model after 0 s"):
            future.result(30)
    with pytest.raises(ScorerLate):
        late.submit(9).result(30)
    hold.set()


def test_reward_model_scores_and_refuses_what_is_not_finite():
    scorer = reward_model()
    assert [[r.score for r in rs] for rs in scored(scorer, group(["a", "b"]), group([]))] == [[18.0, 19.0], []]
    bad = reward_model(lambda b: np.array([np.nan, 1.0], np.float32))
    assert [r.status for r in scored(bad, group(["a", "b"]))[0]] == [Status.ERROR, Status.OK]
    with pytest.raises(RewardError, match="shape"):
        scored(reward_model(lambda b: np.zeros((2, 2), np.float32)), group(["a", "b"]))


def test_rows_name_their_scorers():
    verifiers = Verifiers()
    scorer = composed(verifiers, ("math", "reward_model"), weights={"reward_model": 0.1})
    rows = [("math",), ("reward_model",), ("reward_model", "code")]
    only_math, only_model, both = scored(scorer, *[group(["ok"], rewards=r) for r in rows])
    assert [only_math[0].score, only_model[0].score] == [1.0, pytest.approx(1.8)]
    assert both[0].score == pytest.approx(2.8)
    assert verifiers.rows == [("math",), ("code",)]
    judge = scored(scorer, group(["ok"], rewards=("judge",)))[0][0]
    assert (judge.status, judge.score) == (Status.ERROR, 0.0)
    assert "reward.judge.kind" in judge.info["error"]


def test_verifiers_never_see_reserved_names():
    terms = [RewardTermConfig("judge"), RewardTermConfig("math", weight=2.0)]
    assert verifier_config(RewardConfig(terms=terms)).terms == terms[1:]
    assert verifier_config(RewardConfig(terms=terms[:1])).terms == [RewardTermConfig()]
    split = Terms.of(RewardConfig(terms=terms[:1])).split(Prompt("u", (1,), "q"))
    assert (split.verified, [t.name for t in split.others]) == (None, ["judge"])
    assert Terms.of(RewardConfig(fn="a.py:judge")).verifiers
