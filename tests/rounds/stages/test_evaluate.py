"""Evaluation as a stage."""

from __future__ import annotations

from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.sft import SftConfig
from tests.rounds.world import Stand, train


def test_accuracy_of_what_was_trained(tmp_path):
    stages = {
        "before": EvaluateConfig(num_samples=4, temperature=1.0),
        "sft": SftConfig(data=["answers"], train=train(30, peak=4.0)),
        "after": EvaluateConfig(model="sft"),
        "some": EvaluateConfig(model="sft", max_prompts=3),
    }
    made = Stand(tmp_path, stages).run()
    before, after, some = (made[1, name].report for name in ("before", "after", "some"))
    assert before["accuracy"] < 0.5 < after["accuracy"]
    assert after["accuracy"] == after["eval/heldout/mean@1"] == 1.0
    assert 0 < before["eval/heldout/pass@4"] <= 1
    assert (before["prompts"], some["prompts"]) == (10, 3)


def test_an_evaluation_is_the_same_in_every_round(tmp_path):
    made = Stand(tmp_path, {"look": EvaluateConfig(num_samples=4, temperature=1.0)}, count=3).run()
    assert len({one.key for one in made.values()}) == 1
    assert len({one.folder for one in made.values()}) == 1  # measured once
