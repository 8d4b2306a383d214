"""Reduces per-token losses to a scalar, with denominators counted before the batch is split."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from rlcore.ops.checks import require_tokens
from rlcore.ops.masking import masked_mean, masked_sum

NUMERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token_mean": masked_sum,
    "seq_mean_token_mean": lambda x, mask: masked_mean(x, mask, 1).sum(),
    "seq_mean_token_sum": masked_sum,
    "seq_sum_constant": masked_sum,
}
COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "token_mean": lambda mask: mask.sum(),
    "seq_mean_token_mean": lambda mask: mask.any(1).sum(),
    "seq_mean_token_sum": lambda mask: mask.any(1).sum(),
    "seq_sum_constant": lambda mask: mask.any(1).sum(),
}


def count_denominator(mask: Bool[Tensor, "B T"], mode: str, constant: float | None = None) -> float:
    """Denominator of a whole batch, for `aggregate`.

    The number of masked-in tokens (`token_mean`), of rows that have one (`seq_mean_*`), or that number of rows times
    `constant` (`seq_sum_constant`; Dr.GRPO's constant is the longest response allowed). Additive over any split of the
    rows.

    Raises:
        ValueError: an unknown mode, a mask that is not [B, T] of 0 and 1, or `seq_sum_constant` without a constant.
    """
    mask = require_tokens(mask)
    if mode not in COUNTS:
        raise ValueError(f"mode must be one of {', '.join(COUNTS)}, it is {mode!r}")
    if mode == "seq_sum_constant" and constant is None:
        raise ValueError(f"mode {mode!r} needs a denominator or a constant")
    return float(COUNTS[mode](mask)) * (constant if mode == "seq_sum_constant" and constant is not None else 1.0)


def aggregate(
    per_token: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], mode: str, denominator: float | None = None
) -> Float[Tensor, ""]:
    """Reduces a per-token loss to a scalar `numerator / denominator`.

        mode                 numerator                          denominator when None is given
        token_mean           sum_i sum_t x_it                   number of masked-in tokens          DAPO
        seq_mean_token_mean  sum_i mean_t x_it                  number of rows with such a token    GRPO
        seq_mean_token_sum   sum_i sum_t x_it                   number of rows with such a token
        seq_sum_constant     sum_i sum_t x_it                   none: it must be given              Dr.GRPO

    Give the `denominator` of the whole optimizer batch, counted over all micro-batches and ranks before any backward:
    then the parts sum to the loss of the whole, however it was split.

    Args:
        per_token: [B, T]; masked-out entries may have any value, also NaN.
        mask: [B, T] bool.
        mode: a name above.
        denominator: above 0; see the table.

    Returns:
        A float32 scalar (float64 for float64 input); 0, with a gradient path, when nothing is masked in.

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, an unknown mode, a missing or non-positive denominator.

    Source: GRPO arXiv 2402.03300 equation 3; DAPO 2503.14476 equation 8; Dr.GRPO 2503.20783 section 3.
    """
    mask = require_tokens(mask, per_token=per_token)
    if mode not in NUMERATORS:
        raise ValueError(f"mode must be one of {', '.join(NUMERATORS)}, it is {mode!r}")
    if denominator is None:
        denominator = count_denominator(mask, mode) or 1.0
    if not denominator > 0:
        raise ValueError(f"denominator must be above 0, it is {denominator}")
    return NUMERATORS[mode](per_token, mask) / denominator
