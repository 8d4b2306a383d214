"""Losses on preferences, one per pair (or per sample, for `kto`). To be minimised; take the mean to reduce.

Symbols: pi the policy, ref the reference, c the chosen and r the rejected response, |y| its number of tokens,
`log pi(y) = sum_t log pi(y_t)`, and

    a = log pi(c) - log ref(c),   b = log pi(r) - log ref(r),   h = a - b

    kind        loss                                                              source (arXiv)
    dpo         -log s(beta h)                                                    2305.18290 equation 7
    dpo_norm    -log s(beta (a / |c| - b / |r|))                                  2411.15124 section 5.1.2 (Tulu 3)
    cdpo        -(1 - e) log s(beta h) - e log s(-beta h)                         E. Mitchell, cDPO note, 2023
    robust      [-(1 - e) log s(beta h) + e log s(-beta h)] / (1 - 2 e)           2403.00409 (rDPO)
    ipo         (a / |c| - b / |r| - 1 / (2 beta))^2                              2310.12036 equation 17, per token
    ipo_sum     (h - 1 / (2 beta))^2                                              2310.12036 equation 17
    hinge       max(0, 1 - beta h)                                                2309.06657 (RSO), hinge-norm: SLiC's
                                                                                  2305.10425 with a reference
    simpo       -log s(beta (log pi(c) / |c| - log pi(r) / |r|) - gamma)          2405.14734 equation 6
    rpo_bwd_kl  KL(eta (R_c - R_r) || beta h)                                     2406.11704, distance D of RPO
    rpo_fwd_kl  KL(beta h || eta (R_c - R_r))                                     2502.00203, forward KL
    rpo_sq      (beta h - eta (R_c - R_r))^2                                      2502.00203, squared distance
    sppo        (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2                       2405.00675 section 4, hard labels
    kto         w_d (1 - s(beta (a - z)))  and  w_u (1 - s(beta (z - b)))         2402.01306 section 4.1

with s the sigmoid, e `label_smoothing`, `KL(u || v)` between Bernoulli distributions with probabilities s(u) and s(v),
R the true rewards, z `kl`. In `sppo` 1 / beta is the paper's eta, and ref is the policy at the start of the round; the
authors' code halves the sum. `robust` has no lower bound: it falls as -e beta h / (1 - 2 e) for large h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rlcore.ops.checks import at_least_float32, require_rank, require_same_shape


@dataclass(frozen=True)
class _Inputs:
    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor | None
    ref_rejected: Tensor | None
    chosen_lengths: Tensor | None
    rejected_lengths: Tensor | None
    chosen_rewards: Tensor | None
    rejected_rewards: Tensor | None
    kl: Tensor | None
    beta: float
    label_smoothing: float
    gamma: float
    eta: float
    desirable_weight: float
    undesirable_weight: float

    def of(self, name: str) -> Tensor:
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"this kind of loss needs {name}")
        return at_least_float32(value)

    @property
    def a(self) -> Tensor:
        return self.of("policy_chosen") - self.of("ref_chosen")

    @property
    def b(self) -> Tensor:
        return self.of("policy_rejected") - self.of("ref_rejected")

    @property
    def logit(self) -> Tensor:
        return self.beta * (self.a - self.b)

    @property
    def target_logit(self) -> Tensor:
        return self.eta * (self.of("chosen_rewards") - self.of("rejected_rewards"))

    def per_token(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return chosen / self.of("chosen_lengths") - rejected / self.of("rejected_lengths")


def _coin_kl(u: Tensor, v: Tensor) -> Tensor:
    heads, tails = F.logsigmoid(u), F.logsigmoid(-u)
    return heads.exp() * (heads - F.logsigmoid(v)) + tails.exp() * (tails - F.logsigmoid(-v))


def _robust(x: _Inputs) -> Tensor:
    e = x.label_smoothing
    return (-(1 - e) * F.logsigmoid(x.logit) + e * F.logsigmoid(-x.logit)) / (1 - 2 * e)


def _kto(x: _Inputs) -> Tensor:
    z = x.of("kl").detach()
    good = x.desirable_weight * (1 - torch.sigmoid(x.beta * (x.a - z)))
    bad = x.undesirable_weight * (1 - torch.sigmoid(x.beta * (z - x.b)))
    return torch.cat([good, bad])


KINDS: dict[str, Callable[[_Inputs], Tensor]] = {
    "dpo": lambda x: -F.logsigmoid(x.logit),
    "dpo_norm": lambda x: -F.logsigmoid(x.beta * x.per_token(x.a, x.b)),
    "cdpo": lambda x: -(1 - x.label_smoothing) * F.logsigmoid(x.logit) - x.label_smoothing * F.logsigmoid(-x.logit),
    "robust": _robust,
    "ipo": lambda x: (x.per_token(x.a, x.b) - 1 / (2 * x.beta)).square(),
    "ipo_sum": lambda x: (x.a - x.b - 1 / (2 * x.beta)).square(),
    "hinge": lambda x: F.relu(1 - x.logit),
    "simpo": lambda x: -F.logsigmoid(x.beta * x.per_token(x.of("policy_chosen"), x.of("policy_rejected")) - x.gamma),
    "rpo_bwd_kl": lambda x: _coin_kl(x.target_logit, x.logit),
    "rpo_fwd_kl": lambda x: _coin_kl(x.logit, x.target_logit),
    "rpo_sq": lambda x: (x.logit - x.target_logit).square(),
    "sppo": lambda x: (x.a - 1 / (2 * x.beta)).square() + (x.b + 1 / (2 * x.beta)).square(),
    "kto": _kto,
}


def preference_loss(
    kind: str,
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    ref_chosen: Float[Tensor, " pairs"] | None,
    ref_rejected: Float[Tensor, " pairs"] | None,
    beta: float,
    *,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    eta: float = 1.0,
    chosen_lengths: Int[Tensor, " pairs"] | None = None,
    rejected_lengths: Int[Tensor, " pairs"] | None = None,
    chosen_rewards: Float[Tensor, " pairs"] | None = None,
    rejected_rewards: Float[Tensor, " pairs"] | None = None,
    kl: Float[Tensor, ""] | None = None,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " pairs"]:
    """The loss of each pair; the module docstring has the formulas.

    Args:
        kind: a name of the module's table.
        policy_chosen, policy_rejected: [pairs] log-probs summed over the response. For `kto` the samples are unpaired:
            [n] desirable and [m] undesirable ones, either of which may be empty.
        ref_chosen, ref_rejected: the same under the reference; `simpo` takes None.
        beta: strength of the tie to the reference, above 0.
        label_smoothing: e in [0, 0.5), the probability that a label is wrong (`cdpo`, `robust`).
        gamma: target margin in units of beta times nats per token (`simpo`).
        eta: scale of the rewards (`rpo_*`).
        chosen_lengths, rejected_lengths: [pairs] tokens of the responses (`dpo_norm`, `ipo`, `simpo`).
        chosen_rewards, rejected_rewards: [pairs] (`rpo_*`).
        kl: scalar z in nats, not negative, carries no gradient (`kto`): `kto_reference_point`.
        desirable_weight, undesirable_weight: w_d and w_u (`kto`).

    Returns:
        [pairs] ([n + m], desirable first, for `kto`), float32 (float64 for float64 input).

    Raises:
        ValueError: an unknown kind, a missing input, shapes, beta or label_smoothing out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, it is {kind!r}")
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(f"beta must be above 0 and label_smoothing in [0, 0.5): {beta}, {label_smoothing}")
    chosen = {"policy_chosen": policy_chosen, "ref_chosen": ref_chosen}
    chosen |= {"chosen_lengths": chosen_lengths, "chosen_rewards": chosen_rewards}
    rejected = {"policy_rejected": policy_rejected, "ref_rejected": ref_rejected}
    rejected |= {"rejected_lengths": rejected_lengths, "rejected_rewards": rejected_rewards}
    for sides in [chosen, rejected] if kind == "kto" else [chosen | rejected]:
        require_rank(1, **sides)
        require_same_shape(**sides)
    scalars = (beta, label_smoothing, gamma, eta, desirable_weight, undesirable_weight)
    return KINDS[kind](
        _Inputs(
            policy_chosen,
            policy_rejected,
            ref_chosen,
            ref_rejected,
            chosen_lengths,
            rejected_lengths,
            chosen_rewards,
            rejected_rewards,
            kl,
            *scalars,
        )
    )


def kto_reference_point(policy: Float[Tensor, " n"], ref: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The z of `kto`: an estimate of KL(pi || ref) from mismatched prompts and responses.

        z = max(0, mean_i(log pi(y_j | x_i) - log ref(y_j | x_i))),   j != i

    Args:
        policy, ref: [n] summed log-probs of responses after prompts they do not belong to.

    Returns:
        Float32 scalar (float64 for float64 input), without gradient.

    Raises:
        ValueError: shapes differ, are not [n], or n is 0.

    Source: arXiv 2402.01306 section 4.1.
    """
    require_rank(1, policy=policy, ref=ref)
    require_same_shape(policy=policy, ref=ref)
    if policy.numel() == 0:
        raise ValueError("the reference point needs at least one sample")
    return (at_least_float32(policy) - at_least_float32(ref)).detach().mean().clamp(min=0)
