"""The critic's loss, per token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlcore.ops.checks import at_least_float32, require_tokens
from rlcore.ops.masking import keep


def clipped_value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float | None,
) -> Float[Tensor, "B T"]:
    """Squared error of the critic, with clipping of its change from the old values.

        V_clipped = V_old + clip(V - V_old, -c, c)
        L = 1/2 max((V - R)^2, (V_clipped - R)^2)

    Args:
        values: [B, T] V, with gradient.
        old_values: [B, T] V_old, the critic's at batch start.
        returns: [B, T] R, the target.
        mask: [B, T] bool.
        clip: c in the units of the return; None leaves `1/2 (V - R)^2`.

    Returns:
        [B, T] float32 (float64 for float64 input), 0 outside the mask.

    Raises:
        ValueError: shapes differ, are not [B, T], a mask that is not one of 0 and 1, or a `clip` below 0.

    Source: the value loss of the PPO reference implementation (arXiv 1707.06347; described in 2005.12729 section 2).
    """
    mask = require_tokens(mask, values=values, old_values=old_values, returns=returns)
    if clip is not None and clip < 0:
        raise ValueError(f"clip must not be negative, it is {clip}")
    new, old, target = (keep(at_least_float32(x), mask) for x in (values, old_values.detach(), returns.detach()))
    error = (new - target).square()
    if clip is not None:
        held = old + (new - old).clamp(-clip, clip)
        error = torch.maximum(error, (held - target).square())
    return error / 2
