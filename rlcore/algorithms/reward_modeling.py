"""Objective of reward models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlcore.algorithms.reward_config import RewardLoss, RewardTrainingConfig
from rlcore.metrics import Mean, Metrics
from rlcore.objective import Outputs, TensorBatch, means, whole_pairs, zero_loss
from rlcore.ops.reward_losses import attribute_regression, bradley_terry, grade_cross_entropy, soft_label
from rlcore.types import RewardScale, TrainBatch

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Denominators of a whole optimizer batch."""

    pairs: float  # sum of the pairs' weights
    labels: float  # labelled numbers, or graded responses times grades


@dataclass(frozen=True)
class RewardObjective:
    """The losses of a reward model. Pair losses are on r = sum_k weights_k s_k of the K outputs s:

        L = sum_i w_i L_pair(r_c, r_r) / sum_i w_i  +  grade_coef L_grades

    with `config.loss` one of

        bradley_terry  -log sigmoid(r_c - r_r)
        margin         -log sigmoid(r_c - r_r - m), m by the preference's strength; 0 where it is unknown
        soft_label     cross-entropy to a chance p by the strength; 1 where it is unknown
        regression     no pairs: the mean squared error over all labelled outputs

    (`rlcore.ops.reward_losses`). A batch with `labels` (iterative data smoothing) takes these for p, whichever of
    bradley_terry and soft_label is set. `weights` of the batch are the weights of pairs; None means 1.

    L_grades is the mean over all labels of outputs after the first: squared errors, or with `grade_classes` the
    cross-entropy of a grade. Apple (arXiv 2407.21075, appendix) adds the latter summed over two responses and four
    grades to the soft-label loss, each grade from a separate small MLP; here it is a linear head, as in a sequence
    classification folder, and the mean: grade_coef is their lambda times the labels of a pair.

    Rows 2i and 2i + 1 of a batch with pairs are chosen and rejected (`rlcore.data.batching.reward`). Rows without a
    loss token are padding.

    Metrics: `reward_model/pair_loss`, `reward_model/accuracy` (a tie is half right), `reward_model/margin` (r_c - r_r)
    per pair, by weight; `reward_model/grade_loss` per label.
    """

    config: RewardTrainingConfig
    temperature: ClassVar[float] = 1.0
    needs_entropy: ClassVar[bool] = False

    @property
    def scale(self) -> RewardScale:
        """Scale of the trained model, before normalisation."""
        plain = json.loads(json.dumps(asdict(self.config)))  # enums by value
        return RewardScale(self.config.outputs, self.config.weights, trained_with=plain)

    @property
    def on_pairs(self) -> bool:
        return self.config.loss is not RewardLoss.regression

    def denominator(self, batch: TrainBatch) -> Counts:
        """Counted over the whole optimizer batch, before any split.

        Raises:
            ValueError: half a pair, or `regression` without any label.
        """
        tensors = TensorBatch.from_train_batch(batch)
        pairs = float(_pair_weights(tensors, whole_pairs(tensors.loss_mask)).double().sum()) if self.on_pairs else 0.0
        targets = self._graded(tensors)
        labels = 0.0 if targets is None else float(self._labelled(tensors, targets).sum())
        if not self.on_pairs and not labels:
            raise ValueError(f"loss=regression, but no row has a label of {', '.join(self.config.outputs)}")
        return Counts(pairs, labels)

    def _graded(self, batch: TensorBatch) -> Tensor | None:
        """The targets that have a loss."""
        return None if self.on_pairs and not self.config.grade_coef else batch.targets

    def _labelled(self, batch: TensorBatch, targets: Tensor) -> Tensor:
        """[b, K'] bool: labelled numbers, or whole grades if these are classes; False for padding."""
        if targets.ndim != 2 or targets.shape[1] != (outputs := len(self.config.outputs)):
            raise ValueError(f"targets have shape {tuple(targets.shape)}, the model has {outputs} outputs")
        known = ~targets.isnan() & batch.loss_mask.any(1)[:, None]
        return known[:, 1 :: self.config.grade_classes or 1] if self.on_pairs else known

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: Counts) -> tuple[Tensor, Metrics]:
        scores = outputs.numbers
        total, metrics = zero_loss(scores), Metrics()
        if not bool(batch.loss_mask.any()):
            return total, metrics
        if self.on_pairs:
            loss, metrics = self._pairs(scores, batch, denominator)
            total = total + loss
        if (targets := self._graded(batch)) is not None:
            loss, found = self._grades(scores, batch, targets, denominator)
            total, metrics = total + loss * (self.config.grade_coef if self.on_pairs else 1.0), metrics | found
        return total, metrics

    def _pairs(self, scores: Tensor, batch: TensorBatch, counts: Counts) -> tuple[Tensor, Metrics]:
        rewards, first = scores @ scores.new_tensor(self.config.weights), whole_pairs(batch.loss_mask)
        chosen, rejected, weights = rewards[first], rewards[first + 1], _pair_weights(batch, first)
        summed = (weights * self._per_pair(chosen, rejected, batch, first)).sum()
        d, count = (chosen - rejected).detach(), float(weights.sum())
        if not count:
            return summed / max(counts.pairs, 1.0), {}
        scalars = {
            "reward_model/pair_loss": summed / count,
            "reward_model/accuracy": (weights * ((d > 0).float() + 0.5 * (d == 0).float())).sum() / count,
            "reward_model/margin": (weights * d).sum() / count,
        }
        return summed / counts.pairs, means(scalars, count)

    def _per_pair(self, chosen: Tensor, rejected: Tensor, batch: TensorBatch, first: Tensor) -> Tensor:
        strengths = np.full(len(first), np.nan) if batch.strengths is None else batch.strengths[first].cpu().numpy()
        if self.config.loss is RewardLoss.margin:
            return bradley_terry(chosen, rejected, chosen.new_tensor(margins(strengths, self.config)))
        if batch.labels is not None:
            return soft_label(chosen, rejected, batch.labels[first])
        return soft_label(chosen, rejected, chosen.new_tensor(first_labels(strengths, self.config)))

    def _grades(self, scores: Tensor, batch: TensorBatch, targets: Tensor, counts: Counts) -> tuple[Tensor, Metrics]:
        classes, labelled, offset = self.config.grade_classes, self._labelled(batch, targets), int(self.on_pairs)
        scores, wanted = scores[:, offset:], targets[:, offset:].nan_to_num()
        if not classes:
            summed = attribute_regression(scores, wanted, labelled).sum()
        else:
            by_class = [x.reshape(-1, classes)[labelled.flatten()] for x in (scores, wanted)]
            summed = grade_cross_entropy(*by_class).sum()
        count = float(labelled.sum())
        if not count:
            return zero_loss(scores), {}
        return summed / counts.labels, {"reward_model/grade_loss": Mean(float(summed.detach()), count)}


def _pair_weights(batch: TensorBatch, first: Tensor) -> Tensor:
    return torch.ones_like(first, dtype=torch.float32) if batch.weights is None else batch.weights[first]


def margins(strengths: Any, config: RewardTrainingConfig) -> Float64:
    """[pairs] m of each preference: `config.margins` at `config.strength_levels`, linear between; 0 for NaN."""
    return _by_strength(strengths, config.strength_levels, config.margins, 0.0)


def first_labels(strengths: Any, config: RewardTrainingConfig) -> Float64:
    """[pairs] probabilities that the chosen response is better, before smoothing: 1 for `bradley_terry`; by strength
    for `soft_label`, 1 for NaN. The initial labels of `rlcore.ops.reward_losses.smoothed_labels`.
    """
    if config.loss is not RewardLoss.soft_label:
        return np.ones(np.shape(strengths))
    return _by_strength(strengths, config.strength_levels, config.soft_labels, 1.0)


def _by_strength(strengths: Any, levels: Sequence[float], table: Sequence[float], unknown: float) -> Float64:
    x = np.asarray(strengths, dtype=np.float64)
    found = np.interp(np.nan_to_num(x), levels, table)
    return np.where(np.isnan(x), unknown, found)
