"""Sums over the rows of flat tensors: row b is `x[offsets[b]:offsets[b + 1]]`. No loop over tokens, no padding."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlcore.ops.checks import at_least_float32, require_rank

BLOCK = 16  # tokens summed by one product with a small matrix


def row_sums(x: Float[Tensor, " N"], offsets: Int[Tensor, " rows"]) -> Float[Tensor, " B"]:
    """[B] sums of the rows, 0 of an empty one; float32 (float64 for float64 input).

    >>> row_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2, 3])).tolist()
    [3.0, 0.0, 4.0]
    """
    require_rank(1, x=x, offsets=offsets)
    return torch.segment_reduce(at_least_float32(x), "sum", offsets=offsets, initial=0.0)


def discounted_sums(x: Float[Tensor, " N"], offsets: Int[Tensor, " rows"], factor: float) -> Float[Tensor, " N"]:
    """Sums from every entry to the end of its row, `y_t = x_t + factor * y_{t + 1}`; y after the last entry is 0.

    Rows are cut into blocks of `BLOCK` entries, summed by a product with the matrix of powers of `factor`. The sums of
    whole blocks are rows of the same kind, with the factor to the power of `BLOCK`: their discounted sums are what each
    block still lacks. So it takes log_BLOCK of the longest row such steps, in float64.

    Args:
        x: [N] finite numbers.
        offsets: [B + 1] from 0 to N.
        factor: from 0 to 1.

    Returns:
        [N] float32 (float64 for float64 input).

    >>> discounted_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 3, 4]), 0.5).tolist()
    [3.0, 4.0, 4.0, 8.0]
    """
    require_rank(1, x=x, offsets=offsets)
    return _sums(x.double(), offsets, factor).to(at_least_float32(x).dtype)


def _sums(x: Tensor, offsets: Tensor, factor: float) -> Tensor:
    lengths = offsets.diff()
    size = min(BLOCK, int(lengths.max())) if len(x) else 1
    blocks = (lengths + size - 1) // size
    starts = torch.nn.functional.pad(blocks.cumsum(0), (1, 0))  # first block of each row
    places = torch.arange(len(x)) + (starts[:-1] * size - offsets[:-1]).repeat_interleave(lengths)
    filled = x.new_zeros(int(starts[-1]) * size)
    filled[places] = x
    steps = torch.arange(size)
    exponents = steps[:, None] - steps  # entry j counts for entry i of its block with factor to the power of j - i
    sums = filled.view(-1, size) @ torch.where(exponents >= 0, x.new_tensor(factor) ** exponents.clamp(min=0), 0.0)
    if bool((blocks > 1).any()):
        later = torch.nn.functional.pad(_sums(sums[:, 0].contiguous(), starts, factor**size)[1:], (0, 1))
        later[starts[1:][blocks > 0] - 1] = 0.0  # nothing follows the last block of a row
        sums += later[:, None] * x.new_tensor(factor) ** (size - steps)
    return sums.flatten()[places]
