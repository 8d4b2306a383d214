"""Transport between processes on one GPU: a flat bucket in GPU memory; Ray sends its CUDA IPC handle.

Every policy rank packs on its GPU, and the handles of all ranks are sent together, keyed by GPU UUID: an engine uses
the handle of its GPU. Two buffers alternate; a tensor larger than the buffer makes it grow. Buffers exist only during
an update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from actors.weights.engine_group import EngineGroup
from actors.weights.records import Bucket, Payload, fill, header

DEVICE_ARGUMENT = 6  # argument of `rebuild_cuda_tensor`: device index, which differs between processes


class IpcLink:
    """The trainer side. See `sender.Link`. Tensors must be full and on the GPU on every policy rank."""

    everywhere, exclusive = True, False
    joined = True  # no group, so nothing can break

    def __init__(self, dtype: torch.dtype, bucket_bytes: int, device: str = "cuda:0") -> None:
        self.dtype, self.bucket_bytes, self.device = dtype, bucket_bytes, torch.device(device)
        self.slots: list[torch.Tensor | None] = [None, None]
        self.turn = 0

    def join(self, engine_group: EngineGroup) -> None:
        engine_group.call("init_weights", {"transport": "ipc"})

    def pack(self, bucket: Bucket) -> Payload:
        head = header(bucket, self.dtype)
        flat = self._slot(head["num_bytes"])
        fill(flat, bucket, head)
        return head | {"handles": {gpu_uuid(self.device): export(flat)}}

    def _slot(self, num_bytes: int) -> torch.Tensor:
        """The next buffer; its previous bucket is already loaded (`meet`)."""
        self.turn = (self.turn + 1) % len(self.slots)
        flat = self.slots[self.turn]
        if flat is None or flat.numel() < num_bytes:
            self.slots[self.turn] = None  # freed before the larger one is allocated
            size = max(num_bytes, self.bucket_bytes)
            self.slots[self.turn] = flat = torch.empty(size, dtype=torch.uint8, device=self.device)
        return flat

    def meet(self, payload: Payload) -> Payload:
        """The payload with the handles of all policy ranks; after it returns every rank has packed."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return payload
        parts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, payload["handles"])
        return payload | {"handles": {uuid: handle for part in parts for uuid, handle in part.items()}}

    def transmit(self, engine_group: EngineGroup, calls: dict[Any, int]) -> None:
        pass

    def close(self, last: bool = False) -> None:
        self.slots = [None, None]
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


class IpcInbox:
    """The engine side: copies the bucket immediately, because vLLM keeps tensors until their layer is complete."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def receive(self, info: Any) -> Callable[[], torch.Tensor]:
        uuid = gpu_uuid(self.device)
        if uuid not in info.handles:
            raise ValueError(
                f"weight sync by ipc: no policy rank lives on this engine's GPU {uuid} (ranks are on "
                f"{', '.join(sorted(info.handles))}); colocate rollout with policy, or set rollout.weight_sync=nccl"
            )
        flat = imported(info.handles[uuid], self.device)[: info.num_bytes].clone()
        synchronize(self.device)
        return lambda: flat

    def close(self) -> None:
        pass


def gpu_uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def export(flat: torch.Tensor) -> tuple[Any, ...]:
    """The handle of a buffer in GPU memory, after all writes to it have finished."""
    from torch.multiprocessing.reductions import reduce_tensor

    synchronize(flat.device)
    arguments: tuple[Any, ...] = reduce_tensor(flat)[1]  # type: ignore[no-untyped-call]
    return arguments


def imported(handle: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """The buffer of another process as memory of `device`. Release it soon."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    arguments = list(handle)
    arguments[DEVICE_ARGUMENT] = device.index or 0
    flat: torch.Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
    return flat


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
