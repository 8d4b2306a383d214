"""Checks that rollout engines and trainer have the same weights, by log-probs of new samples."""

from __future__ import annotations

import numpy as np

from rlcore.loops.config import ParityConfig
from rlcore.metrics import Max, Mean, Metrics, Sum
from rlcore.problems import UserError
from rlcore.types import TrainBatch

FLOAT32_TOLERANCE = 1e-3


class ParityError(UserError, RuntimeError):
    """Rollout and trainer disagree about the log-probs of the same tokens under the same weight version."""


def compare(batch: TrainBatch, config: ParityConfig) -> Metrics:
    """Differences between `rollout_logprobs` and `old_logprobs` over loss tokens.

    Args:
        batch: only rows sampled by the weights that computed `old_logprobs`; without any, only their number is
            returned.

    Raises:
        ParityError: under `config.stop`, when the largest difference passes `tolerance` or the mean one
            `mean_tolerance`. The usual cause is the weight sync; a NaN counts as a disagreement.
    """
    if not len(batch):
        return {"rollout/parity_rows": Sum(0)}
    if batch.rollout_logprobs is None or batch.old_logprobs is None:
        raise ValueError("parity needs rollout_logprobs and old_logprobs")
    difference = np.abs(batch.rollout_logprobs - batch.old_logprobs)[batch.loss_mask]
    largest = float(difference.max(initial=0.0))
    mean = float(difference.mean()) if difference.size else 0.0
    agreed = largest <= _tolerance(config) and (config.mean_tolerance is None or mean <= config.mean_tolerance)
    if config.stop and not agreed:
        raise ParityError(_explain(batch, largest, mean, config))
    return {
        "rollout/parity_rows": Sum(len(batch)),
        "rollout/logprob_diff_max": Max(largest),
        "rollout/logprob_diff_mean": Mean(float(difference.sum()), difference.size),
    }


def _tolerance(config: ParityConfig) -> float:
    return FLOAT32_TOLERANCE if config.tolerance is None else config.tolerance


def _explain(batch: TrainBatch, largest: float, mean: float, config: ParityConfig) -> str:
    assert batch.rollout_logprobs is not None
    assert batch.old_logprobs is not None
    difference = np.where(batch.loss_mask, np.abs(batch.rollout_logprobs - batch.old_logprobs), -1.0)
    worst = int(np.argmax(difference))
    row = int(np.searchsorted(batch.offsets, worst, side="right")) - 1
    return (
        f"rollout and trainer disagree on log-probs: largest difference {largest:.3g} "
        f"(tolerance {_tolerance(config):g}), mean {mean:.3g}"
        + (f" (tolerance {config.mean_tolerance:g})" if config.mean_tolerance is not None else "")
        + f"; worst at sample {batch.sample_ids[row]!r}, token {worst - batch.offsets[row]}: "
        f"rollout {batch.rollout_logprobs[worst]:.4f}, trainer {batch.old_logprobs[worst]:.4f}. "
        f"Both should have the same weights; otherwise training is off-policy. "
        f"Causes, likeliest first: a weight that the sync misses (tied embeddings, a renamed "
        f"parameter), another dtype on one side, top_p < 1 or top_k > 0, another attention kernel. "
        f"trainer.parity.tolerance and mean_tolerance are the limits; trainer.parity.stop=false only logs."
    )
