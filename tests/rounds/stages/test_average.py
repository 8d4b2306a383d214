"""Averages of models as a stage."""

from __future__ import annotations

import torch

from rlcore.rounds.stages.average import AverageConfig
from rlcore.rounds.stages.sft import SftConfig
from tests.fakes import read_model
from tests.rounds.world import Stand, train


def test_an_average_and_its_weights(tmp_path):
    stages = {
        "even": AverageConfig(models=["start", "other"]),
        "mostly": AverageConfig(models=["start", "other"], weights=[3.0, 1.0]),
    }
    stand = Stand(tmp_path, stages)
    made = stand.run()
    start, other = (read_model(stand.start_model(name)) for name in ("start", "other"))
    torch.testing.assert_close(read_model(made[1, "even"].path), (start + other) / 2)
    torch.testing.assert_close(read_model(made[1, "mostly"].path), 0.75 * start + 0.25 * other)


def test_the_average_of_all_rounds_shares_an_entrys_weight(tmp_path):
    stages = {
        "sft": SftConfig(data=["answers"], train=train(2)),
        "mean": AverageConfig(rounds=[2], models=["sft@all", "start"], weights=[1.0, 1.0]),
    }
    stand = Stand(tmp_path, stages, count=2)
    made = stand.run()
    first, second = (read_model(made[n, "sft"].path) for n in (1, 2))
    wanted = (first + second) / 4 + read_model(stand.start_model()) / 2
    torch.testing.assert_close(read_model(made[2, "mean"].path), wanted)
