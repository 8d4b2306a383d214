"""Kahneman-Tversky optimisation on unpaired responses, each desirable or not (Ethayarajh et al., arXiv 2402.01306)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlcore.metrics import Metrics
from rlcore.objective import Outputs, TensorBatch, means, needed, zero_loss
from rlcore.ops.masking import masked_sum
from rlcore.ops.preference_losses import preference_loss
from rlcore.types import TrainBatch


@dataclass(frozen=True)
class KtoObjective:
    """Mean over responses of `w_d (1 - s(beta (a - z)))` for desirable ones and `w_u (1 - s(beta (z - b)))` for the
    others, a and b their log-ratios to the reference (2402.01306 section 4.1).

    `scores` of the batch are 1 for desirable rows, 0 for the others; rows without a loss token are padding.

    Metrics, means over rows: `actor/pref_loss`, `actor/pref_accuracy` (share on the right side of z),
    `actor/chosen_reward`, `actor/rejected_reward` (beta times the log-ratio of desirable and of undesirable rows).

    Raises (from `loss`):
        ValueError: the batch lacks ref_logprobs or scores.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    kl: float = 0.0  # z in nats, the `kto_reference_point` of this step
    temperature: float = 1.0
    needs_entropy: ClassVar[bool] = False

    def denominator(self, batch: TrainBatch) -> float:
        return float((batch.loss_counts > 0).sum())

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> tuple[Tensor, Metrics]:
        ref_logprobs, scores = needed(batch.ref_logprobs, "ref_logprobs"), needed(batch.scores, "scores")
        policy_logprobs, rows = outputs.numbers, batch.loss_mask.any(1)
        if not bool(rows.any()):
            return zero_loss(policy_logprobs), {}
        policy, ref = (masked_sum(x, batch.loss_mask, 1)[rows] for x in (policy_logprobs, ref_logprobs))
        good = scores[rows] > 0.5
        z = torch.tensor(self.kl, dtype=torch.float32, device=policy.device)
        losses = preference_loss(
            "kto",
            policy[good],
            policy[~good],
            ref[good],
            ref[~good],
            self.beta,
            kl=z,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        rewards = self.beta * (policy - ref).detach()
        right = torch.where(good, rewards > self.beta * z, rewards < self.beta * z).double()
        metrics = means({"actor/pref_loss": losses.sum() / len(right), "actor/pref_accuracy": right.mean()}, len(right))
        for name, part in (("chosen", good), ("rejected", ~good)):
            if bool(part.any()):
                metrics |= means({f"actor/{name}_reward": rewards[part].mean()}, int(part.sum()))
        return losses.sum() / denominator, metrics
