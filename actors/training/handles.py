"""Handles of the model groups, which implement `rlcore.interfaces` and split batches over ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.config.schema import DeadlinesConfig
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup
from actors.training.reward_model import RewardModelWorker
from actors.training.worker import ModelWorker
from rlcore import metrics as M
from rlcore.data.batching.balance import split
from rlcore.objective import Objective
from rlcore.ragged import tokens_of
from rlcore.storage.durable import FileSums
from rlcore.types import Float32, RewardScale, TrainBatch

Shard = tuple[list[int], TrainBatch, list[list[int]]]


def shards(batch: TrainBatch, num_ranks: int, max_tokens: int) -> list[Shard]:
    """Per rank: its rows of `batch`, those rows as a batch, and its micro-batches as rows of that shard.

    Units of `batch.rows_per_unit` consecutive rows stay together, in one micro-batch and in their order.

    Args:
        max_tokens: padded tokens of a micro-batch, a unit of u rows counting u times its longest; more only where a
            single unit holds more.

    Raises:
        ValueError: the rows are not a whole number of units.
    """
    unit = batch.rows_per_unit
    if len(batch) % unit:
        raise ValueError(f"{len(batch)} rows are not a whole number of units of {unit}")
    longest = batch.lengths.reshape(-1, unit).max(axis=1)
    result = []
    for dealt in split([int(n) for n in longest], num_ranks, max(1, max_tokens // unit)):
        micro_batches = [[unit * i + k for i in units for k in range(unit)] for units in dealt]
        rows = [row for micro in micro_batches for row in micro]
        starts = itertools.accumulate((len(micro) for micro in micro_batches), initial=0)
        local = [list(range(start, start + len(micro))) for start, micro in zip(starts, micro_batches, strict=False)]
        result.append((rows, batch.select(rows), local))
    return result


@dataclass
class ModelHandle:
    """A group of model workers: distributes rows over its ranks and restores the order of results.

    `update`, `initialize`, `reset_optimizer`, `save`, `load` and `export` are those of `rlcore.interfaces`.
    """

    group: ActorGroup[Any]
    max_tokens: int  # of a micro-batch
    deadlines: DeadlinesConfig
    sharing: GpuSharing | None = None  # set if the rollout engines are on the same GPUs
    renewed: Callable[[], None] = lambda: None  # called after the workers replaced their engine, which is not connected

    def _numbers(self, batch: TrainBatch, *args: Any, phase: str, outputs: int = 0) -> Float32:
        """[N], or [B, outputs] if that is given, float32 of `ModelWorker.numbers`, which takes `args` after a shard and
        its micro-batches.
        """
        single = replace(batch, rows_per_unit=1)  # rows are independent
        parts, gathered = self._scatter(ModelWorker.numbers, single, args, phase)
        result = np.zeros((len(batch), outputs) if outputs else batch.num_tokens, dtype=np.float32)
        for (rows, _, _), piece in zip(parts, gathered, strict=True):
            index = np.array(rows, dtype=np.int64)
            result[index if outputs else tokens_of(batch.offsets, index)] = piece
        return result

    def update(self, batch: TrainBatch, learning_rate: float, objective: Objective) -> M.Metrics:
        args = (objective.denominator(batch), learning_rate, objective)
        return M.merge(self._scatter(ModelWorker.update, batch, args, "update")[1])

    def _scatter(
        self, method: Callable[..., Any], batch: TrainBatch, args: tuple[Any, ...], phase: str
    ) -> tuple[list[Shard], list[Any]]:
        if self.sharing:
            self.sharing.for_training()
        parts = shards(batch, len(self.group), self.max_tokens)
        calls = [(shard, micro, *args) for _, shard, micro in parts]
        phase = f"{self.group.name} {phase}"
        return parts, self.group.scatter(method, calls, timeout_s=self.deadlines.train_s, phase=phase)

    def _everywhere(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        """The answers of all ranks."""
        if self.sharing:
            self.sharing.for_state()
        phase = f"{self.group.name} {method.__name__}"
        return self.group.broadcast(method, *args, timeout_s=self.deadlines.checkpoint_s, phase=phase)

    def initialize(self, directory: Path) -> None:
        self._everywhere(ModelWorker.initialize, str(directory))
        self.renewed()

    def reset_optimizer(self) -> None:
        self._everywhere(ModelWorker.reset_optimizer)

    def save(self, directory: Path) -> FileSums:
        of_ranks = self._everywhere(ModelWorker.save, str(directory))
        return {name: entry for sums in of_ranks for name, entry in sums.items()}

    def load(self, directory: Path) -> None:
        self._everywhere(ModelWorker.load, str(directory))

    def export(self, directory: Path, masters: bool = False) -> None:
        self._everywhere(ModelWorker.export, str(directory), masters)


@dataclass
class LanguageModelHandle(ModelHandle):
    """`PolicyModel` over the policy group, `ReferenceModel` over the reference group."""

    temperature: float = 1.0  # of sampling

    def logprobs(self, batch: TrainBatch, temperature: float | None = None) -> Float32:
        asked = self.temperature if temperature is None else temperature
        return self._numbers(batch, asked, phase="log-probs")


class ValueHandle(ModelHandle):
    """`ValueModel` over the critic group."""

    def values(self, batch: TrainBatch) -> Float32:
        return self._numbers(batch, phase="values")


@dataclass
class RewardModelHandle(ModelHandle):
    """`RewardModel` over a group of reward workers. It keeps the scale, and writes it into checkpoints and exports."""

    scale: RewardScale = field(init=False)

    def __post_init__(self) -> None:
        self.scale = self._everywhere(RewardModelWorker.scale)[0]

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.scale.attributes

    def scores(self, batch: TrainBatch) -> Float32:
        return self._numbers(batch, phase="scores", outputs=len(self.attributes))

    def combine(self, scores: Float32) -> Float32:
        return self.scale.rewards(scores)

    def rewards(self, batch: TrainBatch) -> Float32:
        return self.combine(self.scores(batch))

    def use(self, scale: RewardScale) -> None:
        self._check(scale, "the objective")
        self.scale = scale

    def _check(self, scale: RewardScale, name: str) -> None:
        if scale.attributes != self.attributes:
            raise ValueError(
                f"{name} is about {', '.join(scale.attributes)}, the reward model about {', '.join(self.attributes)}: "
                "initialize it with these attributes first"
            )

    def initialize(self, directory: Path, attributes: Sequence[str] | None = None) -> None:
        names = None if attributes is None else tuple(attributes)
        self.scale = self._everywhere(RewardModelWorker.initialize, str(directory), names)[0]

    def normalize(self, mean: float, std: float) -> None:
        self.scale = replace(self.scale, mean=mean, std=std)

    def save(self, directory: Path) -> FileSums:
        written = super().save(directory)
        self.scale.write(directory)
        return written

    def load(self, directory: Path) -> None:
        """Raises: FileNotFoundError, ValueError: no checkpoint of a reward model, or of one with other outputs."""
        scale = RewardScale.read(directory)
        if scale is None:
            raise FileNotFoundError(f"{directory} has no checkpoint of a reward model")
        self._check(scale, f"the checkpoint in {directory}")
        super().load(directory)
        self.scale = scale

    def export(self, directory: Path, masters: bool = False) -> None:
        super().export(directory)
        self.scale.write(directory)
