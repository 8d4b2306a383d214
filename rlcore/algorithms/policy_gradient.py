"""The policy-gradient family: rewards -> advantages, and the loss. Algorithms differ in their config, not in classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rlcore.algorithms.advantages import AdvantageInputs, Result, evaluate, find_advantage
from rlcore.algorithms.config import Aggregation, AlgorithmConfig, Anchor, CorrectionLevel, FilterConfig, KLPlace
from rlcore.algorithms.mismatch_metrics import mismatch
from rlcore.algorithms.shaping import overlong_penalty
from rlcore.metrics import Max, Mean, Metric, Metrics, Min
from rlcore.objective import Outputs, TensorBatch, means, needed, zero_loss
from rlcore.ops import policy_losses
from rlcore.ops.aggregate import aggregate, count_denominator
from rlcore.ops.kl import kl_estimate
from rlcore.ops.masking import keep, masked_mean
from rlcore.registry import POLICY_LOSSES, absolute, load_file, origin, policy_loss
from rlcore.types import Float32, Group, TrainBatch, Trajectory

UNSCORABLE, OVERLONG, TRUNCATED, ZERO_VARIANCE, ALONE = "unscorable", "overlong", "truncated", "zero_variance", "alone"


def scorable(trajectory: Trajectory) -> bool:
    return trajectory.reward is not None and trajectory.reward.ok


def filter_groups(
    groups: Sequence[Group], filters: FilterConfig, alone: bool = True
) -> tuple[list[Group], dict[str, int]]:
    """Groups with only the samples to train on, and the number of dropped samples by reason.

    Filters in this order, each on the result of the previous one:
        unscorable     always: a sample without a score cannot be trained on
        overlong       a rollout that reached a limit, with `environment.on_overlong=mask`
        truncated      with `filters.truncated`: truncated by the length limit; also excluded from group statistics
        zero_variance  with `filters.zero_variance`: all samples of a group whose scores are equal (or is alone)
        alone          unless `alone`: the last rollout of a group, with nothing to compare it to. Its advantage would
                       be 0, and its tokens would still count in the denominator of the loss

    Samples in = samples kept + sum of the counts. Groups left empty are dropped; the given ones are not modified.
    """
    counts = dict.fromkeys((UNSCORABLE, OVERLONG, TRUNCATED, ZERO_VARIANCE, ALONE), 0)
    kept = []
    for group in groups:
        scored = [t for t in group.trajectories if scorable(t)]
        short = [t for t in scored if not t.masked]
        whole = [t for t in short if not (filters.truncated and t.finish_reason == "length")]
        varied = [] if filters.zero_variance and len({_score(t) for t in whole}) < 2 else whole
        counts[UNSCORABLE] += len(group.trajectories) - len(scored)
        counts[OVERLONG] += len(scored) - len(short)
        counts[TRUNCATED] += len(short) - len(whole)
        counts[ZERO_VARIANCE] += len(whole) - len(varied)
        left = Group(group.prompt, varied)
        if len(left.rollouts) == 1 and not alone:
            counts[ALONE] += len(varied)
        elif varied:
            kept.append(left)
    return kept, counts


def credit(
    groups: Sequence[Group], batch: TrainBatch, config: AlgorithmConfig, kl_coef: float, max_new_tokens: int
) -> tuple[TrainBatch, Metrics]:
    """The batch with `advantages`, and with `returns` if the advantage function returns them.

    The score of a sample is its reward minus the length penalty (`config.overlong_*`); with `config.kl_in=reward`
    every trained token is also charged `kl_coef` times the KL estimate between `old_logprobs` and `ref_logprobs`.
    `config.advantage` converts this to advantages; `config.whiten` whitens them over all trained tokens.

    Args:
        groups: samples with their rewards, in the order of the batch's rows; unscorable ones are excluded from
            statistics; their advantages are 0 and their returns equal the critic's values.
        batch: collated, with `old_logprobs`, `ref_logprobs` and `values` if the config needs them.
        kl_coef: current coefficient of the KL in the reward.
        max_new_tokens: the length limit of a response.

    Returns:
        (batch, metrics): over trained tokens `critic/advantages/{mean,min,max}` and, with returns,
        `critic/returns/mean`; over samples, in units of the reward, `reward/overlong` and `reward/kl_penalty` (of whole
        responses), where such a penalty is set.

    Raises:
        ValueError: groups and rows differ, the batch lacks an array that the config needs, or the advantage function
            returns another shape than [N] or [B], or a number that is not finite.
        RegistryError: unknown advantage function.
    """
    inputs, metrics = advantage_inputs(groups, batch, config, kl_coef, max_new_tokens)
    results = evaluate(find_advantage(inputs.config), inputs)
    whitening = _whitening(results) if config.whiten else None
    arrays: dict[str, Float32] = {}
    totals = dict.fromkeys(("advantages", "returns"), 0.0)
    count, lowest, highest, end = 0, math.inf, -math.inf, 0
    for part, found in results():
        trained = part.spread(part.valid)
        begin, end = end, end + len(trained)
        if whitening is not None:
            mean, scale = whitening
            found[0] = keep((found[0] - mean) * scale, trained)
        count += int(trained.sum())
        if bool(trained.any()):
            kept = found[0][trained]
            lowest, highest = min(lowest, float(kept.min())), max(highest, float(kept.max()))
        for name, x in zip(totals, found, strict=False):
            totals[name] += float(x.sum())
            if name == "returns" and (values := part.values) is not None:
                # an unscorable sample gives no information: the critic's target is its own value
                x = torch.where(trained, x, keep(values.double(), part.mask))
            if name not in arrays:
                arrays[name] = np.zeros(batch.num_tokens, dtype=np.float32)
            arrays[name][begin:end] = x.numpy()
    if count:
        metrics |= {f"critic/{name}/mean": Mean(totals[name], count) for name in arrays}
        metrics |= {"critic/advantages/min": Min(lowest), "critic/advantages/max": Max(highest)}
    return batch.with_arrays(**arrays), metrics


def _whitening(results: Callable[[], Iterator[Result]], eps: float = 1e-8) -> tuple[float, float]:
    """Mean, and factor to unit variance, of the advantages of all trained tokens; see `ops.masking.masked_whiten`.

    Moments of the chunks are merged pairwise: Chan et al. 1979, Updating formulae for computing sample variances.
    """
    count, mean, squares = 0, 0.0, 0.0
    for part, found in results():
        x = found[0][part.spread(part.valid)]
        if x.numel():
            here, before, count = float(x.mean()), count, count + x.numel()
            squares += float((x - here).square().sum()) + (here - mean) ** 2 * before * x.numel() / count
            mean += (here - mean) * x.numel() / count
    return mean, (squares / max(1, count) + eps) ** -0.5


def advantage_inputs(
    groups: Sequence[Group], batch: TrainBatch, config: AlgorithmConfig, kl_coef: float, max_new_tokens: int
) -> tuple[AdvantageInputs, Metrics]:
    """Rewards of samples and tokens, as `credit` describes them, and the metrics of the penalties in them."""
    samples = [(index, t) for index, group in enumerate(groups) for t in group.trajectories]
    if [t.sample_id for _, t in samples] != list(batch.sample_ids):
        raise ValueError(f"the {len(samples)} samples of the groups are not the {len(batch)} rows of the batch")
    valid = torch.tensor([scorable(t) for _, t in samples], dtype=torch.bool)
    scores = torch.tensor([_score(t) if scorable(t) else 0.0 for _, t in samples], dtype=torch.float64)
    num_valid, metrics = int(valid.sum()), dict[str, Metric]()
    if config.overlong_buffer:
        lengths = torch.tensor([t.num_response_tokens for _, t in samples], dtype=torch.float64)
        buffer = config.overlong_buffer * max_new_tokens
        penalty = keep(overlong_penalty(lengths, max_new_tokens, buffer, config.overlong_penalty), valid)
        scores = scores - penalty
        metrics["reward/overlong"] = Mean(float(penalty.sum()), num_valid)
    ids = torch.tensor([index for index, _ in samples], dtype=torch.int64)
    names: dict[str, int] = {}
    numbers = [names.setdefault(t.rollout_id or t.sample_id, len(names)) for _, t in samples]
    rollouts = torch.tensor(numbers, dtype=torch.int64)
    inputs = AdvantageInputs(scores, valid, ids, rollouts, scores, batch, replace(config, kl_coef=kl_coef))
    if config.kl_in is KLPlace.reward and (config.kl_coef or kl_coef):
        for name in ("old_logprobs", "ref_logprobs"):
            if getattr(batch, name) is None:
                raise ValueError(f"the objective needs {name} (algorithm.kl_in is reward), the batch has none")
        penalties = torch.zeros_like(scores)
        for rows, part in inputs.chunks():
            if (charged := part.kl_penalties()) is not None:
                penalties[rows] = part.row_sums(charged)
        inputs = replace(inputs, totals=scores - inputs.rollout_sums(penalties))
        metrics["reward/kl_penalty"] = Mean(float(penalties.sum()), num_valid)
    return inputs, metrics


def _score(trajectory: Trajectory) -> float:
    assert trajectory.reward is not None
    return float(trajectory.reward.score)


@dataclass(frozen=True)
class LossInputs:
    """Input of a policy loss: b rows of a micro-batch, padded on the right to t tokens.

    Outside the mask the tensors may hold anything, infinities included: select before computing (`ops.masking.keep`).
    """

    logprobs: Tensor  # [b, t] of the policy, the only one with a gradient
    old_logprobs: Tensor  # [b, t] denominator of the ratio: of the policy at batch start, or the sampler's (`anchor`)
    ref_logprobs: Tensor | None  # [b, t]
    advantages: Tensor  # [b, t]
    mask: Tensor  # [b, t] bool, True where trained on
    config: AlgorithmConfig


# -> ([b, t] loss to be minimised, scalar metrics: means over the trained tokens, logged as actor/<name>)
LossFunction = Callable[[LossInputs], tuple[Tensor, policy_losses.OpMetrics]]
PROPORTIONAL = ("ppo_clip", "gspo", "cispo", "reinforce")  # losses whose gradient is a multiple of the advantage
METRIC_NAMES = {
    "clipfrac": "actor/pg_clipfrac",
    "clipfrac_dual": "actor/pg_clipfrac_lower",
    "kl": "actor/step_kl",
}


@policy_loss("ppo_clip")
def ppo_clip(x: LossInputs) -> tuple[Tensor, policy_losses.OpMetrics]:
    """See `ops.policy_losses.ppo_clip`; with `config.dual_clip`, `clip_low` and `clip_high`."""
    c = x.config
    return policy_losses.ppo_clip(
        x.logprobs, x.old_logprobs, x.advantages, x.mask, c.clip_low, c.clip_high, c.dual_clip
    )


@policy_loss("gspo")
def gspo(x: LossInputs) -> tuple[Tensor, policy_losses.OpMetrics]:
    """See `ops.policy_losses.gspo`."""
    c = x.config
    return policy_losses.gspo(x.logprobs, x.old_logprobs, x.advantages, x.mask, c.clip_low, c.clip_high)


@policy_loss("cispo")
def cispo(x: LossInputs) -> tuple[Tensor, policy_losses.OpMetrics]:
    """See `ops.policy_losses.cispo`."""
    return policy_losses.cispo(x.logprobs, x.old_logprobs, x.advantages, x.mask, x.config.clip_high)


@policy_loss("reinforce")
def reinforce(x: LossInputs) -> tuple[Tensor, policy_losses.OpMetrics]:
    """See `ops.policy_losses.reinforce`."""
    return policy_losses.reinforce(x.logprobs, x.advantages, x.mask)


@policy_loss("mdloo")
def mdloo(x: LossInputs) -> tuple[Tensor, policy_losses.OpMetrics]:
    """See `ops.policy_losses.mirror_descent`; the advantage of a response is the mean of its tokens'."""
    per_row = masked_mean(x.advantages, x.mask, 1)
    return policy_losses.mirror_descent(x.logprobs, x.old_logprobs, per_row, x.mask, x.config.step_kl_coef)


