"""Ages of the trained tokens, and the samples that are not stale. Pure.

The age of a token, in steps, is the version of the trainer's weights at the update minus the version that sampled it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlcore.metrics import Max, Mean, Metrics
from rlcore.types import Trajectory


def staleness(trained: Sequence[Trajectory], version: int) -> Metrics:
    """Metrics over the trained tokens with a known version (a reference's samples have none): `rollout/age_mean` and
    `rollout/age_max`, in steps, and `rollout/tokens_age_<k>`, the share of tokens of age k, for k from 0 to the oldest.

    Args:
        trained: samples of one step.
        version: of the trainer's weights before the step's first update.

    Raises:
        ValueError: a token is newer than the trainer's weights.
    """
    if not trained:
        return {}
    versions = np.concatenate([t.versions[t.loss_mask] for t in trained])
    ages = version - versions[versions >= 0]
    if not ages.size:
        return {}
    if ages.min() < 0:
        newest = max(trained, key=lambda t: int(t.versions.max()))
        text = f"sample {newest.sample_id} has tokens of version {int(newest.versions.max())}"
        raise ValueError(f"{text}, the trainer's weights are version {version}")
    metrics: Metrics = {"rollout/age_mean": Mean(float(ages.sum()), ages.size), "rollout/age_max": Max(int(ages.max()))}
    shares = enumerate(np.bincount(ages).tolist())
    return metrics | {f"rollout/tokens_age_{age}": Mean(count, ages.size) for age, count in shares}


def current_rows(trajectories: Sequence[Trajectory], version: int) -> list[int]:
    """Indices of the samples wholly of the current version: the prompt was read under it and every token sampled.

    Only these must have equal log-probs in engine and trainer. A sample whose `begun_version` is unknown (-1) counts if
    its tokens are current; one without a sampled token of the policy (a reference's) does not.
    """
    rows = []
    for row, t in enumerate(trajectories):
        sampled = t.versions[t.versions >= 0]
        if t.begun_version in (version, -1) and sampled.size and bool((sampled == version).all()):
            rows.append(row)
    return rows
