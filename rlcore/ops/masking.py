"""Statistics over the masked-in entries of a tensor. Masked-out entries may have any value, also NaN."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlcore.ops.checks import as_mask, at_least_float32, require_same_shape


def keep(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where `mask`, 0 elsewhere. A product with the mask would give `0 * inf = nan`, forward and backward."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_sum(x: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """`sum_{i: mask_i} x_i` over `dim` (all dimensions when None), in float32 or better."""
    kept = keep(at_least_float32(x), mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], dim: int | tuple[int, ...] | None = None
) -> Tensor:
    """Mean of the masked-in entries.

        mean = sum_i mask_i x_i / sum_i mask_i          0 where the mask is empty

    Args:
        x: any shape.
        mask: bool, the shape of `x`.
        dim: dimension(s) to reduce; None reduces all of them.

    Returns:
        Float32 (float64 for float64 input), `x`'s shape without `dim`.

    Raises:
        ValueError: shapes differ, or the mask is not one of 0 and 1.
    """
    mask = as_mask(mask)
    require_same_shape(x=x, mask=mask)
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_whiten(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], shift_mean: bool = True, eps: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """Scales to zero mean and unit (biased) variance over all masked-in entries.

        y_i = (x_i - mu) / sqrt(var + eps),   mu = mean(x),   var = mean((x - mu)^2)

    Args:
        x: any shape.
        mask: bool, the shape of `x`; statistics are taken over all its True entries together.
        shift_mean: False adds `mu` back, so that only the variance changes.
        eps: added to the variance.

    Returns:
        Float32 (float64 for float64 input), the shape of `x`; 0 where masked out.

    Raises:
        ValueError: shapes differ, or the mask is not one of 0 and 1.
    """
    mask = as_mask(mask)
    mu = masked_mean(x, mask)
    centred = keep(at_least_float32(x), mask) - mu
    var = masked_mean(centred.square(), mask)
    whitened = centred * torch.rsqrt(var + eps)
    return keep(whitened if shift_mean else whitened + mu, mask)
