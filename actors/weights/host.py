"""Through host memory and Ray's object store: a bucket is packed and stored once for all engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actors.weights.fleet import Fleet
from actors.weights.records import Bucket, Payload, pack, tensor_of


class HostLink:
    """The trainer's half. See `actors.weights.sender.Link`."""

    everywhere = exclusive = False
    joined = True  # there is no group that could break

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def join(self, fleet: Fleet) -> None:
        fleet.call("init_weights", {"transport": "host"})

    def pack(self, bucket: Bucket) -> Payload:
        return pack(bucket, self.dtype)

    def meet(self, payload: Payload) -> Any:
        import ray

        return ray.put(payload)

    def transmit(self, fleet: Fleet, calls: dict[Any, int]) -> None:
        pass

    def close(self, last: bool = False) -> None:
        pass


class HostInbox:
    """The engine's half."""

    def receive(self, info: Any) -> Callable[[], torch.Tensor]:
        flat = tensor_of(info.buffer)  # read in place; whoever holds a view of it holds the object in the store
        return lambda: flat

    def close(self) -> None:
        pass
