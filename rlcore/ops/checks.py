"""Shape checks shared by the ops: a broadcast bug fails where it starts, with the names of the arguments."""

from __future__ import annotations

import torch
from torch import Tensor


def require_rank(rank: int, **tensors: Tensor | None) -> None:
    """Raises ValueError unless every given tensor has `rank` dimensions; None is skipped."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.ndim != rank:
            raise ValueError(f"{name} must have {rank} dimensions, it has shape {tuple(tensor.shape)}")


def require_same_shape(**tensors: Tensor | None) -> None:
    """Raises ValueError unless all given tensors have one shape; None is skipped."""
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        raise ValueError("shapes differ: " + ", ".join(f"{name} {shape}" for name, shape in given.items()))


def as_mask(mask: Tensor) -> Tensor:
    """`mask` as bool. Numbers are accepted if all are 0 or 1: a mask selects entries and never weights them.

    Raises:
        ValueError: it holds another number.
    """
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask must hold only 0 and 1")
    return mask.bool()


def require_tokens(mask: Tensor, **tensors: Tensor | None) -> Tensor:
    """Checks that all tensors are [B, T] with equal shapes, and returns the mask as bool."""
    require_rank(2, mask=mask)
    require_same_shape(mask=mask, **tensors)
    return as_mask(mask)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays float64. Statistics need more than half precision."""
    return x if x.dtype == torch.float64 else x.float()
