"""Moves the memory of a model to the host and back, while rollout engines use its GPU.

Whole storages are moved: every tensor and view of them stays valid, and is empty until the storage is back. DeepSpeed
0.19.8 has `offload_states`, but under ZeRO-3 it refuses every optimizer except its FusedAdam, after ZeRO 1 and 2 its
views of the moments are stale, and it refuses ZeRO-0 in float32 and models without an optimizer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from actors.config.schema import Offload

GRADIENTS = ("fp32_groups_gradients_flat", "grad_partitions_flat_buffer")  # of DeepSpeed's optimizers
CHUNK_BYTES = 256 << 20  # of pinned memory, which torch rounds up to powers of two


class Held(enum.IntEnum):
    """What stays on the GPU of a model, or must be there."""

    NOTHING = 0
    WEIGHTS = 1  # for forward passes and the weight sync
    ALL = 2  # with optimizer states and gradients, for updates and checkpoints


class ModelMemory:
    """The memory of a model and its training state. `module` is what DeepSpeed trains."""

    def __init__(self, offload: Offload, module: nn.Module, device: torch.device) -> None:
        self._offload, self._module, self._device = offload, module, device
        self._weights, self._training = HostMemory(), HostMemory()

    def need(self, held: Held) -> None:
        """Brings `held` back to the GPU."""
        self._weights.give_back()
        if held is Held.ALL:
            self._training.give_back()

    def release(self, held: Held, optimizer: Any) -> None:
        """Moves to host memory what `engine.offload` names, except `held`.

        Only between two updates, when gradients are zero: they are not copied.

        Args:
            optimizer: DeepSpeed's; None without training.
        """
        if self._offload is Offload.none or held is Held.ALL:
            return
        if hasattr(optimizer, "empty_partition_cache") and not self._weights:  # ZeRO-3's gathered parameters
            optimizer.empty_partition_cache()
        parameters = [x for p in self._module.parameters() for x in (p, getattr(p, "ds_tensor", p))]
        weights = self._storages([*parameters, *self._module.buffers()])
        gradients, state = self._training_storages(optimizer)
        self._training.take((s for key, s in gradients.items() if key not in weights), keep=False)
        self._training.take(s for key, s in state.items() if key not in weights)
        if self._offload is Offload.all and held is Held.NOTHING:
            self._weights.take(weights.values())

    def _training_storages(self, optimizer: Any) -> tuple[dict[int, UntypedStorage], dict[int, UntypedStorage]]:
        """Those of gradients, and all that optimizer and DeepSpeed keep."""
        if optimizer is None:
            return {}, {}
        buckets = [bucket.buffer for bucket in getattr(optimizer, "ipg_buckets", {}).values()]  # of ZeRO-3
        flat = [getattr(optimizer, name, None) for name in GRADIENTS]
        kept = [vars(optimizer), vars(getattr(optimizer, "optimizer", optimizer))]
        return self._storages(tensors_in([buckets, flat])), self._storages(tensors_in(kept))

    def _storages(self, tensors: Iterable[Tensor]) -> dict[int, UntypedStorage]:
        """The storages on the device, each once."""
        found = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == self._device.type)
        return {storage._cdata: storage for storage in found}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


class HostMemory:
    """Storages in host memory."""

    def __init__(self) -> None:
        self._moved: list[tuple[UntypedStorage, int, list[Tensor] | None]] = []

    def __bool__(self) -> bool:
        return bool(self._moved)

    def take(self, moved: Iterable[UntypedStorage], keep: bool = True) -> None:
        """Moves the contents to host memory and frees the storages. Without `keep` they return as zeros."""
        new = []
        for storage in moved:
            if size := storage.nbytes():
                new.append((storage, size, [_copy(part) for part in _parts(storage)] if keep else None))
        _synchronize()
        for storage, _, _ in new:
            storage.resize_(0)
        self._moved += new

    def give_back(self) -> None:
        """Allocates all storages again, with their contents."""
        for storage, size, host in self._moved:
            storage.resize_(size)
            for i, part in enumerate(_parts(storage)):
                part.copy_(host[i], non_blocking=True) if host else part.zero_()
        _synchronize()
        self._moved.clear()


def _parts(storage: UntypedStorage) -> Sequence[Tensor]:
    return torch.split(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage), CHUNK_BYTES)


def _copy(part: Tensor) -> Tensor:
    host = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
    return host.copy_(part, non_blocking=True)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
