"""The workers that hold a model: start, scoring, optimizer steps, checkpoints, weights to rollout engines."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch._C._distributed_c10d import TCPStore

from actors.config.schema import EngineConfig, ModelConfig
from actors.placement import process
from actors.training.distributed import init_distributed, leave_distributed
from actors.training.engine import TrainEngine
from actors.training.flops import peak_flops
from actors.training.offload import Held
from actors.training.scorer import Scorer, load_causal
from actors.weights.sender import WeightSender, make_sender
from rlcore.metrics import Last, Max, Mean, Metrics, Sum, merge
from rlcore.objective import Objective, TensorBatch
from rlcore.ragged import offsets_of
from rlcore.storage.durable import FileSums
from rlcore.types import Float32, TrainBatch

Rows = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StartSpec:
    """Settings for one rank of a group to join it and to load its model."""

    rank: int
    world_size: int
    master_addr: str  # of rank 0, from its `address`
    master_port: int
    device: str  # "cpu" or "cuda" (the process sees its own GPU as device 0)
    model_path: str  # a Hugging Face folder or hub id
    model: ModelConfig
    engine: EngineConfig
    seed: int = 0
    threads: int = 1  # OpenMP threads of the process
    timeout_s: float = 600.0  # of the rendezvous and of each collective
    optimizer: bool = True  # False: the model is only scored or sent


class ModelWorker:
    """One rank of a model. `start` on every rank at once; then every method but `address`, `describe`, `memory` and
    `release` is a collective.

    A plain class; Ray is applied elsewhere.
    """

    NAME: ClassVar[str] = "model"  # first part of its metrics' names
    TRAINABLE: ClassVar[bool] = True  # False: no optimizer, so no `update` and `save`

    def __init__(self) -> None:
        self._engine: TrainEngine | None = None
        self._spec: StartSpec | None = None
        self._store: TCPStore | None = None  # of rank 0, from `address`

    def address(self) -> tuple[str, int]:
        """(ip, port) where rank 0 listens for its group from now on: an argument of `start` on all ranks."""
        host, self._store = process.open_store()
        return host, self._store.port

    def start(self, spec: StartSpec) -> dict[str, Any]:
        """Prepares this process, joins it to its group and loads the model.

        Returns:
            `describe()`.
        """
        process.prepare(spec.threads, spec.seed)
        init_distributed(
            spec.rank, spec.world_size, spec.master_addr, spec.master_port, spec.device, spec.timeout_s, self._store
        )
        self._spec = spec
        self._build(spec.model_path, self._load)
        return self.describe()

    def _load(self, path: str, model: ModelConfig, trainable: bool) -> Scorer:
        return load_causal(path, model, trainable)

    def _build(self, path: str, load: Callable[[str, ModelConfig, bool], Scorer]) -> None:
        spec, self._engine = self.spec, None
        gc.collect()  # DeepSpeed's engine is full of cycles; two of them need not fit
        arguments = (path, spec.model, spec.engine, spec.device, self.TRAINABLE, load, spec.optimizer)
        self._engine = TrainEngine(*arguments)

    @property
    def spec(self) -> StartSpec:
        if self._spec is None:
            raise RuntimeError("the worker was not started")
        return self._spec

    @property
    def engine(self) -> TrainEngine:
        if self._engine is None:
            raise RuntimeError("the worker was not started")
        return self._engine

    def initialize(self, directory: str) -> Any:
        """Loads the weights of another folder of the same architecture, in the same process.

        The engine is rebuilt, which works for every ZeRO stage; head and optimizer are new.

        Raises:
            ValueError: the folder's model has another number of parameters.
        """
        count = self.engine.num_parameters
        self._build(directory, self._load)
        if (found := self.engine.num_parameters) != count:
            raise ValueError(
                f"{directory} holds a model of another architecture: {found} parameters, the {self.NAME} has {count}"
            )

    def describe(self) -> dict[str, Any]:
        """pid, node, rank, world_size, device, dtype, zero_stage (the one that runs), optimizer (True if there is one)
        and parameters.
        """
        return process.identity() | self.engine.describe()

    def memory(self) -> dict[str, float]:
        """Bytes; see `process.memory`."""
        return process.memory()

    def release(self, held: Held) -> None:
        """Frees GPU memory for another process: moves to host memory what `engine.offload` names, except `held`, until
        a method needs it, and returns memory cached by torch to the driver.
        """
        self.engine.release(held)
        process.release()

    def on_arrays(
        self, method: str, names: Sequence[str], rows_per_unit: int, micro_batches: Sequence[Rows],
        args: tuple[Any, ...], *arrays: NDArray[Any],
    ) -> Any:  # fmt: skip
        """`method(batch, micro_batches, *args)` on a batch of these arrays, which Ray replaces for their references.

        Args:
            names: fields of `TrainBatch`, in the order of the arrays. They are shared by all workers of a node.
        """
        held: dict[str, Any] = dict(zip(names, arrays, strict=True))
        batch = TrainBatch(**held, sample_ids=("",) * (len(held["offsets"]) - 1), rows_per_unit=rows_per_unit)
        return getattr(self, method)(batch, micro_batches, *args)

    @torch.no_grad()
    def numbers(self, whole: TrainBatch, micro_batches: Sequence[Rows], temperature: float = 1.0) -> Float32:
        """Log-probs, values or scores of this rank's rows; see `TrainEngine.forward`.

        Args:
            whole: the batch of all ranks.
            micro_batches: rows of each pass; b rows of n tokens in all. Under ZeRO-3 every rank must have the same
                number of them; an empty one still takes part in the gathering.

        Returns:
            Of the rows in the order of the micro-batches: [n] float32 log-probs or values, 0 at the first token of a
            row, or [b, K] scores.
        """
        engine, outputs = self.engine, self.engine.scorer.num_outputs
        pieces = [np.zeros((0, outputs) if outputs else 0, dtype=np.float32)]
        for rows in micro_batches:
            micro = _micro_batch(whole, rows)
            batch = TensorBatch.from_train_batch(micro, engine.device)
            found = engine.forward(batch, temperature).numbers.cpu().numpy()
            if len(rows):
                pieces.append(found if outputs else micro.flat(found))
        return np.concatenate(pieces)

    def update(
        self,
        whole: TrainBatch,
        micro_batches: Sequence[Rows],
        denominator: Any,
        learning_rate: float,
        objective: Objective,
    ) -> Metrics:
        """One optimizer step on the sum of the losses of all micro-batches of all ranks.

        A loss or gradient that is not finite skips the step, on every rank alike, and is counted.

        Args:
            whole: the batch of all ranks.
            micro_batches: rows of each pass of this rank. Every rank has the same number; an empty one is run as a unit
                of padding, which adds nothing to the loss.
            denominator: of the loss, counted over the whole batch of all ranks (`Objective.denominator`).

        Returns:
            The objective's metrics of this rank's rows, and NAME/grad_norm (before clipping), NAME/lr and
            NAME/skipped_steps, the last counted by rank 0 alone, so that merging over ranks counts a step once.
            perf/NAME_tokens_per_s: of each rank; on GPUs perf/NAME_mfu (`flops.ModelFlops`; bfloat16 alone) and
            memory/NAME_update_peak_gib and _reserved_gib, of the fullest.

        Raises:
            ValueError: no micro-batch, not the same number on every rank, or see `Objective.loss`.
        """
        engine = self.engine
        engine.check_agreement(len(micro_batches), "the number of micro-batches")
        if not micro_batches:
            raise ValueError("an update needs at least one micro-batch")
        parts: list[Metrics] = []
        started = time.perf_counter()
        process.reset_peak()
        for i, rows in enumerate(micro_batches):
            micro = _micro_batch(whole, rows)
            batch = TensorBatch.from_train_batch(micro, engine.device)
            outputs = engine.forward(batch, objective.temperature, first_column(micro), objective.needs_entropy)
            loss, metrics = objective.loss(outputs, batch, denominator)
            engine.backward(loss, last=i == len(micro_batches) - 1)
            if len(rows):  # padding has no metrics
                parts.append(metrics)
        norm, stepped = engine.step(learning_rate)
        own: Metrics = {
            f"{self.NAME}/grad_norm": Last(norm if stepped else math.nan),
            f"{self.NAME}/lr": Last(learning_rate),
            f"{self.NAME}/skipped_steps": Sum(0.0 if stepped or engine.rank else 1.0),
        }
        lengths = [n for rows in micro_batches for n in whole.lengths[np.asarray(rows, dtype=np.int64)].tolist()]
        return merge([*parts, own, self._speed(lengths, time.perf_counter() - started)])

    def _speed(self, lengths: list[int], seconds: float) -> Metrics:
        found: Metrics = {f"perf/{self.NAME}_tokens_per_s": Mean(float(sum(lengths)) / seconds)}
        if (peak := peak_flops(self.engine.device, getattr(torch, self.engine.dtype.value))) is not None:
            found[f"perf/{self.NAME}_mfu"] = Mean(self.engine.flops.training(lengths) / (seconds * peak))
        used = process.memory()
        for what in ("peak", "reserved"):
            if f"gpu_{what}" in used:
                found[f"memory/{self.NAME}_update_{what}_gib"] = Max(used[f"gpu_{what}"] / 2**30)
        return found

    def reset_optimizer(self) -> None:
        """Resets Adam's moments and step count."""
        self.engine.reset_optimizer()

    def save(self, directory: str) -> FileSums:
        """See `TrainEngine.save`."""
        return self.engine.save(directory)

    def load(self, directory: str) -> None:
        """See `TrainEngine.load`."""
        self.engine.load(directory)

    def export(self, directory: str, masters: bool = False) -> None:
        """See `TrainEngine.export`."""
        self.engine.export(directory, masters)

    def shutdown(self) -> None:
        """Leaves the process group. The worker cannot be started again."""
        self._engine = None
        leave_distributed()


