"""The preference family: rewards -> pairs of samples, and the loss on pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rlcore.algorithms.config import AlgorithmConfig, Opponent, PreferenceConfig, PreferenceKind
from rlcore.algorithms.mismatch_metrics import mismatch
from rlcore.metrics import Metrics
from rlcore.objective import Outputs, TensorBatch, means, needed, whole_pairs, zero_loss
from rlcore.ops.masking import keep, masked_mean, masked_sum
from rlcore.ops.preference_losses import preference_loss
from rlcore.types import Group, SampledPair, TrainBatch, Trajectory

UNSCORABLE, TIE, MARGIN, UNPAIRED, IDENTICAL = "unscorable", "tie", "margin", "unpaired", "identical"
REASONS = (UNSCORABLE, TIE, MARGIN, UNPAIRED, IDENTICAL)
# their implicit reward is an average over the response
PER_TOKEN_KINDS = (PreferenceKind.dpo_norm, PreferenceKind.ipo, PreferenceKind.simpo)
REWARD_KINDS = (PreferenceKind.rpo_sq, PreferenceKind.rpo_fwd_kl, PreferenceKind.rpo_bwd_kl)


def select_pairs(groups: Sequence[Group], config: PreferenceConfig) -> tuple[list[SampledPair], dict[str, int]]:
    """Pairs of samples of one prompt with different rewards and responses, and the number of other samples by reason.

    `opponent: policy`: samples are sorted by falling reward (ties in sampling order); the first is paired with the
    last, the second with the second last, and so on, at most `pairs_per_prompt` candidates.

    `opponent: reference`: the first half of a group's samples are the policy's, the second half the reference's. Sample
    k of one half is paired with sample k of the other; the first `pairs_per_prompt` valid pairs are taken. The
    reference's samples are returned as copies with `versions` -1, because no policy version sampled them.

    Samples in = 2 * pairs + sum of the counts. The reasons:
        unscorable  without a score, or without a trained token
        tie         both of a candidate score the same. With `opponent: policy` so do all samples between them, which
                    count here too
        margin      the rewards differ by no more than `min_margin`; the samples between them likewise
        identical   rewards differ, but the responses are the same tokens
        unpaired    no partner (the odd one of a prompt, or an unscorable partner), or the prompt already has its pairs;
                    earlier trajectories of a rollout, and rollouts that reached a limit

    Raises:
        ValueError: a successful score that is not finite, or, with `opponent: reference`, a group with an odd number of
            samples: pass complete groups, before any filter.
    """
    pairs: list[SampledPair] = []
    counts = dict.fromkeys(REASONS, 0)
    pick = _across_halves if config.opponent is Opponent.reference else _best_against_worst
    for group in groups:
        single = Group(group.prompt, [t for t in group.rollouts if not t.masked])
        counts[UNPAIRED] += len(group.trajectories) - len(single.trajectories)
        pairs += pick(single, config, counts)
    return pairs, counts


def _best_against_worst(group: Group, config: PreferenceConfig, counts: dict[str, int]) -> list[SampledPair]:
    ranked = sorted((t for t in group.trajectories if _scorable(t)), key=lambda t: -_score(t))
    counts[UNSCORABLE] += len(group.trajectories) - len(ranked)
    pairs: list[SampledPair] = []
    for _ in range(config.pairs_per_prompt):
        if len(ranked) < 2:
            break
        best, worst = ranked[0], ranked[-1]
        reason = _refusal(best, worst, config)
        if reason in (TIE, MARGIN):  # and so would all remaining ones
            counts[reason] += len(ranked)
            return pairs
        ranked = ranked[1:-1]
        if reason is None:
            pairs.append((best, worst))
        else:
            counts[reason] += 2
    counts[UNPAIRED] += len(ranked)
    return pairs


def _across_halves(group: Group, config: PreferenceConfig, counts: dict[str, int]) -> list[SampledPair]:
    half, odd = divmod(len(group.trajectories), 2)
    if odd:
        raise ValueError(
            f"prompt {group.prompt.uid} has {len(group.trajectories)} samples: half of them must be the reference's"
        )
    pairs: list[SampledPair] = []
    for own, other in zip(group.trajectories[:half], group.trajectories[half:], strict=True):
        valid = [_scorable(own), _scorable(other)]
        counts[UNSCORABLE] += valid.count(False)
        if not all(valid) or len(pairs) == config.pairs_per_prompt:
            counts[UNPAIRED] += valid.count(True)
            continue
        reason = _refusal(own, other, config)
        if reason is not None:
            counts[reason] += 2
            continue
        marked = replace(other, versions=np.full_like(other.versions, -1))
        best, worst = (own, marked) if _score(own) > _score(other) else (marked, own)
        pairs.append((best, worst))
    return pairs


def _refusal(a: Trajectory, b: Trajectory, config: PreferenceConfig) -> str | None:
    difference = abs(_score(a) - _score(b))
    if difference == 0:
        return TIE
    if difference <= config.min_margin:
        return MARGIN
    same = np.array_equal(a.tokens[a.num_prompt_tokens :], b.tokens[b.num_prompt_tokens :])
    return IDENTICAL if same else None


def _scorable(trajectory: Trajectory) -> bool:
    return trajectory.reward is not None and trajectory.reward.ok and bool(trajectory.loss_mask.any())


def _score(trajectory: Trajectory) -> float:
    assert trajectory.reward is not None
    score = float(trajectory.reward.score)
    if not math.isfinite(score):
        raise ValueError(f"sample {trajectory.sample_id}: its score is {score}")
    return score


@dataclass(frozen=True)
class PreferenceObjective:
    """Mean over the pairs of `L(pair) + sft_coef * NLL(chosen) / |chosen|`; `xpo` adds `explore_coef * log pi(y_ref)`.

    Rows 2i and 2i + 1 of a batch are the chosen and the rejected response of a pair, as
    `rlcore.data.batching.collate.collate_pairs` lays them out. L is `config.preference.loss` of
    `rlcore.ops.preference_losses` on log-probs summed over the loss mask, lengths counted in loss tokens, rewards from
    `scores`. The denominator is the number of pairs in the whole optimizer batch. Rows without a loss token are
    padding.

    `sft_coef` keeps the chosen response likely, which the contrast alone does not. Llama 3 (arXiv 2407.21783 section
    4.1.4) adds the chosen response's NLL to DPO with coefficient 0.2, after Pang et al. (2404.19733 equation 1), who
    divide it by the response's length, as here; it also keeps header and end tokens out of the loss, as a loss mask
    could. Nemotron-4 (2406.11704 section 3.3.2) adds an SFT loss on the chosen responses to DPO, with weights from 1e-5
    to 1e-3, and to RPO, with 1e-5; NVIDIA's code sums it over the response, so that a weight here is larger by the
    responses' length.

    `xpo` is DPO on pairs of one sample of the policy and one of the reference, y_ref, plus the exploration bonus
    `explore_coef * log pi(y_ref)` (Xie et al., 2405.21046 Algorithm 1: `alpha sum_i log pi(y_ref_i)` added to the
    sum of the DPO losses; both are divided by the number of pairs). It lowers the likelihood of the reference's
    responses, chosen or rejected. The batch marks them in `by_opponent` (`collate_pairs`).

    Metrics, means over pairs: `actor/pref_loss` (L alone), `actor/sft_loss` (NLL per token; with `sft_coef`),
    `actor/opponent_logps` (log pi(y_ref); `xpo`), `actor/pref_accuracy` (share of pairs whose chosen response has the
    higher implicit reward), `actor/pref_margin` (by how much), `actor/chosen_reward`, `actor/rejected_reward` (the
    implicit rewards: beta log(pi / ref); for `dpo_norm`, `ipo`, `simpo` per token, for `simpo` without the reference),
    `actor/chosen_logps`, `actor/rejected_logps` (nats per response). Per token `actor/entropy`, and the sampler's
    mismatch `rollout/*` over the policy's own samples (`rlcore.algorithms.mismatch_metrics`), measured, not corrected.

    Raises (from `loss`):
        ValueError: half a pair, or the batch lacks what the loss needs: `ref_logprobs`, `scores` (`rpo_*`) or
            `by_opponent` (`xpo`).
    """

    config: AlgorithmConfig
    temperature: float
    max_new_tokens: int
    needs_entropy: ClassVar[bool] = True  # a metric

    def denominator(self, batch: TrainBatch) -> float:
        return float(len(whole_pairs(torch.from_numpy(batch.loss_counts > 0)[:, None])))

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> tuple[Tensor, Metrics]:
        config, mask = self.config.preference, batch.loss_mask
        policy_logprobs, first = outputs.numbers, whole_pairs(mask)
        num_pairs = len(first)
        if num_pairs == 0:
            return zero_loss(policy_logprobs), {}
        rows = torch.stack([first, first + 1], 1)
        logps, lengths = masked_sum(policy_logprobs, mask, 1)[rows], mask.sum(1)[rows]  # [pairs, 2], as is all below
        ref = None
        if config.loss is not PreferenceKind.simpo:
            ref = masked_sum(needed(batch.ref_logprobs, "ref_logprobs"), mask, 1)[rows]
        rewards = needed(batch.scores, "scores")[rows] if config.loss in REWARD_KINDS else None

        terms = {"actor/pref_loss": self._per_pair(logps, ref, lengths, rewards).sum()}
        loss = terms["actor/pref_loss"]
        if config.sft_coef:
            terms["actor/sft_loss"] = -(logps / lengths)[:, 0].sum()
            loss = loss + config.sft_coef * terms["actor/sft_loss"]
        if config.loss is PreferenceKind.xpo:
            bonus = mask & needed(batch.by_opponent, "by_opponent")[:, None]
            terms["actor/opponent_logps"] = keep(policy_logprobs, bonus).sum()
            loss = loss + config.explore_coef * terms["actor/opponent_logps"]

        of_pairs = {name: total / num_pairs for name, total in terms.items()} | self._rewards(logps, ref, lengths)
        metrics = means(of_pairs, num_pairs) | self._per_token_metrics(outputs, batch)
        return loss / denominator, metrics

    def _per_pair(self, logps: Tensor, ref: Tensor | None, lengths: Tensor, rewards: Tensor | None) -> Tensor:
        config = self.config.preference
        kind = PreferenceKind.dpo if config.loss is PreferenceKind.xpo else config.loss
        ref_chosen, ref_rejected = (None, None) if ref is None else ref.unbind(1)
        chosen_rewards, rejected_rewards = (None, None) if rewards is None else rewards.unbind(1)
        return preference_loss(
            kind.value,
            logps[:, 0],
            logps[:, 1],
            ref_chosen,
            ref_rejected,
            config.beta,
            label_smoothing=config.label_smoothing,
            gamma=config.gamma,
            eta=config.eta,
            chosen_lengths=lengths[:, 0],
            rejected_lengths=lengths[:, 1],
            chosen_rewards=chosen_rewards,
            rejected_rewards=rejected_rewards,
        )

    def _rewards(self, logps: Tensor, ref: Tensor | None, lengths: Tensor) -> dict[str, Tensor]:
        ratio = (logps if ref is None else logps - ref).detach()
        per_token = self.config.preference.loss in PER_TOKEN_KINDS
        chosen, rejected = (self.config.preference.beta * (ratio / lengths if per_token else ratio)).unbind(1)
        return {
            "actor/pref_accuracy": (chosen > rejected).double().mean(),
            "actor/pref_margin": (chosen - rejected).mean(),
            "actor/chosen_reward": chosen.mean(),
            "actor/rejected_reward": rejected.mean(),
            "actor/chosen_logps": logps[:, 0].mean(),
            "actor/rejected_logps": logps[:, 1].mean(),
        }

    def _per_token_metrics(self, outputs: Outputs, batch: TensorBatch) -> Metrics:
        mask, metrics = batch.loss_mask, Metrics()
        if outputs.entropy is not None:
            metrics |= means({"actor/entropy": masked_mean(outputs.entropy.detach(), mask)}, int(mask.sum()))
        if batch.rollout_logprobs is not None:
            old = outputs.numbers.detach() if batch.old_logprobs is None else batch.old_logprobs
            own = mask if batch.by_opponent is None else mask & ~batch.by_opponent[:, None]
            metrics |= mismatch(old, batch.rollout_logprobs, own, self.config.correction)[1]
        return metrics
