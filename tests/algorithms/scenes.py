"""Scored groups with the batch that holds them, and what `credit` makes of the two."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import credit
from rlcore.data.batching.collate import collate
from rlcore.types import Float32, Group, TrainBatch
from tests.algorithms.cases import group

LIMIT = 8  # max_new_tokens
Scores = Sequence[Sequence[float | None]]


def scene(scores: Scores, seed: int = 0, without: Sequence[str] = ()) -> tuple[list[Group], TrainBatch]:
    """Groups with responses of one to six tokens, some with a gap, and their batch with every model's numbers."""
    rng = np.random.default_rng(seed)
    groups = [group(str(index), row) for index, row in enumerate(scores)]
    for trajectory in (t for g in groups for t in g.trajectories):
        length = int(rng.integers(1, 7))
        trajectory.tokens = np.arange(1, 3 + length, dtype=np.int32)
        trajectory.loss_mask = np.array([False, False] + [True] * length)
        if length > 2 and rng.random() < 0.5:
            trajectory.loss_mask[3] = False  # a tool's token
        trajectory.rollout_logprobs = np.zeros(2 + length, np.float32)
        trajectory.versions = np.zeros(2 + length, np.int32)
    batch = collate([t for g in groups for t in g.trajectories])
    base = -rng.uniform(0.1, 2.0, batch.padded("tokens").shape)
    names = ("old_logprobs", "ref_logprobs")
    arrays = {n: (base + 0.3 * rng.normal(size=base.shape)).astype(np.float32) for n in names}
    arrays["values"] = rng.normal(size=base.shape).astype(np.float32)
    batch = batch.with_arrays(**{n: batch.flat(a) for n, a in arrays.items() if n not in without})
    for name in ("loss_mask", *TrainBatch.ARRAYS):
        if (array := getattr(batch, name)) is not None:
            array.setflags(write=False)  # as arrays from Ray are
    return groups, batch


def advantages(
    scores: Scores, seed: int = 0, kl_coef: float | None = None, **settings: Any
) -> tuple[Float32, TrainBatch]:
    """Of a `scene`, and the batch that carries them; `kl_coef` is the controller's."""
    groups, batch = scene(scores, seed)
    config = AlgorithmConfig(**settings)
    out, _ = credit(groups, batch, config, config.kl_coef if kl_coef is None else kl_coef, LIMIT)
    assert out.advantages is not None
    assert out.advantages.dtype == np.float32
    assert not out.advantages[~batch.loss_mask].any()
    assert batch.advantages is None  # the given one is as it was
    return out.padded("advantages"), out


def per_row(scores: Scores, **settings: Any) -> list[float]:
    """Of an advantage that is the same on all tokens of its row."""
    found, batch = advantages(scores, **settings)
    rows = [found[b][mask] for b, mask in enumerate(batch.padded("loss_mask"))]
    assert all((row == row[0]).all() for row in rows)
    return [float(row[0]) for row in rows]


def trained_steps(batch: TrainBatch) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in batch.padded("loss_mask")]
