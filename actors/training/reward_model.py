"""The reward model's worker: one rank of it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from actors.training.reward_engine import RewardEngine, RewardFolder
from actors.training.worker import ModelWorker, StartSpec, join, train_step
from rlcore.algorithms.reward_modeling import Counts, RewardObjective, RewardScale
from rlcore.metrics import Metrics
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import Float32, TrainBatch


class RewardModelWorker(ModelWorker):
    """See `ModelWorker` for when to call what."""

    def __init__(self) -> None:
        super().__init__()
        self._spec: StartSpec | None = None
        self._scale: RewardScale | None = None
        self._objective: RewardObjective | None = None

    def start(self, spec: StartSpec, attributes: Sequence[str] | None = None) -> dict[str, Any]:
        """Joins the group and loads the model; see `initialize`.

        Returns:
            `describe()`.
        """
        join(spec)
        self._spec = spec
        self._build(RewardFolder.inspect(spec.model_path, spec.model, attributes))
        return self.describe()

    @property
    def engine(self) -> RewardEngine:
        engine = super().engine
        assert isinstance(engine, RewardEngine)
        return engine

    def describe(self) -> dict[str, Any]:
        """See `ModelWorker.describe`; and `attributes`."""
        return super().describe() | {"attributes": self.scale().attributes}

    def scale(self) -> RewardScale:
        """How one reward is made of the outputs."""
        if self._scale is None:
            raise RuntimeError("the worker was not started")
        return self._scale

    def initialize(self, directory: str, attributes: Sequence[str] | None = None) -> RewardScale:
        """Takes another model, of any architecture, in the same process: the engine is built anew, the optimizer starts
        from nothing, and what `begin` set is forgotten.

        Args:
            directory: a Hugging Face folder of a causal language model (new head), of a sequence classification model
                (its head is kept) or of `export`.
            attributes: names of the outputs; see `RewardFolder.inspect`.

        Raises:
            ValueError: see `RewardFolder`. A folder that cannot be one is refused before the old model is given up.
        """
        spec = self._spec
        if spec is None:
            raise RuntimeError("the worker was not started")
        folder = RewardFolder.inspect(directory, spec.model, attributes)
        self._engine = None
        gc.collect()  # DeepSpeed's engine is full of cycles; two of them need not fit
        self._build(folder)
        return self.scale()

    def _build(self, folder: RewardFolder) -> None:
        assert self._spec is not None
        spec = self._spec
        self._engine = RewardEngine(folder, spec.model, spec.engine, spec.device)
        self._scale, self._objective = folder.scale, None

    def scores(self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]]) -> Float32:
        """[b, K] float32; see `RewardEngine.scores`."""
        return self.engine.scores(shard, micro_batches)

    def begin(self, objective: RewardObjective) -> RewardScale:
        """Sets what `update` minimises, and the weights of the outputs with it; the normalisation begins anew.

        Raises:
            ValueError: the objective's outputs are not the model's.
        """
        here = self.scale().attributes
        if objective.attributes != here:
            raise ValueError(
                f"the objective is about {', '.join(objective.attributes)}, the model about {', '.join(here)}: "
                "initialize it with these attributes"
            )
        self._objective, self._scale = objective, objective.scale
        return self._scale

    def update(
        self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]], counts: Counts, learning_rate: float
    ) -> Metrics:
        """One optimizer step; see `train_step`, whose metrics here begin with "reward_model".

        Args:
            counts: `RewardObjective.denominator` of the whole batch of all ranks.

        Raises:
            RuntimeError: before `begin`.
            ValueError: see `train_step` and `RewardObjective.loss`.
        """
        engine, objective = self.engine, self._objective
        if objective is None:
            raise RuntimeError("update before begin: the reward model has no objective")

        def loss(micro: TrainBatch) -> tuple[Tensor, Metrics]:
            batch = TensorBatch.from_train_batch(micro, engine.device)
            return objective.loss(Outputs(engine.forward_scores(micro)), batch, counts)

        return train_step(engine, shard, micro_batches, learning_rate, loss, "reward_model")

    def normalize(self, mean: float, std: float) -> RewardScale:
        """What rewards are shifted and divided by from now on.

        Raises:
            ValueError: not finite, or a deviation that is not above 0.
        """
        self._scale = replace(self.scale(), mean=mean, std=std)
        return self._scale

    def reset_optimizer(self) -> None:
        """Forgets Adam's moments and step count."""
        self.engine.reset_optimizer()

    def save(self, directory: str) -> None:
        """See `TrainEngine.save`; and the scale."""
        self.engine.save(directory)
        self._write(directory)

    def load(self, directory: str) -> RewardScale:  # type: ignore[override]
        """Goes on exactly where `save` was called. The objective stays what `begin` made it.

        Raises:
            ValueError: see `TrainEngine.load`, or outputs of other names.
            FileNotFoundError: no checkpoint of a reward model in `directory`.
        """
        scale = RewardScale.read(directory)
        if scale is None:
            raise FileNotFoundError(f"{directory} has no checkpoint of a reward model")
        if scale.attributes != self.scale().attributes:
            raise ValueError(
                f"the checkpoint in {directory} is about {', '.join(scale.attributes)}, the model about "
                f"{', '.join(self.scale().attributes)}: initialize it with these attributes first"
            )
        self.engine.load(directory)
        self._scale = scale
        return scale

    def export(self, directory: str) -> None:
        """A Hugging Face folder for `AutoModelForSequenceClassification`, with the scale as reward_model.json."""
        self.engine.export(directory)
        self._write(directory)

    def _write(self, directory: str) -> None:
        if self.engine.rank == 0:
            self.scale().write(Path(directory))
        dist.barrier()
