"""Handles of the model groups, which implement `rlcore.interfaces` and split batches over ranks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.config.schema import DeadlinesConfig
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup
from actors.training.reward_model import RewardModelWorker
from actors.training.worker import ModelWorker
from rlcore import metrics as M
from rlcore.data.batching.balance import split
from rlcore.objective import Objective
from rlcore.ragged import offsets_of, place
from rlcore.storage.durable import FileSums
from rlcore.types import Float32, RewardScale, TrainBatch

Rows = NDArray[np.int64]

SENT = ("tokens", "offsets", "loss_mask", *TrainBatch.ARRAYS, *TrainBatch.OF_ROWS)
INLINE_BYTES = 1 << 16  # smaller arrays travel with the call


def deal(
    batch: TrainBatch, num_ranks: int, max_tokens: int, rows: Rows | None = None
) -> list[list[Rows]]:
    """[rank][micro-batch] -> rows of `batch`; see `balance.split`.

    Units of `batch.rows_per_unit` consecutive rows stay together, in one micro-batch and in their order.

    Args:
        max_tokens: padded tokens of a micro-batch, a unit of u rows counting u times its longest; more only where a
            single unit holds more.
        rows: whole units; None: all.

    Raises:
        ValueError: the rows are not a whole number of units.
    """
    unit, chosen = batch.rows_per_unit, np.arange(len(batch)) if rows is None else rows
    if len(chosen) % unit:
        raise ValueError(f"{len(chosen)} rows are not a whole number of units of {unit}")
    units = chosen.reshape(-1, unit)
    longest = batch.lengths[units].max(axis=1)
    ranks = split(longest, num_ranks, max(1, max_tokens // unit))
    return [[units[np.array(micro, dtype=np.int64)].ravel() for micro in dealt] for dealt in ranks]


class ObjectStore:
    """Arrays in Ray's object store, each put once, for all groups and calls. An array must not change any more, so it
    becomes read-only; its object is freed with the array.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[NDArray[Any]], Any]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def reference(self, array: NDArray[Any], put: Callable[[Any], Any]) -> Any:
        """The reference of the array, after `put(array)` if it is new; a small array itself."""
        if array.nbytes < INLINE_BYTES:
            return array
        with self._lock:
            key = id(array)
            if key not in self._held:
                array.flags.writeable = False
                self._held[key] = weakref.ref(array, lambda _: self._held.pop(key, None)), put(array)
            return self._held[key][1]


def trained_only(batch: TrainBatch, rows: Rows) -> TrainBatch:
    """The rows with as many trained tokens and no others: enough for a denominator, and without copies of tokens."""
    counts = batch.loss_counts[rows]
    offsets = offsets_of(counts)
    of_rows = {name: None if (a := getattr(batch, name)) is None else a[rows] for name in TrainBatch.OF_ROWS}
    return TrainBatch(
        tokens=np.broadcast_to(np.int32(0), offsets[-1]),
        offsets=offsets,
        loss_mask=np.broadcast_to(np.bool_(True), offsets[-1]),
        sample_ids=[""] * len(rows),
        rows_per_unit=batch.rows_per_unit,
        **of_rows,
    )


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
    store: ObjectStore = field(default_factory=ObjectStore)  # of all handles that see the same batches

    def _numbers(
        self, batch: TrainBatch, *args: Any, phase: str, outputs: int = 0, rows: Rows | None = None
    ) -> Float32:
        """[N], or [B, outputs] if that is given, float32 of `ModelWorker.numbers`, which takes `args` after a batch and
        its micro-batches; 0 for other rows than `rows`.
        """
        single = replace(batch, rows_per_unit=1)  # rows are independent
        bare = replace(single, **dict.fromkeys((*TrainBatch.ARRAYS, *TrainBatch.OF_ROWS)))  # type: ignore[arg-type]
        ranks, gathered = self._scatter(ModelWorker.numbers, bare, args, phase, rows)
        result = np.zeros((len(batch), outputs) if outputs else batch.num_tokens, dtype=np.float32)
        for micro_batches, piece in zip(ranks, gathered, strict=True):
            found = np.concatenate([np.empty(0, dtype=np.int64), *micro_batches])
            if outputs:
                result[found] = piece
            else:
                place(result, batch.offsets, found, piece)
        return result

    def update(
        self, batch: TrainBatch, learning_rate: float, objective: Objective, rows: Rows | None = None,
        computed: Rows | None = None,
    ) -> M.Metrics:  # fmt: skip
        counted = objective.denominator(batch if rows is None else trained_only(batch, rows))
        args, chosen = (counted, learning_rate, objective), rows if computed is None else computed
        return M.merge(self._scatter(ModelWorker.update, batch, args, "update", chosen)[1])

    def _scatter(
        self, method: Callable[..., Any], batch: TrainBatch, args: tuple[Any, ...], phase: str, rows: Rows | None = None
    ) -> tuple[list[list[Rows]], list[Any]]:
        """Calls `method(batch, micro_batches, *args)` on every rank. Arrays are put once; ranks select from them."""
        if self.sharing:
            self.sharing.for_training()
        ranks = deal(batch, len(self.group), self.max_tokens, rows)
        arrays = {name: array for name in SENT if (array := getattr(batch, name)) is not None}
        sent = [self.store.reference(array, self.group.put) for array in arrays.values()]
        part = (method.__name__, tuple(arrays), batch.rows_per_unit)
        calls = [(*part, micro_batches, args, *sent) for micro_batches in ranks]
        phase = f"{self.group.name} {phase}"
        return ranks, self.group.scatter(ModelWorker.on_arrays, calls, timeout_s=self.deadlines.train_s, phase=phase)

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

    def logprobs(self, batch: TrainBatch, temperature: float | None = None, rows: Rows | None = None) -> Float32:
        asked = self.temperature if temperature is None else temperature
        return self._numbers(batch, asked, phase="log-probs", rows=rows)


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
