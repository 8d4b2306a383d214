"""Supervised fine-tuning: negative log-likelihood of the tokens of the loss mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlcore.metrics import Metrics
from rlcore.objective import Outputs, TensorBatch, means, zero_loss
from rlcore.ops.aggregate import aggregate
from rlcore.types import TrainBatch


@dataclass(frozen=True)
class SupervisedObjective:
    """Mean over the batch's loss tokens of `-log pi(y_t)`.

    Metric `sft/loss` is this mean in nats per token, merged exactly over micro-batches, ranks and steps; its `exp` is
    the perplexity.
    """

    needs_entropy: ClassVar[bool] = False
    temperature: ClassVar[float] = 1.0

    def denominator(self, batch: TrainBatch) -> float:
        return float(batch.num_loss_tokens)

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> tuple[Tensor, Metrics]:
        mask = batch.loss_mask
        num_tokens = int(mask.sum())
        if num_tokens == 0:
            return zero_loss(outputs.numbers), {}
        loss = aggregate(-outputs.numbers, mask, "token_mean", denominator)
        return loss, means({"sft/loss": loss * (denominator / num_tokens)}, num_tokens)
