"""Policy-gradient losses, per token. To be minimised; reduce with `aggregate.aggregate`.

Symbols: pi the trained policy, pi_old the denominator of the ratio, A the advantage, eps_l and eps_h
`clip_low` and `clip_high`, sg stop-gradient. Every function takes [B, T] tensors of one shape and a mask (bool),
returns ([B, T] loss, metrics), both float32 (float64 for float64 input), the loss 0 outside the mask. Metrics are
detached scalars: means over the masked-in tokens, 0 when there are none.

Log-ratios above `MAX_LOG_RATIO` are clamped and carry no gradient: such a ratio is meaningless as a weight, and its
infinity would turn the zero gradient of a clipped branch into NaN. A token that has become impossible (log pi = -inf)
has ratio 0, and a term 0 times infinity of its loss is 0. A token that is impossible under pi_old too has ratio 1 and
no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcore.ops.advantages import group_advantages
from rlcore.ops.checks import as_mask, at_least_float32, require_rank, require_same_shape, require_tokens
from rlcore.ops.masking import keep, masked_mean

MAX_LOG_RATIO = 20.0

OpMetrics = dict[str, Tensor]


def log_ratio(
    logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`log pi - log pi_old`, [B, T].

    0 outside the mask (selected before the difference, so -inf is allowed there) and where the token is impossible
    under both policies, since -inf - (-inf) is NaN.
    """
    mask = mask & ~(torch.isneginf(logprobs) & torch.isneginf(old_logprobs))
    new, old = (keep(at_least_float32(x), mask) for x in (logprobs, old_logprobs))
    return new - old


