"""Reminders after an answer without verdict."""

from rlcore import metrics
from rlcore.rewards.judge.pairwise import PairwiseJudge, position_bias
from rlcore.rewards.judge.prompts import Comparison
from rlcore.types import Status
from tests.rewards.judge.cases import Scripted, config, sides


def test_one_reminder_then_a_status_never_a_zero():
    def answer(talk):
        return "[[A]]" if len(talk) == 3 and sides(talk)[0] == "x" else "I cannot say {rubric}"

    scripted = Scripted(answer)
    [verdict] = PairwiseJudge(scripted, config()).compare([Comparison("p", "x", "y")])
    assert (verdict.preference, verdict.status) == (None, Status.UNPARSABLE)
    assert verdict.info["said"] == ["[[A]]", "I cannot say {rubric}"]
    assert [len(prompts) for prompts, *_ in scripted.calls] == [2, 2]
    assert scripted.calls[1][0][0][1:] == [
        {"role": "assistant", "content": "I cannot say {rubric}"},
        {"role": "user", "content": "That holds no verdict. Write one line: [[A]], [[B]] or [[C]]."},
    ]
    assert metrics.values(position_bias([verdict]))["judge/failed_share"] == 1.0
