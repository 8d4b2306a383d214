"""The critic's worker: one rank of the value model."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actors.training.value_engine import ValueEngine
from actors.training.worker import ModelWorker, StartSpec, join, train_step
from rlcore.algorithms.value import ValueObjective
from rlcore.metrics import Metrics
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import Float32, TrainBatch


class CriticWorker(ModelWorker):
    """See `ModelWorker` for when to call what."""

    def __init__(self) -> None:
        super().__init__()
        self._spec: StartSpec | None = None
        self._objective = ValueObjective()

    def start(self, spec: StartSpec, objective: ValueObjective) -> dict[str, Any]:
        """Joins the group and loads the policy's architecture with a new value head: every value is 0.

        Returns:
            `describe()`.
        """
        join(spec)
        self._spec, self._objective = spec, objective
        self._engine = ValueEngine(spec.model_path, spec.model, spec.engine, spec.device)
        return self.describe()

    @property
    def engine(self) -> ValueEngine:
        engine = super().engine
        assert isinstance(engine, ValueEngine)
        return engine

    def values(self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]]) -> Float32:
        """[b, T] float32; see `ValueEngine.values`."""
        return self.engine.values(shard, micro_batches)

    def set_objective(self, objective: ValueObjective) -> None:
        """What `update` minimises from now on."""
        self._objective = objective

    def update(
        self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]], denominator: float, learning_rate: float
    ) -> Metrics:
        """One optimizer step; see `train_step`, whose metrics here begin with "critic".

        Args:
            denominator: of the loss, counted over the whole batch of all ranks (`ValueObjective.denominator`).

        Raises:
            ValueError: see `train_step`, or the batch lacks values or returns.
        """
        engine = self.engine

        def loss(micro: TrainBatch) -> tuple[Tensor, Metrics]:
            batch = TensorBatch.from_train_batch(micro, engine.device)
            lengths = torch.tensor(micro.lengths, dtype=torch.int64, device=engine.device)
            return self._objective.loss(Outputs(engine.forward_values(batch.tokens, lengths)), batch, denominator)

        return train_step(engine, shard, micro_batches, learning_rate, loss, "critic")

    def initialize(self, directory: str) -> None:
        """Takes the backbone from a folder that holds a causal language model of the same architecture.

        The engine is built anew, which every ZeRO stage understands: the optimizer starts from nothing and the value
        head from 0. A head trained on another body would predict noise, and what follows would depend on what this
        process did before.

        Raises:
            ValueError: the folder's model has another number of parameters.
        """
        count, spec = self.engine.num_parameters, self._spec
        assert spec is not None
        self._engine = None
        gc.collect()  # DeepSpeed's engine is full of cycles; two of them need not fit
        self._engine = ValueEngine(directory, spec.model, spec.engine, spec.device)
        if self._engine.num_parameters != count:
            raise ValueError(
                f"{directory} holds a model of another architecture: {self._engine.num_parameters} parameters with the "
                f"value head, the critic has {count}"
            )
