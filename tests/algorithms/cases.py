"""Small batches and groups for the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import tests.ops.cases  # noqa: F401  for its hypothesis profile
from rlcore.types import Group, Prompt, RewardResult, Status, TrainBatch, Trajectory

MASK = np.array(
    [
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 1],  # a gap of tool tokens
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],  # padding row
        [0, 1, 1, 1, 1, 1],
    ],
    dtype=bool,
)


def train_batch(seed: int = 0, spread: float = 0.5, without: Sequence[str] = ()) -> TrainBatch:
    """Five rows of six tokens with every optional array, read-only as arrays from Ray are."""
    rng = np.random.default_rng(seed)
    base = -rng.uniform(0.1, 2.0, MASK.shape)
    arrays: dict[str, Any] = {
        name: (base + spread * rng.normal(size=MASK.shape)).astype(np.float32) * MASK
        for name in ("rollout_logprobs", "old_logprobs", "ref_logprobs")
    }
    arrays["advantages"] = rng.normal(size=(len(MASK), 1)).astype(np.float32) * MASK
    arrays["values"] = arrays["returns"] = rng.normal(size=MASK.shape).astype(np.float32)
    batch = TrainBatch.from_padded(
        tokens=rng.integers(1, 9, MASK.shape).astype(np.int32),
        lengths=np.array([4, 6, 3, 1, 6], dtype=np.int32),
        loss_mask=MASK.copy(),
        sample_ids=["a", "b", "c", "", "d"],
        **{name: None if name in without else array for name, array in arrays.items()},
    )
    for name in ("tokens", "offsets", "loss_mask", *TrainBatch.ARRAYS):
        if (array := getattr(batch, name)) is not None:
            array.setflags(write=False)
    return batch


def grid(batch: TrainBatch) -> Any:
    """The batch's arrays of tokens by name, padded to [B, T]."""
    names = ("tokens", "loss_mask", *TrainBatch.ARRAYS)
    return SimpleNamespace(**{n: None if getattr(batch, n) is None else batch.padded(n) for n in names})


def policy_logprobs(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -2 * torch.rand(MASK.shape, generator=generator) * torch.tensor(MASK)


def group(uid: str, scores: Sequence[float | None], cut: Sequence[int] = ()) -> Group:
    """A group with these scores; None is a sample whose scoring failed, `cut` those that ended by length."""
    prompt = Prompt(uid=uid, token_ids=(1, 2), text=uid)
    trajectories = []
    for k, score in enumerate(scores):
        reward = RewardResult(float("nan"), Status.TIMEOUT) if score is None else RewardResult(score)
        trajectories.append(
            Trajectory(
                uid=uid,
                sample_id=f"{uid}#0.{k}",
                tokens=np.array([1, 2, 3], dtype=np.int32),
                loss_mask=np.array([False, False, True]),
                rollout_logprobs=np.array([0.0, 0.0, -0.5], dtype=np.float32),
                versions=np.array([-1, -1, 0], dtype=np.int32),
                num_prompt_tokens=2,
                finish_reason="length" if k in cut else "stop",
                text="3",
                reward=reward,
            )
        )
    return Group(prompt, trajectories)
