"""The reward model's group, dressed as `rlcore.interfaces.RewardModel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.config.schema import DeadlinesConfig
from actors.training.handles import Scoring, shards, update
from actors.training.reward_model import RewardModelWorker
from rlcore.algorithms.reward_modeling import RewardObjective, RewardScale
from rlcore.metrics import Metrics
from rlcore.types import Float32, TrainBatch


@dataclass
class RewardModelHandle:
    """`RewardModel` over a group of started workers."""

    scoring: Scoring
    deadlines: DeadlinesConfig
    objective: RewardObjective | None = field(default=None, init=False)  # of `begin`
    scale: RewardScale = field(init=False)

    def __post_init__(self) -> None:
        self.scale = self._everywhere(RewardModelWorker.scale)

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.scale.attributes

    def scores(self, batch: TrainBatch) -> Float32:
        scoring = self.scoring
        if scoring.sharing:
            scoring.sharing.for_training()
        parts = shards(replace(batch, rows_per_unit=1), len(scoring.group), scoring.max_tokens)  # every row for itself
        calls = [(shard, micro) for _, shard, micro in parts]
        gathered = scoring.group.scatter(
            RewardModelWorker.scores, calls, timeout_s=scoring.timeout_s, phase="reward model scores"
        )
        result = np.zeros((len(batch), len(self.attributes)), dtype=np.float32)
        for (rows, _, _), piece in zip(parts, gathered, strict=True):
            if rows:
                result[rows] = piece
        return result

    def combine(self, scores: Float32) -> Float32:
        return self.scale.rewards(scores)

    def rewards(self, batch: TrainBatch) -> Float32:
        return self.combine(self.scores(batch))

    def begin(self, objective: RewardObjective) -> None:
        self.scale, self.objective = self._everywhere(RewardModelWorker.begin, objective), objective

    def update(self, batch: TrainBatch, learning_rate: float) -> Metrics:
        if self.objective is None:
            raise RuntimeError("update before begin: the reward model has no objective")
        args = (self.objective.denominator(batch), learning_rate)
        return update(self.scoring, RewardModelWorker.update, batch, args, "reward model update")

    def initialize(self, directory: Path, attributes: Sequence[str] | None = None) -> None:
        names = None if attributes is None else tuple(attributes)
        self.scale = self._everywhere(RewardModelWorker.initialize, str(directory), names)
        self.objective = None

    def normalize(self, mean: float, std: float) -> None:
        self.scale = self._everywhere(RewardModelWorker.normalize, mean, std)

    def reset_optimizer(self) -> None:
        self._everywhere(RewardModelWorker.reset_optimizer)

    def save(self, directory: Path) -> None:
        self._everywhere(RewardModelWorker.save, str(directory))

    def load(self, directory: Path) -> None:
        self.scale = self._everywhere(RewardModelWorker.load, str(directory))

    def export(self, directory: Path) -> None:
        self._everywhere(RewardModelWorker.export, str(directory))

    def _everywhere(self, method: Callable[..., Any], *args: Any) -> Any:
        """The first rank's answer."""
        phase = f"reward model {method.__name__}"
        limit = self.deadlines.checkpoint_s
        return self.scoring.group.broadcast(method, *args, timeout_s=limit, phase=phase)[0]
