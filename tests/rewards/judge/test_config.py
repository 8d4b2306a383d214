"""Checks of the judge's config."""

from rlcore.problems import setting_problems
from rlcore.rewards.judge.config import JudgeConfig, JudgeKind


def test_settings_that_cannot_work_are_told_all_at_once():
    assert not list(setting_problems(JudgeConfig()))
    bad = JudgeConfig(kind=JudgeKind.endpoint, rubrics=[], max_pairs=0)
    bad.reading.verdict, bad.reading.score, bad.scale.low = "(", "x", 10
    bad.endpoint.api_env = "sk-secret-key"
    told = list(map(str, setting_problems(bad, "reward.judge")))
    for part in ("scale", "rubrics", "reading.verdict", "reading.score", "max_pairs", "base_url", "endpoint.model",
                 "NAME of an environment"):  # fmt: skip
        assert sum(part in line for line in told) == 1, part
    assert "sk-secret" not in "".join(told)
    (found,) = setting_problems(JudgeConfig(kind=JudgeKind.engine), "reward.judge")
    assert found.key == "reward.judge.engine.path"
