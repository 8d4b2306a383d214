"""Penalties on the reward: for length, for the KL to the reference, and the controller of the KL coefficient."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.metrics import Last, Mean, Metrics
from rlcore.ops.kl import kl_estimate
from rlcore.ops.masking import keep
from rlcore.types import TrainBatch

ERROR_BOUND = 0.2  # bound on the controller's proportional error, as in the paper


def overlong_penalty(
    lengths: Int[Tensor, " B"] | Float[Tensor, " B"], max_new_tokens: int, buffer: float, penalty: float
) -> Float[Tensor, " B"]:
    """A soft penalty for responses near the length limit, to subtract from the reward.

        p(y) = penalty * clip((|y| - (L - c)) / c, 0, 1)

    with L `max_new_tokens` and c `buffer`: 0 up to L - c tokens, the full penalty from L on.

    Args:
        lengths: [B] response lengths |y| in tokens.
        buffer: c, in tokens, over which the penalty grows; 0 is no penalty.
        penalty: its full size, in units of the reward.

    Returns:
        [B] float64, at least 0.

    Raises:
        ValueError: `buffer` is not in [0, max_new_tokens].

    Source: DAPO, arXiv 2503.14476 equation 13 (there with the sign of a reward, and penalty 1).
    """
    if not 0 <= buffer <= max_new_tokens:
        raise ValueError(f"the overlong buffer must be from 0 to max_new_tokens={max_new_tokens}, it is {buffer}")
    over = lengths.double() - (max_new_tokens - buffer)
    return torch.zeros_like(over) if buffer == 0 else penalty * (over / buffer).clamp(0, 1)


def kl_per_token(
    logprobs: Float[Tensor, "*shape"],
    ref_logprobs: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    kind: str,
    clamp: float | None = None,
) -> Float[Tensor, "*shape"]:
    """The estimate of `ops.kl.kl_estimate` at every trained token, in nats; float64, 0 outside the mask.

    Raises:
        ValueError: shapes differ, or an unknown kind.
    """
    new, ref = (keep(x, mask).double() for x in (logprobs, ref_logprobs))
    return kl_estimate(new, ref, kind, clamp)


def response_kl(batch: TrainBatch) -> float | None:
    """Mean over responses of `log pi(y) - log pi_ref(y)`, in nats: an unbiased estimate of KL(pi || pi_ref) for samples
    of pi. Rows without trained tokens are ignored; None without other rows or without log-probs.

    pi is the trainer's policy at batch start (`old_logprobs`), or the sampler's if those were not computed.
    """
    num_rows, total = int((batch.loss_counts > 0).sum()), 0.0
    if (batch.rollout_logprobs is None and batch.old_logprobs is None) or batch.ref_logprobs is None or not num_rows:
        return None
    for _, part in batch.chunks():
        sampled = part.rollout_logprobs if part.old_logprobs is None else part.old_logprobs
        new, ref, mask = (torch.tensor(x) for x in (sampled, part.ref_logprobs, part.loss_mask))
        total += float(kl_per_token(new, ref, mask, "k1").sum())
    return total / num_rows


class KLController:
    """Controls the coefficient of the KL to the reference: fixed, or adapted to keep the KL near a target.

        e       = clip((KL - target) / target, -0.2, 0.2)
        coef   <- coef * (1 + e * n / horizon)

    with n the samples of the step, at most `horizon`, so that the coefficient never changes its sign.
    `config.kl_target` None leaves `config.kl_coef` as it is.

    >>> controller = KLController(AlgorithmConfig(kl_coef=0.1, kl_target=6.0, kl_horizon=1000))
    >>> [round(controller.update(kl, num_samples=500), 4) for kl in (12.0, 3.0)]
    [0.11, 0.099]

    Args:
        config: `kl_coef` (initial value), `kl_target` (nats per response), `kl_horizon` (samples).
        state: from `state_dict`, to resume; empty or None starts from `kl_coef`.

    Source: Ziegler et al. 2019, arXiv 1909.08593 section 2.2.
    """

    def __init__(self, config: AlgorithmConfig, state: Mapping[str, float] | None = None) -> None:
        self.coef, self.target, self.horizon = config.kl_coef, config.kl_target, config.kl_horizon
        if state:
            self.load_state_dict(state)

    def update(self, kl: float, num_samples: int) -> float:
        """Updates with the KL per response of `num_samples` samples; returns the new coefficient.

        Raises:
            ValueError: the KL is not finite.
        """
        if not math.isfinite(kl):
            raise ValueError(f"the KL to the reference is {kl}: the coefficient cannot be updated")
        if self.target is not None:
            error = min(max((kl - self.target) / self.target, -ERROR_BOUND), ERROR_BOUND)
            self.coef *= 1 + error * min(num_samples / self.horizon, 1.0)
        return self.coef

    def observe(self, batch: TrainBatch) -> Metrics:
        """Calls `update` with `response_kl` of the batch, unless that is None.

        Metrics: `reward/kl` (nats per response) and `reward/kl_coef`, the coefficient of this batch.
        """
        kl = response_kl(batch)
        if kl is None:
            return {}
        num_samples = int((batch.loss_counts > 0).sum())
        metrics: Metrics = {"reward/kl": Mean(kl * num_samples, num_samples), "reward/kl_coef": Last(self.coef)}
        self.update(kl, num_samples)
        return metrics

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """A fixed coefficient always comes from the config, also if it changed before a resume."""
        if self.target is not None:
            self.coef = float(state["coef"])
