"""Importance weights between the sampler and the trainer, and metrics of their difference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlcore.ops.checks import require_tokens
from rlcore.ops.kl import kl_estimate
from rlcore.ops.masking import keep, masked_mean
from rlcore.ops.policy_losses import MAX_LOG_RATIO, OpMetrics, log_ratio

LEVELS: dict[str, Callable[[Tensor], Tensor]] = {
    "token": lambda log_w: log_w,
    "sequence": lambda log_w: log_w.sum(1, keepdim=True).expand_as(log_w),
}
MODES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "truncate": lambda w, low, high: w.clamp(low, high),
    "mask": lambda w, low, high: keep(w, (w >= low) & (w <= high)),
}


@torch.no_grad()
def importance_weights(
    old_logprobs: Float[Tensor, "B T"],
    rollout_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: str,
    mode: str,
    low: float,
    high: float,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """Importance weights of samples from the rollout engine under the policy of the trainer.

        w_t = pi_old(y_t) / pi_rollout(y_t)                     level token
        w_t = prod_s pi_old(y_s) / pi_rollout(y_s)              level sequence: one weight for all tokens of a row
        truncate: clip(w, low, high)          mask: w where low <= w <= high, else 0

    Multiply the per-token policy loss by them; they carry no gradient. Tokens with weight 0 still count in the
    denominator of the loss.

    Args:
        old_logprobs: [B, T] the trainer's, at batch start.
        rollout_logprobs: [B, T] the sampler's, as sampled.
        mask: [B, T] bool.
        level: "token" or "sequence". mode: "truncate" or "mask".
        low, high: bounds of the weight, 0 <= low <= high; (0, C) with "truncate" is truncated importance sampling.

    Returns:
        [B, T] weights, 0 outside the mask, and metrics, scalars over the masked-in tokens: `kl` and `k3`
        (KL(rollout || old), estimators k1 and k3), `max_ratio` (of single tokens, before bounds), `ess` (effective
        sample size of the weights before bounds as a share of the tokens, (sum w)^2 / (n sum w^2)), `weight` (mean
        after bounds), `bounded` (share of tokens the bounds changed), and, to merge `ess` over parts of a batch, `sum`
        and `sum_squares` of the weights before bounds. All 0 when nothing is masked in.

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, an unknown name, or bounds out of order.

    Source: F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (TIS).
    """
    mask = require_tokens(mask, old_logprobs=old_logprobs, rollout_logprobs=rollout_logprobs)
    if level not in LEVELS or mode not in MODES:
        raise ValueError(
            f"level must be one of {', '.join(LEVELS)} and mode one of {', '.join(MODES)}; "
            f"they are {level!r} and {mode!r}"
        )
    if not 0 <= low <= high:
        raise ValueError(f"bounds must satisfy 0 <= low <= high, they are {low} and {high}")
    token_log = log_ratio(old_logprobs, rollout_logprobs, mask)
    raw = keep(LEVELS[level](token_log).clamp(max=MAX_LOG_RATIO).exp(), mask)
    weights = keep(MODES[mode](raw, low, high), mask)
    zero = torch.zeros_like(token_log)
    total, squares = raw.sum(), raw.square().sum()
    weighed = squares * mask.sum()
    metrics = {
        "kl": masked_mean(-token_log, mask),
        "k3": masked_mean(kl_estimate(-token_log, zero, "k3"), mask),
        "max_ratio": keep(token_log.exp(), mask).amax() if mask.numel() else zero.sum(),
        "ess": torch.where(weighed > 0, total.square() / weighed.clamp(min=torch.finfo(raw.dtype).tiny), 0.0),
        "sum": total,
        "sum_squares": squares,
        "weight": masked_mean(weights, mask),
        "bounded": masked_mean(weights != raw, mask),
    }
    return weights, metrics
