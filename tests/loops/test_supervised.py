"""The warm-up before RL: which batches at which rates, and when it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.loops.config import LearningRateConfig, WarmupConfig
from rlcore.loops.schedule import learning_rate
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.loops.supervised import warm_up
from tests.fakes import FakeTracker

RATES = LearningRateConfig(peak=1e-3, warmup_steps=2)


class Scene:
    """A policy that records its updates, and a source of prompts 0, 1, 2, ..."""

    def __init__(self) -> None:
        self.updates: list[tuple[Any, float, type]] = []
        self.taken = 0
        self.stop = StopSignal(lambda text: None)
        self.world: Any = SimpleNamespace(policy=self, tracker=FakeTracker())

    def take(self, count: int) -> list[int]:
        self.taken += count
        return list(range(self.taken - count, self.taken))

    def update(self, batch: Any, rate: float, objective: Any) -> M.Metrics:
        self.updates.append((batch, rate, type(objective)))
        return {"sft/loss": M.Sum(10.0 - len(self.updates))}

    def warm_up(self, accuracy: Any = None, **settings: Any) -> float:
        config = WarmupConfig(**{"steps": 5, "sequences_per_step": 3, "learning_rate": RATES, **settings})
        return warm_up(self.world, self, tuple, config, self.stop, accuracy)  # type: ignore[arg-type]


def test_prompts_in_their_order_and_the_schedule_over_all_steps() -> None:
    scene = Scene()
    assert scene.warm_up() == 5.0
    assert scene.updates == [
        (tuple(range(3 * step, 3 * step + 3)), learning_rate(RATES, step, 5), SupervisedObjective) for step in range(5)
    ]


def test_it_ends_at_the_accuracy() -> None:
    scene, found = Scene(), iter([0.2, 0.6])
    scene.warm_up(lambda: next(found), stop_at_accuracy=0.5, check_every=2)
    assert len(scene.updates) == 4
    scene = Scene()
    scene.warm_up(lambda: 1.0)  # no accuracy is wanted
    assert len(scene.updates) == 5


def test_a_stop_interrupts_between_two_steps() -> None:
    scene = Scene()
    scene.stop.requested = "SIGTERM"
    with pytest.raises(Interrupted):
        scene.warm_up()
    assert scene.updates == []
