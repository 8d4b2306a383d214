"""Training of a reward model as a stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlcore.algorithms.reward_config import RewardLoss
from rlcore.data import tables
from rlcore.data.selection.pairing import PairingConfig
from rlcore.loops.config import Schedule
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.reward_model import RewardModelStageConfig, is_held_out
from rlcore.types import RewardResult
from tests.rounds.stages.cases import updates
from tests.rounds.world import Killed, Stand


def labelled_world(**changes):
    config = RewardModelStageConfig(data=["annotate"], held_out=0.4)
    config.training = replace(config.training, epochs=10, pairs_per_step=16, learning_rate=1.0, **changes)
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "reward": config,
    }


@pytest.mark.parametrize("changes", [{}, {"loss": RewardLoss.soft_label}, {"smoothing_beta": 0.5}])
def test_pairs_held_out_by_prompt(tmp_path, changes):
    stand = Stand(tmp_path, labelled_world(**changes))
    made = stand.run()
    report = made[1, "reward"].report
    held = {row["uid"] for row in made[1, "annotate"].table().to_pylist() if is_held_out(row["uid"], 0.4)}
    assert held
    seen = {name.partition("#")[0] for _, names, _ in updates(stand) for name in names}
    assert not seen & held
    assert report["trained_on"] + report["held_out"]["records"] == made[1, "annotate"].num_rows
    assert report["reward_model/accuracy"] == 1.0


def test_rows_without_a_label_are_counted_and_teach_nothing(tmp_path):
    """Two rows a step: with them in, some steps would have no label at all."""
    config = RewardModelStageConfig(data=["sample"], held_out=0.0)
    config.training = replace(
        config.training, loss=RewardLoss.regression, attributes=["help"], epochs=1, pairs_per_step=2, learning_rate=0.1
    )
    judge = lambda group, t: RewardResult(1.0, parts={"help": 1.0} if group.prompt.uid < "p3" else {})  # noqa: E731
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_samples=4), "reward": config}, judge=judge)
    report = stand.run()[1, "reward"].report
    assert (report["unlabelled"], report["trained_on"]) == (28, 12)
    assert {name.partition("#")[0] for _, names, _ in updates(stand) for name in names} == {"p0", "p1", "p2"}
    config.training = replace(config.training, attributes=["depth"])
    with pytest.raises(ValueError, match="none of 40 samples has a label of depth"):
        stand.run()


def test_the_share_that_is_held_out():
    share = np.mean([is_held_out(f"prompt-{i}", 0.1) for i in range(5000)])
    assert 0.08 < share < 0.12
    assert not any(is_held_out(f"{i}", 0.0) for i in range(100))


def test_rewards_are_normalised_over_the_training_responses(tmp_path):
    stages = labelled_world()
    stages["reward"].held_out = 0.0
    stand = Stand(tmp_path, stages)
    made = stand.run()
    pairs = tables.to_pairs(made[1, "annotate"].table())
    from rlcore.data.batching.reward import reward_batch_pairs

    rewards = stand.live.world.reward_model.rewards(reward_batch_pairs(pairs))
    assert np.mean(rewards) == pytest.approx(0, abs=1e-4)
    assert np.std(rewards) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_reward_model_that_was_killed_goes_on(tmp_path, beta):
    """Smoothed labels are part of its state."""
    stages = labelled_world(smoothing_beta=beta)
    stages["reward"].checkpoint_every = 3
    wanted = Stand(tmp_path / "whole", stages).run()[1, "reward"].hash
    stand, left = Stand(tmp_path / "killed", stages), 8

    def at(place):
        nonlocal left
        left -= place == "update"
        if left == 0:
            left = -1
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    assert stand.run()[1, "reward"].hash == wanted


def test_the_rate_of_a_reward_model_follows_its_schedule(tmp_path):
    stages = labelled_world(warmup_steps=2)
    stages["reward"].schedule = Schedule.linear
    stand = Stand(tmp_path, stages)
    stand.run()
    rates = [event[2] for event in stand.log if event[0] == "fit"]
    assert rates[:2] == [0.5, 1.0]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_responses_too_long_are_left_out_and_counted(tmp_path):
    stages = labelled_world(max_tokens=2)
    with pytest.raises(ValueError, match="reward: there is no data to train on"):
        Stand(tmp_path, stages).run()
