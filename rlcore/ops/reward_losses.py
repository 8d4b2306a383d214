"""Losses of reward models, one per pair or per labelled attribute. To be minimised; take the mean to reduce."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlcore.ops.checks import as_mask, at_least_float32, require_same_shape
from rlcore.ops.masking import keep


def bradley_terry(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], margin: Float[Tensor, " pairs"] | None = None
) -> Float[Tensor, " pairs"]:
    """Negative log-likelihood that the chosen response wins.

        L = -log sigmoid(r_c - r_r - m)

    Args:
        chosen, rejected: [pairs] the model's rewards r_c and r_r.
        margin: [pairs] m, larger for pairs whose responses differ more; None is 0.

    Returns:
        [pairs] float32 (float64 for float64 input).

    Raises:
        ValueError: shapes differ.

    Source: InstructGPT, arXiv 2203.02155 equation 1, whose mean over the pairs of a prompt is the caller's; margin:
    Llama 2, 2307.09288 equation 2, with m by preference rating in table 27.
    """
    require_same_shape(chosen=chosen, rejected=rejected, margin=margin)
    difference = at_least_float32(chosen) - at_least_float32(rejected)
    return -F.logsigmoid(difference if margin is None else difference - margin)


def soft_label(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], target: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Cross-entropy against a probability of winning, which depends on the strength of the preference.

        L = -p log sigmoid(r_c - r_r) - (1 - p) log sigmoid(r_r - r_c)

    Args:
        chosen, rejected: [pairs] the model's rewards.
        target: [pairs] p in [0, 1]; 1 is `bradley_terry`, 0.5 a tie.

    Returns:
        [pairs] float32 (float64 for float64 input).

    Raises:
        ValueError: shapes differ, or a target is not in [0, 1].

    Source: Apple Intelligence Foundation Language Models, arXiv 2407.21075, reward modelling (appendix): p is 0.95,
    0.85, 0.75 or 0.65 where the chosen response is significantly, plainly, slightly or negligibly better.
    """
    require_same_shape(chosen=chosen, rejected=rejected, target=target)
    p = at_least_float32(target)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("targets are probabilities and must be in [0, 1]")
    difference = at_least_float32(chosen) - at_least_float32(rejected)
    return -p * F.logsigmoid(difference) - (1 - p) * F.logsigmoid(-difference)


def attribute_regression(
    pred: Float[Tensor, "B K"], target: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Squared error of every labelled attribute (helpfulness, correctness, ...).

        L_ik = (pred_ik - target_ik)^2

    Args:
        pred: [B, K] predictions.
        target: [B, K] labels; masked-out entries may have any value, also NaN.
        mask: [B, K] bool, True where a label exists.

    Returns:
        [B, K] float32 (float64 for float64 input), 0 where masked out; reduce with `masking.masked_mean`.

    Raises:
        ValueError: shapes differ, or a mask that is not one of 0 and 1.

    Source: HelpSteer2, arXiv 2406.08673 section 4; SteerLM, 2310.05344.
    """
    mask = as_mask(mask)
    require_same_shape(pred=pred, target=target, mask=mask)
    return (keep(at_least_float32(pred), mask) - keep(at_least_float32(target), mask)).square()


def grade_cross_entropy(logits: Float[Tensor, "B C"], target: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Cross-entropy of one grade of single responses, as a classification.

        L_i = -sum_c target_ic log softmax(logits_i)_c

    Args:
        logits: [B, C] of the classes.
        target: [B, C] probabilities of the classes, one-hot if the grade is certain.

    Returns:
        [B] float32 (float64 for float64 input).

    Raises:
        ValueError: shapes differ, or a row of `target` is not a distribution.

    Source: Apple Intelligence Foundation Language Models, arXiv 2407.21075, single-sided grading as regularization
    (appendix), which adds lambda times this for both responses and each grade (instruction following, verbosity,
    truthfulness, harmlessness, of three classes each).
    """
    require_same_shape(logits=logits, target=target)
    p = at_least_float32(target)
    if not bool(((p >= 0).all(1) & ((p.sum(1) - 1).abs() < 1e-4)).all()):
        raise ValueError("a row of targets is no distribution over the classes of a grade")
    return -(p * F.log_softmax(at_least_float32(logits), 1)).sum(1)


def smoothed_labels(labels: ArrayLike, chosen: ArrayLike, rejected: ArrayLike, beta: float) -> NDArray[np.float64]:
    """New labels of iterative data smoothing after an epoch.

        y <- (1 - beta) y + beta sigmoid(r_c - r_r)

    Train on `soft_label` with target y. A frequent comparison keeps its label, since the model agrees with it by then;
    the label of a rare one fades before the model has memorised it. beta 0 keeps the labels.

    Args:
        labels: [pairs] y, probabilities that the chosen response is better.
        chosen, rejected: [pairs] the model's rewards after the epoch.

    Returns:
        [pairs] float64, the new labels; the input is not modified.

    Raises:
        ValueError: shapes differ or are not [pairs], a label or beta is not in [0, 1], or a reward is not finite.

    Source: Zhu, Jordan and Jiao, Iterative Data Smoothing, arXiv 2401.16335 algorithm 1.
    """
    y, r_c, r_r = (np.asarray(x, dtype=np.float64) for x in (labels, chosen, rejected))
    if not y.shape == r_c.shape == r_r.shape or y.ndim != 1:
        raise ValueError(f"shapes must be equal and [pairs]: labels {y.shape}, {r_c.shape} and {r_r.shape}")
    if not 0 <= beta <= 1 or not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"beta and labels must be in [0, 1]: beta is {beta}")
    if not (np.isfinite(r_c) & np.isfinite(r_r)).all():
        raise ValueError("rewards must be finite")
    model = np.exp(-np.logaddexp(0.0, r_r - r_c))
    smoothed: NDArray[np.float64] = (1 - beta) * y + beta * model
    return smoothed
