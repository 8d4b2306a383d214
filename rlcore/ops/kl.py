"""Per-token estimators of KL(policy || reference) from samples of the policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rlcore.ops.checks import at_least_float32, require_same_shape

ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(-d) + d,  # expm1 avoids the cancellation in exp(-d) - 1 for small d
}


def kl_estimate(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"], kind: str, clamp: float | None = None
) -> Float[Tensor, "*shape"]:
    """Estimates `KL(pi || pi_ref)` for tokens sampled from `pi`.

        d = log pi(y) - log pi_ref(y)
        k1 = d                     unbiased, may be negative, high variance
        k2 = d^2 / 2               biased, never negative
        k3 = exp(-d) - 1 + d       unbiased, never negative; the term of GRPO

    An unbiased value does not imply an unbiased gradient. Expected on-policy gradients with fixed states: k1 gives 0,
    k2 that of KL(pi || pi_ref), k3 that of KL(pi_ref || pi). k3 times pi / pi_old, with its gradient, gives that of
    KL(pi || pi_ref), also off policy. The per-token terms miss the part of the KL of whole responses that comes from
    the effect of a token on later tokens; k1 in the reward includes it. Use k1 in the reward, k2 or k3 in the loss.

    Args:
        logprobs: log pi, any shape; gradients flow through it.
        ref_logprobs: log pi_ref, same shape.
        kind: "k1", "k2" or "k3".
        clamp: clips `d` and then the estimate to [-clamp, clamp] (no gradient outside); None: no clipping.

    Returns:
        Float32 (float64 for float64 input), the shape of the inputs. Entries that are masked out by the caller may
        overflow: select before use, or pass equal log-probs there.

    Raises:
        ValueError: shapes differ, or `kind` is unknown.

    Source: J. Schulman, "Approximating KL Divergence", 2020; k3 in GRPO is equation 4 of arXiv 2402.03300.
    """
    require_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    if kind not in ESTIMATORS:
        raise ValueError(f"kind must be one of {', '.join(ESTIMATORS)}, it is {kind!r}")
    d = at_least_float32(logprobs) - at_least_float32(ref_logprobs)
    if clamp is None:
        return ESTIMATORS[kind](d)
    return ESTIMATORS[kind](d.clamp(-clamp, clamp)).clamp(-clamp, clamp)
