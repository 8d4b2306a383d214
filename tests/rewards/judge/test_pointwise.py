"""Ratings of single responses."""

import numpy as np
import pytest

from rlcore.rewards.judge.config import (
    JudgeReading,
    RubricConfig,
)  # fmt: skip
from rlcore.rewards.judge.pointwise import PointwiseJudge
from rlcore.rewards.judge.prompts import Question, Reply
from rlcore.types import Status
from tests.rewards.judge.cases import Scripted, config


def test_rubrics_make_parts_and_a_weighted_mean():
    def answer(talk):
        return "[[10]]" if "correct" in talk[0]["content"] else "[[1]]"

    rubrics = [RubricConfig("facts", "correct?", 3.0), RubricConfig("style", "nice?", 1.0)]
    [result] = PointwiseJudge(Scripted(answer), config(rubrics=rubrics)).rate([Question("p", "r")])
    assert (result.score, result.parts) == (0.75, {"facts": 1.0, "style": 0.0})
    one = PointwiseJudge(Scripted(lambda t: "[[5.5]]"), config()).rate([Question("p", "r")])[0]
    assert (one.score, one.parts, one.info["said"]) == (0.5, {}, {"quality": "[[5.5]]"})


def test_a_rubric_that_cannot_be_read_fails_the_sample():
    def answer(talk):
        return Reply(status=Status.TIMEOUT, error="late") if "nice" in talk[0]["content"] else "hm"

    rubrics = [RubricConfig("facts", "correct?"), RubricConfig("style", "nice?")]
    scripted = Scripted(answer)
    [result] = PointwiseJudge(scripted, config(rubrics=rubrics)).rate([Question("p", "r")])
    assert (result.status, result.info["said"]["facts"]) == (Status.TIMEOUT, "hm")
    assert "style: late" in result.info["error"]
    assert [len(p) for p, *_ in scripted.calls] == [2, 1]  # a late judge is not reminded


def test_expected_rating():
    logs = tuple(np.log([0.5, 0.0 + 1e-9, 0.5]))
    own = config(how=JudgeReading.choice)
    own.scale.low, own.scale.high = 1, 3
    scripted = Scripted(lambda t: Reply("1", logprobs=logs))
    assert PointwiseJudge(scripted, own).rate([Question("p", "r")])[0].score == pytest.approx(0.5)
    assert scripted.calls[0][1:] == (1, 0.0, ("1", "2", "3"))
