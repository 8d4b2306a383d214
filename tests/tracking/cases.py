"""Metrics, groups and readers of the trackers' tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from rlcore.types import Group, Prompt, RewardResult, Status, Trajectory

METRICS = {
    "reward/mean": 0.25,
    "eval/heldout/mean@1": 0.5,
    "response_length/mean": 4.25,
    "actor/pg_loss": -0.0123,
    "actor/grad_norm": 0.3,
    "rollout/logprob_diff_max": 1.5e-6,
    "perf/throughput": 12_345.0,
    "timing_s/step": 1.75,
}


def strict(line: str) -> dict:
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def rows_of(path: Path) -> list[dict]:
    return [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(path: Path) -> list[int]:
    return [row["step"] for row in rows_of(path)]


def group(name: str, *scores: float | None, text: str = "301") -> Group:
    trajectories = [
        Trajectory(
            uid=name, sample_id=f"{name}#1.{k}", tokens=np.zeros(5, np.int32), loss_mask=np.ones(5, np.bool_),
            rollout_logprobs=np.zeros(5, np.float32), versions=np.zeros(5, np.int32), num_prompt_tokens=2,
            finish_reason="stop", text=text,
            reward=None if score is None else RewardResult(score, Status.OK, {"math": score}),
        )
        for k, score in enumerate(scores)
    ]  # fmt: skip
    return Group(Prompt(uid=name, token_ids=(1, 2), text="1+2=", reference="3"), trajectories)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
