"""Warm-up and decay of the learning rate."""

from __future__ import annotations

import itertools

import pytest

from rlcore.loops.config import LearningRateConfig, Schedule
from rlcore.loops.schedule import learning_rate


def test_warm_up_then_constant():
    config = LearningRateConfig(peak=4.0, warmup_steps=4)
    assert [learning_rate(config, s, 10) for s in range(6)] == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize("schedule", [Schedule.linear, Schedule.cosine])
def test_decay_reaches_its_final_share(schedule):
    config = LearningRateConfig(peak=1.0, schedule=schedule, warmup_steps=2, final_share=0.1)
    rates = [learning_rate(config, s, 12) for s in range(12)]
    assert rates[1] == rates[2] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))
    middle = learning_rate(LearningRateConfig(peak=1.0, schedule=schedule, final_share=0.0), 5, 11)
    assert middle == pytest.approx(0.5)
