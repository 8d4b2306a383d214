"""Verifiers combined with a reward model or a judge."""

import pytest

from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import Fallback, RewardConfig, RewardTermConfig
from rlcore.rewards.registry import RewardError, failure
from rlcore.rewards.scorers import JudgeScorer
from rlcore.types import RewardResult, Status
from tests.rewards.judge.cases import Scripted, Verifiers, composed, config, group, reward_model, scored


def test_terms_add_up_with_named_parts():
    scorer = composed(Verifiers(), ("math", "reward_model"), weights={"reward_model": 0.1})
    [[one, two]] = scored(scorer, group(["ok", "no"]))
    assert (one.score, one.parts) == (pytest.approx(2.8), {"math": 1.0, "reward_model": 18.0})
    assert (two.score, two.parts) == (pytest.approx(1.9), {"math": 0.0, "reward_model": 19.0})


def test_one_scorer_alone():
    scorer = composed(Verifiers(), ("math",))
    [[one, two]] = scored(scorer.alone("reward_model"), group(["ok", "no"]))
    assert (one.score, one.parts, two.score) == (18.0, {}, 19.0)
    with pytest.raises(RewardError, match=r"'judge' is to score.*reward\.judge\.kind"):
        scorer.alone("judge")


def test_the_fallback_scores_where_no_verifier_can():
    cannot = failure("no reference", Status.UNPARSABLE)
    scorer = composed(Verifiers([cannot, cannot]), fallback=Fallback.reward_model, fallback_weight=0.5)
    [[one, _]] = scored(scorer, group(["a", "b"]))
    assert (one.ok, one.score, one.parts) == (True, 9.0, {"reward_model": 18.0})
    assert one.info["verifiers"] == {"unverified": "no reference", "fallback": "reward_model"}


def test_what_other_verifiers_gave_stays_in_the_sum():
    part = RewardResult(-0.5, Status.UNPARSABLE, {"length": 0.5}, {"error": "math: no reference"})
    [[result]] = scored(composed(Verifiers([part]), fallback=Fallback.reward_model), group(["a"]))
    assert (result.ok, result.score, result.parts) == (True, 17.5, {"length": 0.5, "reward_model": 18.0})


def test_no_fallback_for_what_a_verifier_can_or_should_have_scored():
    wrong = RewardResult(0.0, parts={"math": 0.0})
    cannot, broke = failure("?", Status.UNPARSABLE), failure("boom")
    for results in ([wrong, wrong], [wrong, cannot], [broke, broke]):
        assert scored(composed(Verifiers(results), fallback=Fallback.reward_model), group(["a", "b"]))[0] == results
    bare = scored(composed(Verifiers([broke]), fallback=Fallback.reward_model), group(["a"], reference=None))[0][0]
    assert (bare.ok, bare.score) == (True, 18.0)


def test_the_judge_as_fallback_and_a_fallback_that_fails_is_a_status():
    judge = JudgeScorer(Scripted(lambda t: "[[10]]" if "good" in t[0]["content"] else "?"), config())
    cannot = failure("no reference", Status.UNPARSABLE)
    scorer = composed(Verifiers([cannot, cannot]), fallback=Fallback.judge, judge=judge)
    [[good, unread]] = scored(scorer, group(["good", "b"], reference=None))
    assert (good.score, good.parts) == (1.0, {"judge": 1.0})
    assert unread.status is Status.UNPARSABLE
    judge.close()


def test_errors_of_a_part_reach_the_composed_future():
    def broken(batch):
        raise OSError("the model died")

    terms = [RewardTermConfig("math"), RewardTermConfig("reward_model")]
    scorer = ComposedScorer(Verifiers(), reward_model(broken), None, RewardConfig(terms=terms))
    with pytest.raises(OSError, match="the model died"):
        scored(scorer, group(["ok"]))


def test_a_config_that_names_what_is_not_there():
    with pytest.raises(RewardError, match=r"'judge'.*reward\.judge\.kind"):
        ComposedScorer(Verifiers(), None, None, RewardConfig(fallback=Fallback.judge))
    with pytest.raises(RewardError, match="'reward_model'"):
        ComposedScorer(Verifiers(), None, None, RewardConfig(terms=[RewardTermConfig("reward_model")]))
