"""The models that train or score, dressed as `rlcore.interfaces`. All splitting of a batch over ranks is here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.config.schema import DeadlinesConfig
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup
from actors.training.critic import CriticWorker
from actors.training.policy import PolicyWorker
from actors.training.reference import ReferenceWorker
from actors.training.worker import LanguageModelWorker, ModelWorker
from rlcore import metrics as M
from rlcore.algorithms.value import ValueObjective
from rlcore.data.batching.balance import split
from rlcore.objective import Objective
from rlcore.types import Float32, TrainBatch

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
class Scoring:
    """Numbers per token of a group's model: rows are dealt over its ranks, and the answers put back in their places."""

    group: ActorGroup[Any]
    max_tokens: int
    timeout_s: float
    sharing: GpuSharing | None = None  # with the rollout engines, where they are on the same GPUs

    def __call__(self, method: Callable[..., Float32], batch: TrainBatch, *args: Any, phase: str) -> Float32:
        """[B, T] float32. `method` of the workers takes a shard, its micro-batches and `args`."""
        if self.sharing:
            self.sharing.for_training()
        parts = shards(replace(batch, rows_per_unit=1), len(self.group), self.max_tokens)  # every row for itself
        calls = [(shard, micro, *args) for _, shard, micro in parts]
        gathered = self.group.scatter(method, calls, timeout_s=self.timeout_s, phase=phase)
        result = np.zeros(batch.tokens.shape, dtype=np.float32)
        for (rows, _, _), piece in zip(parts, gathered, strict=True):
            if rows:
                result[rows, : piece.shape[1]] = piece
        return result


@dataclass
class LogprobHandle:
    """`LogprobModel` over a group of policy or reference workers."""

    scoring: Scoring
    temperature: float

    def logprobs(self, batch: TrainBatch, temperature: float | None = None) -> Float32:
        asked = self.temperature if temperature is None else temperature
        return self.scoring(LanguageModelWorker.logprobs, batch, asked, phase="log-probs")


@dataclass
class ReferenceHandle(LogprobHandle):
    """`ReferenceModel` over the reference group."""

    timeout_s: float  # of `initialize`
    renewed: Callable[[], None] = lambda: None  # called when the workers have another engine, connected to nothing

    def initialize(self, directory: Path) -> None:
        group, phase = self.scoring.group, "reference initialize"
        group.broadcast(ReferenceWorker.initialize, str(directory), timeout_s=self.timeout_s, phase=phase)
        self.renewed()


def update(
    scoring: Scoring, method: Callable[..., M.Metrics], batch: TrainBatch, args: Sequence[Any], phase: str
) -> M.Metrics:
    """One optimizer step of a group on the batch. `method` takes a shard, its micro-batches and `args`."""
    if scoring.sharing:
        scoring.sharing.for_training()
    parts = shards(batch, len(scoring.group), scoring.max_tokens)
    calls = [(shard, micro, *args) for _, shard, micro in parts]
    return M.merge(scoring.group.scatter(method, calls, timeout_s=scoring.timeout_s, phase=phase))


@dataclass
class PolicyHandle:
    """`PolicyModel` over the policy group."""

    group: ActorGroup[PolicyWorker]
    scorer: LogprobHandle
    objectives: dict[str, Objective]
    deadlines: DeadlinesConfig
    renewed: Callable[[], None] = lambda: None  # as that of the reference

    def logprobs(self, batch: TrainBatch, temperature: float | None = None) -> Float32:
        return self.scorer.logprobs(batch, temperature)

    def set_objective(self, name: str, objective: Objective) -> None:
        self.objectives[name] = objective
        self._everywhere(PolicyWorker.set_objective, name, objective)

    def initialize(self, directory: Path) -> None:
        self._everywhere(PolicyWorker.initialize, str(directory))
        self.renewed()

    def update(self, batch: TrainBatch, learning_rate: float, objective: str) -> M.Metrics:
        args = (self.objectives[objective].denominator(batch), learning_rate, objective)
        return update(self.scorer.scoring, PolicyWorker.update, batch, args, "policy update")

    def _everywhere(self, method: Callable[..., Any], *args: Any) -> None:
        self.group.broadcast(method, *args, timeout_s=self.deadlines.checkpoint_s, phase=method.__name__)

    def reset_optimizer(self) -> None:
        self._everywhere(PolicyWorker.reset_optimizer)

    def save(self, directory: Path) -> None:
        self._everywhere(ModelWorker.save, str(directory))

    def load(self, directory: Path) -> None:
        self._everywhere(ModelWorker.load, str(directory))

    def export(self, directory: Path, masters: bool = False) -> None:
        self._everywhere(PolicyWorker.export, str(directory), masters)


@dataclass
class ValueHandle:
    """`ValueModel` over the critic group."""

    scoring: Scoring
    objective: ValueObjective
    deadlines: DeadlinesConfig

    def values(self, batch: TrainBatch) -> Float32:
        return self.scoring(CriticWorker.values, batch, phase="values")

    def update(self, batch: TrainBatch, learning_rate: float) -> M.Metrics:
        args = (self.objective.denominator(batch), learning_rate)
        return update(self.scoring, CriticWorker.update, batch, args, "critic update")

    def _everywhere(self, method: Callable[..., Any], argument: Any) -> None:
        phase = f"critic {method.__name__}"
        self.scoring.group.broadcast(method, argument, timeout_s=self.deadlines.checkpoint_s, phase=phase)

    def set_objective(self, objective: ValueObjective) -> None:
        self.objective = objective
        self._everywhere(CriticWorker.set_objective, objective)

    def initialize(self, directory: Path) -> None:
        self._everywhere(CriticWorker.initialize, str(directory))

    def save(self, directory: Path) -> None:
        self._everywhere(ModelWorker.save, str(directory))

    def load(self, directory: Path) -> None:
        self._everywhere(ModelWorker.load, str(directory))