def ratio(log_ratio: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """`pi / pi_old` of `log_ratio`, clamped as the module docstring describes."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def _clipped(
    ratio: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, OpMetrics]:
    """`-min(w A, clip(w, 1 - eps_l, 1 + eps_h) A)` and the tokens where the clip is active."""
    if clip_low < 0 or clip_high < 0:
        raise ValueError(f"clip_low and clip_high must not be negative, they are {clip_low} and {clip_high}")
    free = -ratio * advantages
    held = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return torch.maximum(free, held), {"clipfrac": masked_mean(held > free, mask)}


def _common(log_w: Tensor, mask: Tensor) -> OpMetrics:
    return {"ppo_kl": masked_mean(-log_w.detach(), mask)}


def ppo_clip(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """PPO's clipped surrogate, with separate bounds and an optional lower bound for bad samples.

        w_t = pi(y_t) / pi_old(y_t)
        L_t = max(-w_t A_t, -clip(w_t, 1 - eps_l, 1 + eps_h) A_t)
        with dual_clip c:  L_t = min(L_t, -c A_t)  where A_t < 0

    Args:
        logprobs, old_logprobs, advantages: [B, T]; gradients flow through `logprobs` only.
        mask: [B, T] bool.
        clip_low, clip_high: eps_l and eps_h (equal in PPO, eps_h larger in DAPO).
        dual_clip: c, above 1; None for no bound.

    Returns:
        [B, T] loss; metrics `ppo_kl` (mean of log pi_old - log pi), `clipfrac` (share of tokens the clip decided),
        `clipfrac_dual` (share the dual clip decided, with `dual_clip` only).

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, a bound below 0, or `dual_clip` not above 1.

    Source: PPO arXiv 1707.06347 equation 7; DAPO 2503.14476 (clip-higher); dual clip 1912.09729.
    """
    mask = require_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be above 1, it is {dual_clip}")
    log_w = log_ratio(logprobs, old_logprobs.detach(), mask)
    adv = keep(at_least_float32(advantages), mask).detach()
    loss, metrics = _clipped(ratio(log_w), adv, mask, clip_low, clip_high)
    if dual_clip is not None:
        bound = -dual_clip * adv
        hit = (adv < 0) & (loss > bound)
        loss = torch.where(hit, bound, loss)
        metrics["clipfrac_dual"] = masked_mean(hit, mask)
    return keep(loss, mask), metrics | _common(log_w, mask)


def gspo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """Group sequence policy optimisation: one length-normalised ratio per sequence, clipped.

        s_i   = exp( 1/|y_i| sum_t log(pi(y_it) / pi_old(y_it)) )
        s_it  = sg[s_i] pi(y_it) / sg[pi(y_it)]
        L_it  = max(-s_it A_it, -clip(s_it, 1 - eps_l, 1 + eps_h) A_it)

    The value is the same on all tokens of a sequence; the gradient of the mean over tokens is that of `-s_i A_i`. The
    form with s_it (the paper's GSPO-token) allows advantages that differ within a sequence.

    Args:
        logprobs, old_logprobs, advantages: [B, T]; a row is a sequence.
        mask: [B, T] bool.
        clip_low, clip_high: eps_l and eps_h; the paper uses 3e-4 and 4e-4.

    Returns:
        [B, T] loss; metrics `ppo_kl`, `clipfrac`.

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, or a bound below 0.

    Source: arXiv 2507.18071, GSPO and GSPO-token; reduce with `seq_mean_token_mean`.
    """
    mask = require_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    log_w = log_ratio(logprobs, old_logprobs.detach(), mask)
    mean_log = masked_mean(log_w, mask, 1)[:, None].detach()
    # the clamp acts on the detached part, so that the gradient of the token is not cut
    token = keep(log_w, torch.isfinite(log_w))
    log_s = mean_log.clamp(max=MAX_LOG_RATIO) + (token - token.detach())
    adv = keep(at_least_float32(advantages), mask).detach()
    loss, metrics = _clipped(log_s.exp(), adv, mask, clip_low, clip_high)
    return keep(loss, mask), metrics | _common(log_w, mask)


def cispo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip_high: float,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """Score-function loss with clipped importance weights: every token keeps its gradient.

        L_t = -sg[min(w_t, 1 + eps_h)] A_t log pi(y_t),   w_t = pi(y_t) / pi_old(y_t)

    Args:
        logprobs, old_logprobs, advantages: [B, T].
        mask: [B, T] bool.
        clip_high: eps_h; there is no lower bound, as in the paper's experiments.

    Returns:
        [B, T] loss; metrics `ppo_kl`, `clipfrac` (share of weights above the bound).

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, or a bound below 0.

    Source: arXiv 2506.13585, equations 4 and 5.
    """
    mask = require_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if clip_high < 0:
        raise ValueError(f"clip_high must not be negative, it is {clip_high}")
    log_w = log_ratio(logprobs, old_logprobs, mask).detach()
    weight = ratio(log_w)
    adv = keep(at_least_float32(advantages), mask).detach()
    scale = weight.clamp(max=1 + clip_high) * adv
    loss = keep(-scale * keep(at_least_float32(logprobs), mask), (scale != 0) & ~torch.isneginf(logprobs))
    return loss, {"clipfrac": masked_mean(weight > 1 + clip_high, mask)} | _common(log_w, mask)


def reinforce(
    logprobs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """The score-function estimator.

        L_t = -A_t log pi(y_t)

    Args:
        logprobs, advantages: [B, T].
        mask: [B, T] bool.

    Returns:
        [B, T] loss; no metrics.

    Raises:
        ValueError: shapes, or a mask that is not one of 0 and 1.

    Source: Williams, 1992; for language models RLOO, arXiv 2402.14740.
    """
    mask = require_tokens(mask, logprobs=logprobs, advantages=advantages)
    adv = keep(at_least_float32(advantages), mask).detach()
    return keep(-adv * keep(at_least_float32(logprobs), mask), adv != 0), {}


def mirror_descent(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    gamma: float,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """Mirror descent policy optimisation with whole responses as actions and without clipping.

        w_i = pi(y_i) / pi_old(y_i)
        L_i = -w_i A_i + gamma (w_i log w_i - w_i + 1)

    with pi_old the sampling policy, and probabilities of whole responses. The last term is an estimate of
    KL(pi || pi_old) from samples of pi_old that is never negative; its gradient, log(w) grad(w), is unbiased.

    Args:
        logprobs, old_logprobs: [B, T]; gradients flow through `logprobs` only.
        advantages: [B] A_i, of whole responses; may have any value in rows without a masked-in token.
        mask: [B, T] bool.
        gamma: weight of the KL to pi_old, in units of the reward per nat.

    Returns:
        [B, T] loss, `L_i / |y_i|` at each of the row's tokens, so that its sum over a row is L_i (reduce with
        `seq_mean_token_sum`); metrics `ppo_kl`, and `kl`, the mean over tokens of the term in brackets.

    Raises:
        ValueError: shapes, or a mask that is not one of 0 and 1.

    Source: MDPO, arXiv 2005.09814; on whole responses in 2407.21075 section 4.3.2.
    """
    mask = require_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs)
    require_rank(1, advantages=advantages)
    require_same_shape(advantages=advantages, rows=mask[:, 0] if mask.shape[1] else advantages)
    token_log = log_ratio(logprobs, old_logprobs.detach(), mask)
    log_w = token_log.sum(1).clamp(-100.0, MAX_LOG_RATIO)  # impossible token: w = 0, w log w must be 0
    w = log_w.exp()
    kl = w * log_w - w + 1
    adv = keep(at_least_float32(advantages), mask.any(1)).detach()
    loss = (-w * adv + gamma * kl) / mask.sum(1).clamp(min=1)
    metrics = {"kl": masked_mean(kl.detach()[:, None].expand_as(token_log), mask)}
    return keep(loss[:, None].expand_as(token_log), mask), metrics | _common(token_log, mask)


def mdloo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    beta: float,
    gamma: float,
    valid: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T"], OpMetrics]:
    """MDLOO: `mirror_descent` with leave-one-out advantages of the reward minus a penalty against the reference.

        R_i = r_i - beta log(pi_old(y_i) / pi_ref(y_i))
        A_i = R_i - mean of R_j over the group without i

    R is computed once, at the sampling policy, and carries no gradient.

    Args:
        logprobs, old_logprobs, ref_logprobs: [B, T]; gradients flow through `logprobs` only.
        rewards: [B] r_i. group_ids: [B] integers, equal for the samples of one prompt.
        mask: [B, T] bool.
        beta: weight of the penalty against the reference. gamma: weight of the KL to pi_old.
        valid: [B] bool, False for samples without a reward, which get loss 0; None: all are valid.

    Returns:
        [B, T] loss and metrics of `mirror_descent`.

    Raises:
        ValueError: shapes, a mask that is not one of 0 and 1, or a valid reward that is not finite.

    Source: Apple Intelligence Foundation Language Models, arXiv 2407.21075, section 4.3.2 and its appendix on MDLOO.
    """
    mask = require_tokens(mask, logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)
    require_rank(1, rewards=rewards, group_ids=group_ids, valid=valid)
    require_same_shape(rewards=rewards, group_ids=group_ids, valid=valid, rows=mask[:, 0] if mask.shape[1] else rewards)
    if valid is not None:
        mask = mask & as_mask(valid)[:, None]
    penalised = at_least_float32(rewards) - beta * log_ratio(old_logprobs, ref_logprobs, mask).sum(1).detach()
    advantages = group_advantages(penalised, group_ids, "leave_one_out", "none", valid=valid)
    return mirror_descent(logprobs, old_logprobs, advantages, mask, gamma)