class LanguageModelWorker(ModelWorker):
    """A worker that can send its weights to the rollout engines."""

    def __init__(self) -> None:
        super().__init__()
        self._sender: WeightSender | None = None

    def initialize(self, directory: str) -> None:
        """See `ModelWorker.initialize`. A connection to the rollout engines ends: `connect` again."""
        self.disconnect()
        super().initialize(directory)

    def connect(
        self,
        backend: str,
        engines: Sequence[Any],
        dtype: str,
        bucket_bytes: int,
        deadline_s: float,
        tensor_parallel_size: int = 1,
    ) -> None:
        """Connects this group to the rollout engines. Call again after a replacement of one, or of this group's engine.

        Args:
            backend: "host", "ipc", "nccl" or "gloo", from `choose_backend`.
            engines: handles of all rollout actors.
            dtype: of the rollout engines, e.g. "bfloat16"; weights are cast to it before the transfer.
            bucket_bytes: of one message.
            deadline_s: of a whole `send_weights`.
            tensor_parallel_size: GPUs of one rollout engine.
        """
        if self._sender is not None:
            self._sender.close()
        self._sender = make_sender(
            backend,
            self.engine,
            rank=self.engine.rank,
            dtype=getattr(torch, dtype),
            bucket_bytes=bucket_bytes,
            deadline_s=deadline_s,
            tensor_parallel_size=tensor_parallel_size,
        )
        self._sender.connect(engines)

    def disconnect(self) -> None:
        """Called before the engine is replaced: drops the sender, since the new engine must be connected again."""
        if self._sender is not None:
            self._sender.close()
        self._sender = None

    def send_weights(self, version: int, only: Sequence[int] | None = None) -> dict[str, float]:
        """Sends the weights as `version` to all connected engines, or to those at the positions `only`.

        Returns:
            bytes, seconds, pause_s and buckets; zeros on ranks other than 0.

        Raises:
            RuntimeError: not connected.
            WeightSyncError: an engine failed or was late.
        """
        if self._sender is None:
            raise RuntimeError("send_weights before connect")
        return self._sender.send(version, only)

    def shutdown(self) -> None:
        """Leaves the process group. The worker cannot be started again."""
        self.disconnect()
        super().shutdown()


