"""The critic's objective: values to returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlcore.metrics import ExplainedVariance, Metrics
from rlcore.objective import Outputs, TensorBatch, means, needed, zero_loss
from rlcore.ops.aggregate import aggregate
from rlcore.ops.value_losses import clipped_value_loss
from rlcore.types import TrainBatch


@dataclass(frozen=True)
class ValueObjective:
    """Mean over the batch's loss tokens of `ops.value_losses.clipped_value_loss`.

    The batch has `values` (of the critic at batch start, the centre of the clip) and `returns`.

    Metrics, which merge exactly over micro-batches, ranks and steps: `critic/vf_loss`, `critic/vf_clipfrac` (share of
    tokens with the larger clipped error, which have no gradient), `critic/values/mean` and `critic/returns/mean` per
    token, and `critic/explained_variance` of the returns. The last three use the values at batch start, before training
    on these returns.
    """

    value_clip: float | None = 0.2  # in units of the return; None: no clip
    temperature: ClassVar[float] = 1.0
    needs_entropy: ClassVar[bool] = False

    def denominator(self, batch: TrainBatch) -> float:
        return float(batch.num_loss_tokens)

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> tuple[Tensor, Metrics]:
        values, mask = outputs.numbers, batch.loss_mask
        num_tokens = int(mask.sum())
        if num_tokens == 0:
            return zero_loss(values), {}
        old, returns = needed(batch.values, "values"), needed(batch.returns, "returns")
        loss = aggregate(
            clipped_value_loss(values, old, returns, mask, self.value_clip), mask, "token_mean", denominator
        )
        new, before, target = (x.detach()[mask].double() for x in (values, old, returns))
        clipped = torch.zeros_like(new)
        if self.value_clip is not None:
            held = before + (new - before).clamp(-self.value_clip, self.value_clip)
            clipped = ((held - target).square() > (new - target).square()).double()
        scalars = {
            "critic/vf_loss": loss * (denominator / num_tokens),
            "critic/vf_clipfrac": clipped.mean(),
            "critic/values/mean": before.mean(),
            "critic/returns/mean": target.mean(),
        }
        return loss, means(scalars, num_tokens) | {"critic/explained_variance": _explained(target, target - before)}


def _explained(target: Tensor, error: Tensor) -> ExplainedVariance:
    parts = [part for x in (target, error) for part in (x.mean(), (x - x.mean()).square().sum())]
    return ExplainedVariance(float(target.numel()), *torch.stack(parts).tolist())
