"""The trainer's end of the weight sync: what is sent, to whom, and the course of one update.

An update is `begin_update`, any number of `load_bucket`, `finish_update` on every engine
(`actors.generation.rollout`). How a bucket travels is a `Link`: through host memory, by CUDA IPC, or over a process
group (`actors.weights`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from actors.config.schema import RolloutConfig, WeightSyncBackend
from actors.weights.collective import CollectiveLink
from actors.weights.fleet import Fleet, WeightSyncError
from actors.weights.host import HostLink
from actors.weights.ipc import IpcLink
from actors.weights.records import Bucket, Payload

__all__ = ["WeightSource", "WeightSyncError", "choose_backend", "make_sender"]

HOST_BACKEND = "host"
GROUP_BACKENDS = ("nccl", "gloo")  # an engine belongs to one sender at a time, and no engine is sent to alone


class WeightSource(Protocol):
    def buckets(self, max_bytes: int) -> Iterator[Bucket]:
        """Every weight as a checkpoint holds it, in buckets of at most `max_bytes` (or one tensor).

        A tied weight comes under each of its names, since a CPU engine keeps a repacked copy of the output head.

        Iterating is a collective of all policy ranks. Tensors are full on rank 0; elsewhere they may be empty, except
        that the `ipc` backend needs them full on every rank.
        """
        ...


class WeightSender(Protocol):
    """Lives on every policy rank; `connect` and `send` are collectives, only rank 0 talks to the engines."""

    def connect(self, engines: Sequence[Any]) -> None:
        """`engines`: handles of all rollout actors. Call again after one was replaced."""
        ...

    def send(self, version: int, engines: Sequence[int] | None = None) -> dict[str, float]:
        """Sends all weights as `version` to the engines with these positions (None: all).

        Returns:
            bytes (as sent, each engine counted once), seconds, buckets, and pause_s, the longest time for which
            requests under way on an engine had to wait; zeros on ranks other than 0.

        Raises:
            WeightSyncError: engines failed or were late; the others have the new version.
        """
        ...

    def close(self) -> None:
        """Gives up the connection."""
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
    """The trainer's half of a transport: how one bucket reaches the engines."""

    everywhere: bool  # every policy rank packs, not rank 0 alone
    exclusive: bool  # all engines take part in every update

    @property
    def joined(self) -> bool:
        """Whether the engines know this link, and the group, if there is one, is whole."""
        ...

    def join(self, fleet: Fleet) -> None:
        """Makes the engines ready to receive; rank 0. Failures are noted in `fleet`."""
        ...

    def pack(self, bucket: Bucket) -> Payload:
        """The bucket, copied to where it will be read from; only the two last stay there."""
        ...

    def meet(self, payload: Payload) -> Any:
        """What `load_bucket` of the engines takes. Where `everywhere`, it waits until every rank has packed."""
        ...

    def transmit(self, fleet: Fleet, calls: dict[Any, int]) -> None:
        """After `load_bucket` was called on the engines (`calls`); rank 0. Failures are noted in `fleet`."""
        ...

    def close(self, last: bool = False) -> None:
        """After an update: frees its buffers. `last`: the link is not used again."""
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
        rank: of this policy process; 0 talks to the engines.
        dtype: of the rollout engines; weights are cast to it before they travel.
        deadline_s: of a whole `send`, and of a whole `connect`.
    """
    link: Link
    if backend == HOST_BACKEND:
        link = HostLink(dtype)
    elif backend == "ipc":
        link = IpcLink(dtype, bucket_bytes)
    elif backend in GROUP_BACKENDS:
        link = CollectiveLink(backend, dtype, tensor_parallel_size, deadline_s)
    else:
        raise ValueError(f"no weight sender for backend {backend!r}; there are host, ipc, nccl and gloo")
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
            fleet = Fleet(dict(enumerate(engines)), self.deadline_s)
            self.link.join(fleet)
            self._raise(-1, fleet)

    def close(self) -> None:
        """Gives up the connection; a new sender takes over."""
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
        fleet = Fleet({i: self.engines[i] for i in ranks}, self.deadline_s)
        try:
            return self._send(version, fleet)
        except WeightSyncError:
            raise
        except BaseException:  # the source failed: no engine may go on with half of its weights
            fleet.abort(fleet.engines)
            raise
        finally:
            self.link.close()

    def _send(self, version: int, fleet: Fleet) -> dict[str, float]:
        began, total, count = time.monotonic(), 0, 0
        if not self.link.joined:  # the group broke in an earlier update
            self.link.join(fleet)
        fleet.call("begin_update", version, self.deadline_s)
        loading: dict[Any, int] = {}
        for bucket in self.source.buckets(self.bucket_bytes):  # to the end, since other ranks count on this one
            if not fleet.alive and not self.link.everywhere:
                continue
            payload = self.link.pack(bucket)
            total, count = total + payload["num_bytes"], count + 1
            fleet.wait(loading, "load_bucket")
            message = self.link.meet(payload)
            loading = fleet.start("load_bucket", message)
            self.link.transmit(fleet, loading)
        fleet.wait(loading, "load_bucket")
        paused = fleet.call("finish_update", version)
        self._raise(version, fleet)
        seconds = time.monotonic() - began
        return {
            "bytes": float(total),
            "seconds": seconds,
            "pause_s": max(paused.values(), default=0.0),
            "buckets": float(count),
        }

    def _raise(self, version: int, fleet: Fleet) -> None:
        """WeightSyncError if an engine failed, after the update was dropped where it must be."""
        if not fleet.failed:
            return
        self_healing = self.link.exclusive and fleet.lost
        if version >= 0:
            fleet.abort(fleet.engines if self.link.exclusive else fleet.failed)
        raise WeightSyncError(version, {i: fleet.failed[i] for i in fleet.lost} if self_healing else fleet.failed)
