"""The trainer side of the weight sync.

An update is `begin_update`, any number of `load_bucket`, `finish_update` on every engine
(`actors.generation.rollout`). A `Link` transports buckets: through host memory, by CUDA IPC, or over a process group
(`actors.weights`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from actors.config.schema import RolloutConfig, WeightSyncBackend
from actors.weights.collective import CollectiveLink
from actors.weights.engine_group import EngineGroup, WeightSyncError
from actors.weights.host import HostLink
from actors.weights.ipc import IpcLink
from actors.weights.records import Bucket, Payload

__all__ = ["WeightSource", "WeightSyncError", "choose_backend", "make_sender"]

HOST_BACKEND = "host"
GROUP_BACKENDS = ("nccl", "gloo")  # engines have one sender at a time, and always receive all together


class WeightSource(Protocol):
    def buckets(self, max_bytes: int) -> Iterator[Bucket]:
        """All weights in checkpoint format, in buckets of at most `max_bytes` (or one tensor).

        A tied weight is listed under each of its names, because a CPU engine keeps a repacked copy of the output head.

        Iteration is a collective operation of all policy ranks. Tensors are complete on rank 0; on other ranks they may
        be empty, except for the `ipc` backend.
        """
        ...


class WeightSender(Protocol):
    """Runs on every policy rank; `connect` and `send` are collective operations, but only rank 0 calls the engines."""

    def connect(self, engines: Sequence[Any]) -> None:
        """Connects to `engines`, the handles of all rollout actors. Call again after a replacement."""
        ...

    def send(self, version: int, engines: Sequence[int] | None = None) -> dict[str, float]:
        """Sends all weights as `version` to the engines at these positions (None: all).

        Returns:
            bytes (each engine counted once), seconds, buckets, and pause_s, the longest time that running requests of
            an engine were paused; zeros on ranks other than 0.

        Raises:
            WeightSyncError: engines failed or were late; the others have the new version.
        """
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


def choose_backend(config: RolloutConfig, device: str, colocated: bool) -> str:
    """The backend for a layout: `host` on CPU, `ipc` when policy and rollout share GPUs, `nccl` otherwise.

    Raises:
        ValueError: `config.weight_sync` names a backend that cannot work in this layout.
    """
    wanted = config.weight_sync
    if wanted is WeightSyncBackend.auto:
        return "host" if device == "cpu" else "ipc" if colocated else "nccl"
    if wanted is WeightSyncBackend.host:
        return "host"
    if (device == "cpu") != (wanted is WeightSyncBackend.gloo):
        needs, cure = ("CPU", "nccl, ipc") if wanted is WeightSyncBackend.gloo else ("GPUs", "host, gloo")
        raise ValueError(f"rollout.weight_sync={wanted.value} needs {needs}; here use {cure} (or auto)")
    if wanted is WeightSyncBackend.ipc and not colocated:
        raise ValueError("rollout.weight_sync=ipc needs the rollout role colocated with the policy; use nccl (or auto)")
    if wanted is WeightSyncBackend.nccl and colocated:
        raise ValueError("rollout.weight_sync=nccl cannot join two processes on one GPU; colocated: use ipc")
    return str(wanted.value)


class Link(Protocol):
    """The trainer side of a transport."""

    everywhere: bool  # every policy rank packs, not only rank 0
    exclusive: bool  # all engines take part in every update

    @property
    def joined(self) -> bool:
        """True if the engines are connected to this link and its group, if any, is intact."""
        ...

    def join(self, engine_group: EngineGroup) -> None:
        """Prepares the engines to receive; on rank 0. Failures are recorded in the group."""
        ...

    def pack(self, bucket: Bucket) -> Payload:
        """Copies a bucket to its transfer buffer; only the last two are kept."""
        ...

    def meet(self, payload: Payload) -> Any:
        """The argument for `load_bucket` of the engines. With `everywhere` it waits until every rank has packed."""
        ...

    def transmit(self, engine_group: EngineGroup, calls: dict[Any, int]) -> None:
        """Called after `load_bucket` on the engines (`calls`); on rank 0. Failures are recorded in the group."""
        ...

    def close(self, last: bool = False) -> None:
        """Called after an update: frees its buffers. `last`: the link is not used again."""
        ...


def make_sender(
    backend: str,
    source: WeightSource,
    *,
    rank: int,
    dtype: torch.dtype,
    bucket_bytes: int,
    deadline_s: float,
    tensor_parallel_size: int = 1,
) -> Sender:
    """The sender of a backend chosen by `choose_backend`.

    Args:
        rank: of this policy process; rank 0 calls the engines.
        dtype: of the rollout engines; weights are cast to it before the transfer.
        deadline_s: for each complete `send` or `connect`.
    """
    link: Link
    if backend == HOST_BACKEND:
        link = HostLink(dtype)
    elif backend == "ipc":
        link = IpcLink(dtype, bucket_bytes)
    elif backend in GROUP_BACKENDS:
        link = CollectiveLink(backend, dtype, tensor_parallel_size, deadline_s)
    else:
        raise ValueError(f"no weight sender for backend {backend!r}; expected one of host, ipc, nccl, gloo")
    return Sender(source, bucket_bytes, link, rank, deadline_s)


class Sender:
    """`WeightSender` over any link. While the engines load a bucket, the next one is packed."""

    def __init__(self, source: WeightSource, bucket_bytes: int, link: Link, rank: int, deadline_s: float) -> None:
        self.source, self.bucket_bytes, self.link = source, bucket_bytes, link
        self.rank, self.deadline_s = rank, deadline_s
        self.engines: list[Any] = []

    def connect(self, engines: Sequence[Any]) -> None:
        self.engines = list(engines)
        if self.rank == 0:
            engine_group = EngineGroup(dict(enumerate(engines)), self.deadline_s)
            self.link.join(engine_group)
            self._raise(-1, engine_group)

    def close(self) -> None:
        """Closes the connection; a new sender takes over."""
        self.link.close(last=True)

    def send(self, version: int, engines: Sequence[int] | None = None) -> dict[str, float]:
        if self.rank != 0:
            for bucket in self.source.buckets(self.bucket_bytes):
                if self.link.everywhere:
                    self.link.meet(self.link.pack(bucket))
            self.link.close()
            return dict.fromkeys(("bytes", "seconds", "pause_s", "buckets"), 0.0)
        if not self.engines:
            raise RuntimeError("send before connect")
        ranks = list(range(len(self.engines))) if engines is None else list(engines)
        if self.link.exclusive and sorted(ranks) != list(range(len(self.engines))):
            raise ValueError("this backend sends to all engines at once; connect again after one was replaced")
        engine_group = EngineGroup({i: self.engines[i] for i in ranks}, self.deadline_s)
        try:
            return self._send(version, engine_group)
        except WeightSyncError:
            raise
        except BaseException:  # the source failed: no engine may use partly updated weights
            engine_group.abort(engine_group.engines)
            raise
        finally:
            self.link.close()

    def _send(self, version: int, engine_group: EngineGroup) -> dict[str, float]:
        began, total, count = time.monotonic(), 0, 0
        if not self.link.joined:  # the group broke in an earlier update
            self.link.join(engine_group)
        engine_group.call("begin_update", version, self.deadline_s)
        loading: dict[Any, int] = {}
        for bucket in self.source.buckets(self.bucket_bytes):  # iterate to the end, because other ranks take part
            if not engine_group.alive and not self.link.everywhere:
                continue
            payload = self.link.pack(bucket)
            total, count = total + payload["num_bytes"], count + 1
            engine_group.wait(loading, "load_bucket")
            message = self.link.meet(payload)
            loading = engine_group.start("load_bucket", message)
            self.link.transmit(engine_group, loading)
        engine_group.wait(loading, "load_bucket")
        paused = engine_group.call("finish_update", version)
        self._raise(version, engine_group)
        seconds = time.monotonic() - began
        return {
            "bytes": float(total),
            "seconds": seconds,
            "pause_s": max(paused.values(), default=0.0),
            "buckets": float(count),
        }

    def _raise(self, version: int, engine_group: EngineGroup) -> None:
        """Returns a WeightSyncError if an engine failed, after the update is aborted where necessary."""
        if not engine_group.failed:
            return
        self_healing = self.link.exclusive and engine_group.lost
        if version >= 0:
            engine_group.abort(engine_group.engines if self.link.exclusive else engine_group.failed)
        failed = engine_group.failed
        raise WeightSyncError(version, {i: failed[i] for i in engine_group.lost} if self_healing else failed)
