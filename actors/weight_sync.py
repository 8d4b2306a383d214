"""The way of the weights from the policy ranks to the vLLM engines.

Two ends. Inside vLLM: a weight-transfer engine that reads from host memory, registered under the name "host" (entry
point `vllm.general_plugins`, so that vLLM's own worker processes know it too). On the trainer's ranks: a
`WeightSender`, one per backend. `host` works everywhere and is what CPU layouts use; `nccl` and `ipc`
(`actors.weight_gpu`) drive vLLM's own trainer engines.

One update is `begin_update`, any number of `load_bucket`, `finish_update` on every engine (`actors.rollout`). vLLM
repacks weights after loading, so it runs between `initialize_layerwise_reload` and `finalize_layerwise_reload`.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from actors.config import RolloutConfig, WeightSyncBackend
from actors.vllm_model import parameter_names
from rlcore.problems import UserError

HOST_BACKEND = "host"
ALIGNMENT = 64  # bytes; views into the flat buffer keep their dtype's alignment, and AVX-512 loads theirs
MAX_IN_FLIGHT = 2  # buckets sent ahead of the engines
ABORT_TIMEOUT_S = 30.0

Bucket = list[tuple[str, torch.Tensor]]
Payload = dict[str, Any]


class WeightSource(Protocol):
    def buckets(self, max_bytes: int) -> Iterator[Bucket]:
        """Every weight as a checkpoint holds it, in buckets of at most `max_bytes` (or one tensor).

        A tied weight comes under each of its names, since a CPU engine keeps a repacked copy of the output head.

        Iterating is a collective of all policy ranks. Tensors are full on rank 0; elsewhere they may be empty, except
        that the `ipc` backend needs them full on every rank.
        """
        ...


class WeightSender(Protocol):
    """Lives on every policy rank; both methods are collectives, only rank 0 talks to the engines."""

    def connect(self, engines: Sequence[Any]) -> None:
        """`engines`: handles of all rollout actors. Call again after one was replaced."""
        ...

    def send(self, version: int, engines: Sequence[int] | None = None) -> dict[str, float]:
        """Sends all weights as `version` to the engines with these positions (None: all).

        Returns:
            bytes (as sent, each engine counted once), seconds, buckets; zeros on ranks other than 0.

        Raises:
            WeightSyncError: engines failed or were late; the others have the new version.
        """
        ...


class WeightSyncError(UserError, RuntimeError):
    """`failed` maps the position of an engine to what it said. Every engine not named holds the new version."""

    def __init__(self, version: int, failed: Mapping[int, str]) -> None:
        self.version, self.failed = version, dict(failed)
        told = "; ".join(f"rollout[{i}]: {text}" for i, text in sorted(self.failed.items()))
        super().__init__(f"weight sync to version {version} failed: {told}")

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightSyncError, (self.version, self.failed)


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
    if device == "cpu":
        raise ValueError(f"rollout.weight_sync={wanted.value} needs GPUs; on CPU use host (or auto)")
    if wanted is WeightSyncBackend.ipc and not colocated:
        raise ValueError("rollout.weight_sync=ipc needs the rollout role colocated with the policy; use nccl (or auto)")
    if wanted is WeightSyncBackend.nccl and colocated:
        raise ValueError("rollout.weight_sync=nccl cannot join two processes on one GPU; colocated: use ipc")
    return str(wanted.value)


# ---- a bucket on the wire: names, dtypes, shapes and one flat buffer


def pack(bucket: Bucket, dtype: torch.dtype | None = None) -> Payload:
    """Copies tensors of any device into one flat host buffer; floating tensors are cast to `dtype` on the way.

    Returns:
        `names` [N], `dtype_names` [N], `shapes` [N], `offsets` [N] (bytes), `buffer` (uint8).
    """
    kinds = [dtype if dtype is not None and t.is_floating_point() else t.dtype for _, t in bucket]
    sizes = [t.numel() * kind.itemsize for (_, t), kind in zip(bucket, kinds, strict=True)]
    ends = np.cumsum([-(-size // ALIGNMENT) * ALIGNMENT for size in sizes], dtype=np.int64)
    offsets = [0, *ends[:-1].tolist()] if bucket else []
    buffer = np.empty(int(ends[-1]) if bucket else 0, dtype=np.uint8)
    for (_, tensor), kind, size, offset in zip(bucket, kinds, sizes, offsets, strict=True):
        if size:
            view = torch.from_numpy(buffer[offset : offset + size]).view(kind).view(tensor.shape)
            view.copy_(tensor.detach())
    return {
        "names": [name for name, _ in bucket],
        "dtype_names": [str(kind).removeprefix("torch.") for kind in kinds],
        "shapes": [list(tensor.shape) for _, tensor in bucket],
        "offsets": offsets,
        "buffer": buffer,
    }


def unpack(payload: Mapping[str, Any]) -> Bucket:
    """Tensors that view the payload's buffer (no copy). The buffer may be read-only: do not write to them."""
    bucket = []
    buffer = payload["buffer"]
    for name, dtype_name, shape, offset in zip(
        payload["names"], payload["dtype_names"], payload["shapes"], payload["offsets"], strict=True
    ):
        dtype = getattr(torch, dtype_name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with warnings.catch_warnings():  # arrays out of Ray's object store are read-only, which is all we need
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(buffer[offset : offset + size]) if size else torch.empty(0, dtype=torch.uint8)
        bucket.append((name, flat.view(dtype).view(shape)))
    return bucket


# ---- inside vLLM


@dataclass
class HostInitInfo:
    """Nothing to agree on."""


@dataclass
class HostUpdateInfo:
    """One bucket. `last`: no bucket follows, so every weight of the model must have arrived."""

    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    buffer: Any = None  # uint8 numpy array
    last: bool = False


@functools.cache
def host_engine_class() -> type:
    """The engine behind the backend "host". Built on the first call, because only then is vLLM imported."""
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.model_executor.model_loader import reload

    class HostWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]
        init_info_cls = HostInitInfo
        update_info_cls = HostUpdateInfo
        _open = False

        def init_transfer_engine(self, init_info: HostInitInfo) -> None:
            pass

        def start_weight_update(self) -> None:
            if self._open:  # the update before broke off: its half-filled layers would swallow tensors of this one
                self.finish_weight_update()
            reload.initialize_layerwise_reload(self.model)
            self._open, self._loaded = True, set[str]()
            self._expected = parameter_names(self.model)

        def receive_weights(self, update_info: HostUpdateInfo) -> None:
            if update_info.names:
                loaded = self.model.load_weights(unpack(vars(update_info)))
                self._loaded.update(update_info.names if loaded is None else loaded)
            if update_info.last:
                self._check_complete()

        def _check_complete(self) -> None:
            # vLLM only logs a layer that got nothing; with dummy weights at start that would mean sampling from noise
            if getattr(self.model_config, "quantization", None) is not None:
                return
            missing = sorted(min(names) for names in self._expected if not names & self._loaded)
            if missing:
                raise ValueError(f"the update lacks {len(missing)} weights of the model: {', '.join(missing[:8])}")

        def finish_weight_update(self) -> None:
            self._open = False
            reload.finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            pass

    return HostWeightTransferEngine