class PolicyWorker(LanguageModelWorker):
    """The trained model."""

    NAME = "actor"


class ReferenceWorker(LanguageModelWorker):
    """A frozen model for scoring and optionally sampling."""

    NAME, TRAINABLE = "reference", False


def first_column(batch: TrainBatch) -> int:
    """The first column with a trained token, at least 1; the last column when there is none."""
    columns = np.flatnonzero(batch.padded("loss_mask").any(axis=0))
    return max(1, int(columns[0])) if columns.size else int(batch.lengths.max()) - 1


def _micro_batch(whole: TrainBatch, rows: Rows) -> TrainBatch:
    return whole.select(rows) if len(rows) else padding_row(whole)


def padding_row(like: TrainBatch) -> TrainBatch:
    """A unit of rows of two tokens, none trained, with the optional arrays that `like` has."""
    count = like.rows_per_unit
    zeros = np.zeros(2 * count, dtype=np.float32)
    empty = TrainBatch(
        tokens=np.zeros(2 * count, dtype=np.int32),
        offsets=offsets_of([2] * count),
        loss_mask=np.zeros(2 * count, dtype=np.bool_),
        sample_ids=[""] * count,
        scores=None if like.scores is None else zeros[:count],
        rows_per_unit=count,
    )
    return empty.with_arrays(**{n: zeros.copy() for n in TrainBatch.ARRAYS if getattr(like, n) is not None})
