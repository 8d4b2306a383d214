"""Base classes of all model workers: start and shutdown, checkpoints, optimizer steps, weights to rollout engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.config.schema import EngineConfig, ModelConfig
from actors.placement import process
from actors.training.engine import TrainEngine, init_distributed, leave_distributed
from actors.weights.sender import WeightSender, make_sender
from rlcore.metrics import Last, Metrics, Sum, merge
from rlcore.types import Float32, TrainBatch


@dataclass(frozen=True, slots=True)
class StartSpec:
    """All that one rank of a group needs to join it and to load its model."""

    rank: int
    world_size: int
    master_addr: str  # of rank 0, as its `address` says
    master_port: int
    device: str  # "cpu" or "cuda" (the process sees its own GPU as device 0)
    model_path: str  # a Hugging Face folder or hub id
    model: ModelConfig
    engine: EngineConfig
    seed: int = 0
    threads: int = 1  # OpenMP threads of the process
    timeout_s: float = 600.0  # of the rendezvous and of each collective


class ModelWorker:
    """One rank of a model. `start` on every rank at once; then every method but `address`, `describe`, `memory` and
    `release` is a collective.

    A plain class; Ray is applied elsewhere.
    """

    def __init__(self) -> None:
        self._engine: TrainEngine | None = None

    def address(self) -> tuple[str, int]:
        """(ip, free port) of this node: what rank 0's `start` and all others' take as the meeting point."""
        return process.free_address()

    @property
    def engine(self) -> TrainEngine:
        if self._engine is None:
            raise RuntimeError("the worker was not started")
        return self._engine

    def describe(self) -> dict[str, Any]:
        """pid, node, rank, world_size, device, dtype, zero_stage (the one that runs) and parameters."""
        return process.identity() | self.engine.describe()

    def memory(self) -> dict[str, float]:
        """Bytes; see `process.memory`."""
        return process.memory()

    def release(self) -> None:
        """Gives GPU memory that is only cached back to the driver, for another process on the GPU."""
        process.release()

    def save(self, directory: str) -> None:
        """See `TrainEngine.save`; of a model that is trained."""
        self.engine.save(directory)

    def load(self, directory: str) -> None:
        """See `TrainEngine.load`."""
        self.engine.load(directory)

    def shutdown(self) -> None:
        """Leaves the process group. The worker can not be started again."""
        self._engine = None
        leave_distributed()


class LanguageModelWorker(ModelWorker):
    """A worker that scores tokens and can send its weights to the rollout engines."""

    def __init__(self) -> None:
        super().__init__()
        self._sender: WeightSender | None = None

    def logprobs(self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]], temperature: float) -> Float32:
        """[b, T] float32; see `TrainEngine.logprobs`."""
        return self.engine.logprobs(shard, micro_batches, temperature)

    def connect(
        self,
        backend: str,
        engines: Sequence[Any],
        dtype: str,
        bucket_bytes: int,
        deadline_s: float,
        tensor_parallel_size: int = 1,
    ) -> None:
        """Joins this group to the rollout engines. Call again after one was replaced, or this group's own engine.

        Args:
            backend: "host", "ipc", "nccl" or "gloo", as `choose_backend` says.
            engines: handles of all rollout actors.
            dtype: of the rollout engines, e.g. "bfloat16"; weights are cast to it before they travel.
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
        """Before the engine is replaced: the sender holds it, and the new one has to be connected anew."""
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
        """Leaves the process group. The worker can not be started again."""
        self.disconnect()
        super().shutdown()


def join(spec: StartSpec) -> None:
    """Prepares this process and joins it to its group: what `start` does before it loads a model."""
    process.prepare(spec.threads, spec.seed)
    init_distributed(spec.rank, spec.world_size, spec.master_addr, spec.master_port, spec.device, spec.timeout_s)


def train_step(
    engine: TrainEngine,
    shard: TrainBatch,
    micro_batches: Sequence[Sequence[int]],
    learning_rate: float,
    loss: Callable[[TrainBatch], tuple[Tensor, Metrics]],
    name: str,
) -> Metrics:
    """One optimizer step on the sum of the losses of all micro-batches of all ranks.

    A loss or gradient that is not finite skips the step, on every rank alike, and is counted.

    Args:
        shard: this rank's rows; may have none.
        micro_batches: rows of each pass. Every rank has the same number; an empty one is run as a unit of padding,
            which adds nothing to the loss.
        loss: of one micro-batch, and its metrics.
        name: of the model, first part of the metrics' names.

    Returns:
        The loss's metrics of this rank's rows, and <name>/grad_norm (before clipping), <name>/lr and
        <name>/skipped_steps, the last counted by rank 0 alone, so that merging over ranks counts a step once.

    Raises:
        ValueError: no micro-batch, or not the same number on every rank.
    """
    engine.check_agreement(len(micro_batches), "the number of micro-batches")
    if not micro_batches:
        raise ValueError("an update needs at least one micro-batch")
    parts: list[Metrics] = []
    for i, rows in enumerate(micro_batches):
        value, metrics = loss(shard.select(rows) if len(rows) else padding_row(shard))
        engine.backward(value, last=i == len(micro_batches) - 1)
        if len(rows):  # padding has nothing to report
            parts.append(metrics)
    norm, stepped = engine.step(learning_rate)
    own: Metrics = {
        f"{name}/grad_norm": Last(norm if stepped else math.nan),
        f"{name}/lr": Last(learning_rate),
        f"{name}/skipped_steps": Sum(0.0 if stepped or engine.rank else 1.0),
    }
    return merge([*parts, own])


def padding_row(like: TrainBatch) -> TrainBatch:
    """A unit of rows of two tokens, none trained, with the optional arrays that `like` has."""
    count = like.rows_per_unit
    zeros = np.zeros((count, 2), dtype=np.float32)
    empty = TrainBatch(
        tokens=np.zeros((count, 2), dtype=np.int32),
        lengths=np.full(count, 2, dtype=np.int32),
        loss_mask=np.zeros((count, 2), dtype=np.bool_),
        sample_ids=[""] * count,
        scores=None if like.scores is None else zeros[:, 0],
        rows_per_unit=count,
    )
    return empty.with_arrays(**{n: zeros.copy() for n in TrainBatch.ARRAYS if getattr(like, n) is not None})
