"""Format of a bucket: names, dtypes, shapes and offsets into one flat buffer of bytes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

ALIGNMENT = 64  # bytes; views into the flat buffer stay aligned for their dtype and AVX-512

Bucket = list[tuple[str, torch.Tensor]]
Payload = dict[str, Any]


def header(bucket: Bucket, dtype: torch.dtype | None = None) -> Payload:
    """Layout of a bucket in a flat buffer; floating tensors are cast to `dtype`.

    Returns:
        `names` [N], `dtype_names` [N], `shapes` [N], `offsets` [N] (bytes), `num_bytes` of the buffer.
    """
    kinds = [dtype if dtype is not None and t.is_floating_point() else t.dtype for _, t in bucket]
    placed: dict[int, int] = {}  # a tied weight has two names, but is sent once
    offsets, end = [], 0
    for (_, tensor), kind in zip(bucket, kinds, strict=True):
        offset = placed.setdefault(id(tensor), end)
        offsets.append(offset)
        if offset == end:
            end += -(-tensor.numel() * kind.itemsize // ALIGNMENT) * ALIGNMENT
    return {
        "names": [name for name, _ in bucket],
        "dtype_names": [str(kind).removeprefix("torch.") for kind in kinds],
        "shapes": [list(tensor.shape) for _, tensor in bucket],
        "offsets": offsets,
        "num_bytes": end,
    }


def fill(flat: torch.Tensor, bucket: Bucket, head: Mapping[str, Any]) -> None:
    """Copies tensors from any device into `flat` (uint8, at least `num_bytes`) in the layout `head`."""
    for (_, source), (_, target) in zip(bucket, views(flat, head), strict=True):
        target.copy_(source.detach())


def views(flat: torch.Tensor, head: Mapping[str, Any]) -> Bucket:
    """The tensors of the layout `head`, as views of `flat`."""
    bucket = []
    fields = (head["names"], head["dtype_names"], head["shapes"], head["offsets"])
    for name, dtype_name, shape, offset in zip(*fields, strict=True):
        dtype = getattr(torch, dtype_name)
        size = math.prod(shape) * dtype.itemsize
        bucket.append((name, flat[offset : offset + size].view(dtype).view(shape)))
    return bucket


def pack(bucket: Bucket, dtype: torch.dtype | None = None) -> Payload:
    """`header` and, as `buffer`, the bucket in host memory (uint8 numpy array)."""
    head = header(bucket, dtype)
    buffer = np.empty(head["num_bytes"], dtype=np.uint8)
    fill(torch.from_numpy(buffer), bucket, head)
    return head | {"buffer": buffer}


def tensor_of(buffer: Any) -> torch.Tensor:
    """A tensor that shares memory with a NumPy array. Do not write to it: arrays from Ray are read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(buffer)


def unpack(payload: Mapping[str, Any]) -> Bucket:
    """The tensors of `pack`, as views of its buffer."""
    return views(tensor_of(payload["buffer"]), payload)
