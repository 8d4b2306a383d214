"""Transport through host memory and Ray's object store: a bucket is packed and stored once for all engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actors.weights.engine_group import EngineGroup
from actors.weights.records import Bucket, Payload, pack, tensor_of


class HostLink:
    """The trainer side. See `actors.weights.sender.Link`."""

    everywhere = exclusive = False
    joined = True  # no group, so nothing can break

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def join(self, engine_group: EngineGroup) -> None:
        engine_group.call("init_weights", {"transport": "host"})

    def pack(self, bucket: Bucket) -> Payload:
        return pack(bucket, self.dtype)

    def meet(self, payload: Payload) -> Any:
        import ray

        return ray.put(payload)

    def transmit(self, engine_group: EngineGroup, calls: dict[Any, int]) -> None:
        pass

    def close(self, last: bool = False) -> None:
        pass


class HostInbox:
    """The engine side."""

    def receive(self, info: Any) -> Callable[[], torch.Tensor]:
        flat = tensor_of(info.buffer)  # read in place; a view keeps the object in the store alive
        return lambda: flat

    def close(self) -> None:
        pass
