"""Between processes on one GPU: a flat bucket in GPU memory, whose CUDA IPC handle Ray carries.

Every policy rank packs on its own GPU, and the handles of all ranks travel together, keyed by the GPU's UUID: an engine
finds the one of its own GPU, whatever its rank. Two buffers take turns; a bucket with a tensor that is larger than the
buffer makes the buffer grow. They exist only during an update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from actors.weights.fleet import Fleet
from actors.weights.records import Bucket, Payload, fill, header

DEVICE_ARGUMENT = 6  # of `rebuild_cuda_tensor`: the device's index, which differs between processes


class IpcLink:
    """The trainer's half. See `sender.Link`. Tensors must be full and on the GPU on every policy rank."""

    everywhere, exclusive = True, False
    joined = True  # there is no group that could break

    def __init__(self, dtype: torch.dtype, bucket_bytes: int, device: str = "cuda:0") -> None:
        self.dtype, self.bucket_bytes, self.device = dtype, bucket_bytes, torch.device(device)
        self.slots: list[torch.Tensor | None] = [None, None]
        self.turn = 0

    def join(self, fleet: Fleet) -> None:
        fleet.call("init_weights", {"transport": "ipc"})

    def pack(self, bucket: Bucket) -> Payload:
        head = header(bucket, self.dtype)
        flat = self._slot(head["num_bytes"])
        fill(flat, bucket, head)
        return head | {"handles": {gpu_uuid(self.device): export(flat)}}

    def _slot(self, num_bytes: int) -> torch.Tensor:
        """The buffer whose turn it is; the bucket it held before has been loaded (`meet`)."""
        self.turn = (self.turn + 1) % len(self.slots)
        flat = self.slots[self.turn]
        if flat is None or flat.numel() < num_bytes:
            self.slots[self.turn] = None  # freed before the larger one is taken
            size = max(num_bytes, self.bucket_bytes)
            self.slots[self.turn] = flat = torch.empty(size, dtype=torch.uint8, device=self.device)
        return flat

    def meet(self, payload: Payload) -> Payload:
        """The payload with the handles of all policy ranks; once it returns, every rank has packed its own."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return payload
        parts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, payload["handles"])
        return payload | {"handles": {uuid: handle for part in parts for uuid, handle in part.items()}}

    def transmit(self, fleet: Fleet, calls: dict[Any, int]) -> None:
        pass

    def close(self, last: bool = False) -> None:
        self.slots = [None, None]
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


class IpcInbox:
    """The engine's half: copies the bucket at once, since vLLM keeps tensors until their layer is complete."""

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
    """The handle of a buffer in GPU memory; what was written to it has arrived."""
    from torch.multiprocessing.reductions import reduce_tensor

    synchronize(flat.device)
    arguments: tuple[Any, ...] = reduce_tensor(flat)[1]  # type: ignore[no-untyped-call]
    return arguments


def imported(handle: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """The buffer that another process exported, as memory of this process's `device`. To be dropped soon."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    arguments = list(handle)
    arguments[DEVICE_ARGUMENT] = device.index or 0
    flat: torch.Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
    return flat


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