def register() -> None:
    """Makes the backend "host" known to vLLM. Entry point `vllm.general_plugins`; may run again."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if HOST_BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(HOST_BACKEND, host_engine_class())


# ---- on the trainer's ranks


def make_sender(
    backend: str,
    source: WeightSource,
    *,
    rank: int,
    dtype: torch.dtype,
    bucket_bytes: int,
    deadline_s: float,
    tensor_parallel_size: int = 1,
) -> WeightSender:
    """The sender of a backend chosen by `choose_backend`.

    Args:
        rank: of this policy process; 0 talks to the engines.
        dtype: of the rollout engines; weights are cast to it before they travel.
        deadline_s: of a whole `send`.
    """
    stream = WeightStream(source, bucket_bytes, dtype)
    if backend == HOST_BACKEND:
        return HostSender(stream, rank, deadline_s)
    if backend not in ("nccl", "ipc"):
        raise ValueError(f"no weight sender for backend {backend!r}; there are host, nccl and ipc")
    from actors.weight_gpu import IpcSender, NcclSender  # here: it needs vLLM in the trainer's process

    kind = NcclSender if backend == "nccl" else IpcSender
    return kind(stream, rank, deadline_s, tensor_parallel_size)


@dataclass
class WeightStream:
    """The source's buckets, and what they become on the way."""

    source: WeightSource
    bucket_bytes: int
    dtype: torch.dtype

    def buckets(self) -> Iterator[Bucket]:
        return self.source.buckets(self.bucket_bytes)

    def cast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self.dtype) if tensor.is_floating_point() else tensor.detach()


