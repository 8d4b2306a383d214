"""Checks of the judge's config."""

from rlcore.rewards.judge.config import (
    JudgeConfig,
    JudgeKind,
    check,
)  # fmt: skip


def test_settings_that_cannot_work_are_told_all_at_once():
    assert check(JudgeConfig()) == []
    bad = JudgeConfig(kind=JudgeKind.endpoint, rubrics=[], max_pairs=0)
    bad.reading.verdict, bad.reading.score, bad.scale.low = "(", "x", 10
    bad.endpoint.api_env = "sk-secret-key"
    told = check(bad)
    for part in ("scale", "rubrics", "reading.verdict", "reading.score", "max_pairs", "base_url", "endpoint.model",
                 "NAME of an environment"):  # fmt: skip
        assert sum(part in line for line in told) == 1, part
    assert "sk-secret" not in "".join(told)
    assert "engine.path" in check(JudgeConfig(kind=JudgeKind.engine))[0]
