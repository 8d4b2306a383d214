"""The reference of config keys."""

from __future__ import annotations

from actors.config import keys
from actors.config.schema import Config
from tests.actors.cases import run


def test_every_key_has_a_description():
    undescribed = [key.name for key in keys.keys(Config()) if not key.text]
    assert undescribed == []


def test_the_key_reference(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "keys", "trainer.learning_rate")
    assert code == 0
    assert "trainer.learning_rate.peak = 1e-06  (float)" in out
    assert "one of: constant, linear, cosine" in out
    assert "rollout" not in out
    assert run(monkeypatch, capsys, "keys", "max_new_tokens")[1].startswith("reward.judge.max_new_tokens")
    code, _, err = run(monkeypatch, capsys, "keys", "trainer.stepz")
    assert code == 1
    assert "did you mean 'trainer.steps'" in err