class Fleet:
    """Calls one method on several engines at once, under one deadline; remembers who failed and leaves them out."""

    def __init__(self, engines: Mapping[int, Any], deadline_s: float) -> None:
        self.engines = dict(engines)
        self.failed: dict[int, str] = {}
        self.ends_at = time.monotonic() + deadline_s
        self.deadline_s = deadline_s

    def start(self, method: str, *args: Any) -> dict[Any, int]:
        return {getattr(e, method).remote(*args): i for i, e in self.engines.items() if i not in self.failed}

    def wait(self, calls: Mapping[Any, int], phase: str) -> None:
        import ray

        refs = list(calls)
        left = max(self.ends_at - time.monotonic(), 0.001)
        done, late = ray.wait(refs, num_returns=len(refs), timeout=left) if refs else ([], [])
        for ref in done:
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                self.failed.setdefault(calls[ref], f"{phase}: {type(cause).__name__}: {cause}")
        for ref in late:
            self.failed.setdefault(calls[ref], f"{phase}: no answer within the deadline of {self.deadline_s:g} s")

    def call(self, method: str, *args: Any) -> None:
        self.wait(self.start(method, *args), method)

    def abort(self, ranks: Iterable[int]) -> None:
        """Best effort: an engine that cannot even abort is stopped by its own deadline."""
        import ray

        refs = [self.engines[i].abort_update.remote() for i in ranks]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=ABORT_TIMEOUT_S)

    def finish(self, version: int) -> None:
        """Raises WeightSyncError if an engine failed, after telling it to drop the update."""
        if self.failed:
            self.abort(self.failed)
            raise WeightSyncError(version, self.failed)


class HostSender:
    """Through host memory and Ray's object store: a bucket is packed and stored once for all engines."""

    def __init__(self, stream: WeightStream, rank: int, deadline_s: float) -> None:
        self.stream, self.rank, self.deadline_s = stream, rank, deadline_s
        self.engines: list[Any] = []

    def connect(self, engines: Sequence[Any]) -> None:
        self.engines = list(engines)
        if self.rank == 0:
            fleet = Fleet(dict(enumerate(engines)), self.deadline_s)
            fleet.call("init_weights", {})
            if fleet.failed:
                raise WeightSyncError(-1, fleet.failed)

    def send(self, version: int, engines: Sequence[int] | None = None) -> dict[str, float]:
        if self.rank != 0:
            for _ in self.stream.buckets():
                pass
            return {"bytes": 0.0, "seconds": 0.0, "buckets": 0.0}
        if not self.engines:
            raise RuntimeError("send before connect")
        ranks = range(len(self.engines)) if engines is None else engines
        fleet = Fleet({i: self.engines[i] for i in ranks}, self.deadline_s)
        try:
            return self._send(version, fleet)
        except WeightSyncError:
            raise
        except BaseException:  # the source failed: no engine may go on with half of its weights
            fleet.abort(fleet.engines)
            raise

    def _send(self, version: int, fleet: Fleet) -> dict[str, float]:
        import ray

        began, total, count = time.monotonic(), 0, 0
        fleet.call("begin_update", version, self.deadline_s)
        in_flight: list[tuple[dict[Any, int], Any]] = []
        for bucket in self.stream.buckets():
            if len(fleet.failed) == len(fleet.engines):
                continue  # nobody listens, but the other ranks still count on this rank in the collective
            payload = pack(bucket, self.stream.dtype)
            total, count = total + payload["buffer"].nbytes, count + 1
            ref = ray.put(payload)
            del payload
            in_flight.append((fleet.start("load_bucket", ref), ref))
            if len(in_flight) >= MAX_IN_FLIGHT:
                fleet.wait(in_flight.pop(0)[0], "load_bucket")
        for calls, _ in in_flight:
            fleet.wait(calls, "load_bucket")
        fleet.call("finish_update", version)
        fleet.finish(version)
        return {"bytes": float(total), "seconds": time.monotonic() - began, "buckets": float(count)}
