"""The policy's worker: one rank of the trained model."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.training.engine import TrainEngine
from actors.training.worker import LanguageModelWorker, StartSpec, join, padding_row, train_step
from rlcore.metrics import Metrics
from rlcore.objective import Objective, Outputs, TensorBatch
from rlcore.types import TrainBatch

__all__ = ["PolicyWorker", "first_column", "padding_row"]


class PolicyWorker(LanguageModelWorker):
    """See `ModelWorker` for when to call what."""

    def __init__(self) -> None:
        super().__init__()
        self._spec: StartSpec | None = None
        self._objectives: dict[str, Objective] = {}

    def start(self, spec: StartSpec, objectives: Mapping[str, Objective]) -> dict[str, Any]:
        """Joins the group and loads the model.

        Args:
            objectives: by the name that `update` is called with.

        Returns:
            `describe()`.
        """
        join(spec)
        self._spec, self._objectives = spec, dict(objectives)
        self._engine = TrainEngine(spec.model_path, spec.model, spec.engine, spec.device)
        return self.describe()

    def update(
        self,
        shard: TrainBatch,
        micro_batches: Sequence[Sequence[int]],
        denominator: float,
        learning_rate: float,
        objective: str,
    ) -> Metrics:
        """One optimizer step; see `train_step`, whose metrics here begin with "actor".

        Args:
            denominator: of the loss, counted over the whole batch of all ranks (`Objective.denominator`).
            objective: name of one of the objectives handed to `start`.

        Raises:
            KeyError: an objective that `start` was not given.
            ValueError: see `train_step`.
        """
        goal, engine = self._objectives[objective], self.engine

        def loss(micro: TrainBatch) -> tuple[Tensor, Metrics]:
            batch = TensorBatch.from_train_batch(micro, engine.device)
            logprobs, entropy = engine.forward(
                batch.tokens,
                goal.temperature,
                first_column(micro),
                goal.needs_entropy,
                torch.tensor(micro.lengths, dtype=torch.int64, device=engine.device),
            )
            return goal.loss(Outputs(logprobs, entropy), batch, denominator)

        return train_step(engine, shard, micro_batches, learning_rate, loss, "actor")

    def set_objective(self, name: str, objective: Objective) -> None:
        """What `update` minimises under that name from now on."""
        self._objectives[name] = objective

    def initialize(self, directory: str) -> None:
        """Takes the weights of another folder of the same architecture, with a new optimizer, in the same process.

        A connection to the rollout engines ends: `connect` again.

        Raises:
            ValueError: the folder's model has another number of parameters.
        """
        assert self._spec is not None
        count, spec = self.engine.num_parameters, self._spec
        self.disconnect()
        self._engine = None
        gc.collect()  # DeepSpeed's engine is full of cycles; two of them need not fit
        self._engine = TrainEngine(directory, spec.model, spec.engine, spec.device)
        if self._engine.num_parameters != count:
            raise ValueError(
                f"{directory} holds a model of another architecture: {self._engine.num_parameters} parameters, the "
                f"policy has {count}"
            )

    def reset_optimizer(self) -> None:
        """Forgets Adam's moments and step count."""
        self.engine.reset_optimizer()

    def export(self, directory: str, masters: bool = False) -> None:
        """See `TrainEngine.export`."""
        self.engine.export(directory, masters)


def first_column(batch: TrainBatch) -> int:
    """The first column with a trained token, at least 1; the last column when there is none."""
    columns = np.flatnonzero(batch.loss_mask.any(axis=0))
    return max(1, int(columns[0])) if columns.size else batch.tokens.shape[1] - 1
