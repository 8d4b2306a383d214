"""Verdicts from texts and log-probs."""

import numpy as np
import pytest

from rlcore.rewards.judge.config import (
    JudgeConfig,
)  # fmt: skip
from rlcore.rewards.judge.parse import read_choice, read_score, read_verdict
from rlcore.rewards.judge.prompts import Reply
from rlcore.types import Status

VERDICT, SCORE = JudgeConfig().reading.verdict, JudgeConfig().reading.score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[A]]", 1.0), ("so\n[[B]]", 0.0), ("tie\n**[[C]]**\n\n", 0.5), ("[[B]] no wait\nFinal: [[A]]", 1.0),
        ("[[A]]\nThat is all.", 1.0), ("<think>[[B]]</think>\n[[A]]", 1.0), ("[[A]] [[A]]", 1.0),
        ("[[A]] or [[B]]", None), ("A", None), ("", None), ("<think>[[B]]</think>", None), ("[[D]]", None),
    ],
)  # fmt: skip
def test_verdicts(text, value):
    read = read_verdict(Reply(text), VERDICT)
    assert (read.value if read.ok else None) == value
    if value is None:
        assert read.status is Status.UNPARSABLE
        assert "verdict" in read.error
        assert read.said == text


def test_an_answer_cut_off_has_no_verdict():
    read = read_verdict(Reply("[[A]] at first sight, but", finish_reason="length"), VERDICT)
    assert read.status is Status.UNPARSABLE
    assert "max_new_tokens" in read.error


@pytest.mark.parametrize(("text", "value"), [("[[1]]", 0.0), ("x\n[[10]]", 1.0), ("[[ 5.5 ]]", 0.5), ("[[11]]", None),
                                             ("[[0]]", None), ("7", None), ("[[7/10]]", None)])  # fmt: skip
def test_ratings(text, value):
    read = read_score(Reply(text), SCORE, 1, 10)
    assert (read.value if read.ok else None) == value
    assert read.ok or read.status is Status.UNPARSABLE


def test_choices_are_renormalised():
    logs = tuple(np.log([0.3, 0.1]))
    assert read_choice(Reply(logprobs=logs), (1.0, 0.0)).value == pytest.approx(0.75)
    assert read_choice(Reply(logprobs=(-2.0, float("-inf"))), (1.0, 0.0)).value == 1.0
    assert read_choice(Reply(logprobs=(float("-inf"),) * 2), (1.0, 0.0)).status is Status.UNPARSABLE
    assert read_choice(Reply(logprobs=(-1.0,)), (1.0, 0.0)).status is Status.ERROR
    assert read_choice(Reply(logprobs=(float("nan"), 0.0)), (1.0, 0.0)).status is Status.ERROR


def test_a_failed_reply_passes_its_status_on():
    for read in (read_verdict(Reply(status=Status.TIMEOUT, error="late"), VERDICT),
                 read_choice(Reply(status=Status.TIMEOUT, error="late"), (1.0,))):  # fmt: skip
        assert (read.status, read.error) == (Status.TIMEOUT, "late")
