"""Metrics of the mismatch between sampler and trainer, shared by all objectives."""

from __future__ import annotations

from torch import Tensor

from rlcore.algorithms.config import CorrectionConfig, CorrectionLevel
from rlcore.metrics import EffectiveShare, Max, Metrics
from rlcore.objective import means
from rlcore.ops.mismatch import importance_weights


def mismatch(
    old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, correction: CorrectionConfig
) -> tuple[Tensor, Metrics]:
    """Importance weights between the trainer's and the sampler's log-probs, and metrics of them.

    Args:
        old_logprobs: [b, t] the trainer's, at batch start. rollout_logprobs: [b, t] the sampler's.
        mask: [b, t] bool; masked-out entries may have any value.
        correction: level `none` measures single tokens; do not apply these weights.

    Returns:
        [b, t] weights without gradient (`rlcore.ops.mismatch.importance_weights`), and metrics that all merge exactly:
        `rollout/kl`, `rollout/k3`, `rollout/weight`, `rollout/bounded`, means over tokens; `rollout/max_ratio`, a
        maximum; `rollout/ess`, the effective sample size as a share of the tokens. None without masked-in tokens.

    Raises:
        ValueError: shapes differ, or bounds out of order.
    """
    level = CorrectionLevel.token if correction.level is CorrectionLevel.none else correction.level
    weights, found = importance_weights(
        old_logprobs, rollout_logprobs, mask, level.value, correction.mode.value, correction.low, correction.high
    )
    num_tokens = int(mask.sum())
    if num_tokens == 0:
        return weights, {}
    del found["ess"]  # of this part of the batch
    highest, total, squares = (float(found.pop(name)) for name in ("max_ratio", "sum", "sum_squares"))
    metrics = means({f"rollout/{name}": x for name, x in found.items()}, num_tokens)
    metrics |= {"rollout/max_ratio": Max(highest), "rollout/ess": EffectiveShare(total, squares, num_tokens)}
    return weights, metrics