def find_loss(config: AlgorithmConfig) -> LossFunction:
    """The function that `config.loss` names, after importing `config.files`.

    Raises:
        RegistryError: a file that cannot be imported, or no such function.
    """
    for path in config.files:
        load_file(path, "algorithm")
    return POLICY_LOSSES.get(config.loss)


@dataclass(frozen=True)
class PolicyGradientObjective:
    """`aggregate(w * L + kl_coef * KL(pi || pi_ref) - entropy_coef * H)` over the loss tokens.

    L is the policy loss `config.loss`, H the entropy; the KL term is there where `config.kl_in` is `loss`, estimated by
    `config.kl_estimator` within `config.kl_clamp`. pi is the trained policy, pi_old the policy at batch start, mu the
    policy that sampled the tokens: older weights, and the engine's numerics. `config.anchor` chooses how L corrects
    for mu, here for the clipped surrogate:

        trainer:  w = pi_old / mu (bounded by `config.correction`),  L = -min(r A, clip(r) A),  r = pi / pi_old
        rollout:  w = 1,                                             L = -min(r A, clip(r) A),  r = pi / mu

    `trainer` is decoupled PPO (arXiv 2505.24298 section 5.2, with pi_old as the proximal policy): in the first update
    r = 1, so the clip never acts on stale data, only the bounds of w do. `rollout` is PPO as published (1707.06347),
    with samples of any age: w pi / pi_old = pi / mu is the same weight, but the clip bounds all of it. Without bounds
    and clip, and where mu = pi_old, both have equal losses and gradients.

    Without `old_logprobs` in the batch the policy's own, detached, stand in for pi_old: exact in the first update on a
    batch; with `anchor=rollout` only metrics use them. `config.files` are imported at the first loss of a process.

    Metrics, which all merge exactly over micro-batches, ranks and steps: `actor/pg_loss` and `actor/kl_loss` (in the
    loss's own aggregation), per token `actor/entropy` (nats), `actor/ppo_kl` and what the loss function reports
    (`actor/pg_clipfrac`, `actor/pg_clipfrac_lower`, `actor/step_kl`), and of the mismatch between pi_old and mu
    `rollout/kl`, `rollout/k3`, `rollout/weight`, `rollout/bounded`, `rollout/max_ratio` (a maximum) and `rollout/ess`
    (effective sample size as a share of the tokens). `actor/ppo_kl` is of the ratio, so against mu with
    `anchor=rollout`.

    Raises (from `loss`):
        ValueError: the batch lacks an array that the config needs (`advantages`, `ref_logprobs`, `rollout_logprobs`),
            the entropy is missing though `entropy_coef` is not 0, or the loss function returns another shape.
        RegistryError: there is no such loss function.
    """

    config: AlgorithmConfig
    temperature: float
    max_new_tokens: int
    needs_entropy: ClassVar[bool] = True  # always a metric, optionally a term of the loss

    def __post_init__(self) -> None:
        files = [absolute(path) for path in self.config.files]  # a worker may have another working directory
        object.__setattr__(self, "config", replace(self.config, loss=absolute(self.config.loss), files=files))

    @property
    def only_advantages(self) -> bool:
        """True if the gradient of every token is a multiple of its advantage."""
        config = self.config
        has_kl = bool(config.kl_coef) and config.kl_in is KLPlace.loss
        return config.loss in PROPORTIONAL and not config.entropy_coef and not has_kl

    def denominator(self, batch: TrainBatch) -> float:
        if self.config.aggregation is Aggregation.token_mean:
            return float(batch.num_loss_tokens)
        return self._count(torch.from_numpy(batch.loss_counts > 0)[:, None])

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> tuple[Tensor, Metrics]:
        config, mask = self.config, batch.loss_mask
        policy_logprobs, entropy = outputs.numbers, outputs.entropy
        num_tokens = int(mask.sum())
        if num_tokens == 0:
            return zero_loss(policy_logprobs), {}
        advantages = needed(batch.advantages, "advantages")
        old = policy_logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        anchor = old
        if config.anchor is Anchor.rollout:
            anchor = needed(batch.rollout_logprobs, "rollout_logprobs (algorithm.anchor is rollout)")
        function = find_loss(config)
        per_token, found = function(LossInputs(policy_logprobs, anchor, batch.ref_logprobs, advantages, mask, config))
        if per_token.shape != mask.shape:
            shapes = f"{tuple(per_token.shape)}, the micro-batch has {tuple(mask.shape)}"
            raise ValueError(f"the loss of {origin(function)} has shape {shapes}")
        per_sample, metrics = self._corrected(per_token, old, batch)
        pg_loss = self._reduce(per_sample, mask, denominator)
        loss, scalars = pg_loss, {"actor/pg_loss": pg_loss}
        if config.kl_coef and config.kl_in is KLPlace.loss:
            kl = self._reduce(self._kl_per_token(policy_logprobs, anchor, batch), mask, denominator)
            loss, scalars["actor/kl_loss"] = loss + config.kl_coef * kl, kl
        if config.entropy_coef:
            loss = loss - config.entropy_coef * self._reduce(needed(entropy, "entropy"), mask, denominator)
        local = self._count(mask)
        metrics |= means({name: x * (denominator / local) for name, x in scalars.items()}, local)
        per_token_means = {
            METRIC_NAMES.get(name, f"actor/{name}"): torch.as_tensor(x, device=mask.device) for name, x in found.items()
        }
        per_token_means["actor/ppo_kl"] = masked_mean((anchor - policy_logprobs).detach(), mask)
        if entropy is not None:
            per_token_means["actor/entropy"] = masked_mean(entropy.detach(), mask)
        return loss, metrics | means(per_token_means, num_tokens)

    def _kl_per_token(self, policy_logprobs: Tensor, anchor: Tensor, batch: TensorBatch) -> Tensor:
        """The KL estimate, [b, t] in nats; with `config.kl_weighted` times the ratio, gradient included."""
        config, mask = self.config, batch.loss_mask
        ref = keep(needed(batch.ref_logprobs, "ref_logprobs (algorithm.kl_in is loss)"), mask)
        kl = kl_estimate(keep(policy_logprobs, mask), ref, config.kl_estimator, config.kl_clamp)
        if not config.kl_weighted:
            return kl
        return policy_losses.ratio(policy_losses.log_ratio(policy_logprobs, anchor, mask)) * kl

    def _count(self, mask: Tensor) -> float:
        constant = self.config.aggregation_constant
        return count_denominator(
            mask, self.config.aggregation.value, float(self.max_new_tokens) if constant is None else constant
        )

    def _reduce(self, per_token: Tensor, mask: Tensor, denominator: float) -> Tensor:
        return aggregate(per_token, mask, self.config.aggregation.value, denominator)

    def _corrected(self, per_token: Tensor, old: Tensor, batch: TensorBatch) -> tuple[Tensor, Metrics]:
        """The loss times its importance weights, and the mismatch metrics (those also without a correction).

        With `anchor=rollout` the ratio contains the weight already.
        """
        correction = self.config.correction
        off = correction.level is CorrectionLevel.none or self.config.anchor is Anchor.rollout
        if off and batch.rollout_logprobs is None:
            return per_token, {}
        rollout = needed(batch.rollout_logprobs, "rollout_logprobs (correction.level is not none)")
        weights, metrics = mismatch(old, rollout, batch.loss_mask, correction)
        return per_token if off else per_token * weights, metrics
