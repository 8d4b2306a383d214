"""`metrics.jsonl` and `samples.jsonl`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.storage.durable import JsonLines
from rlcore.tracking.base import SilentTracker
from rlcore.types import Group


class JsonlTracker(SilentTracker):
    """`metrics.jsonl`: `{"step": 3, "time": 1760000000.123, "reward/mean": 0.5, ...}`, one row per step; time in
    seconds since 1970, NaN and infinities as null. A step logged again replaces its row and all later ones, which move
    to `metrics.jsonl.bak-<n>`. So no step occurs twice after a resume.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = JsonLines(run_dir / "metrics.jsonl")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, "time": round(time.time(), 3)}
        self._lines.append(step, [row | {name: _number(value) for name, value in metrics.items()}])

    def truncate_after(self, step: float) -> int:
        """Moves the rows of steps after `step` to `metrics.jsonl.bak-<n>`; returns their number."""
        return self._lines.truncate_after(step)


class SamplesTracker(SilentTracker):
    """`samples.jsonl`: every logged sample, with prompt, response, reference, score, status and the score's parts."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = JsonLines(run_dir / "samples.jsonl")

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        self._lines.append(step, sample_rows(step, groups), join=True)

    def truncate_after(self, step: float) -> int:
        return self._lines.truncate_after(step)


def sample_rows(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One JSON-able row per sample; score and status are null without a score."""
    rows = []
    for group in groups:
        for t in group.trajectories:
            row = {"step": step, "sample_id": t.sample_id, "prompt": group.prompt.text, "response": t.text}
            row |= {"reference": group.prompt.reference, "score": t.reward and _number(t.reward.score)}
            row |= {"status": t.reward and t.reward.status.value, "finish_reason": t.finish_reason}
            row["response_tokens"] = t.num_response_tokens
            if t.turns:
                row |= {"rollout_id": t.rollout_id, "turns": [dict(turn) for turn in t.turns]}
            row["parts"] = {name: _number(part) for name, part in t.reward.parts.items()} if t.reward else {}
            rows.append({k: _encodable(v) for k, v in row.items()})
    return rows


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return int(value)
    number = float(value)  # also numpy and torch scalars
    return number if math.isfinite(number) else None


def _encodable(value: Any) -> Any:
    """Replaces lone surrogates, which byte-level tokenizers can produce."""
    if isinstance(value, list):
        return [{k: _encodable(v) for k, v in turn.items()} for turn in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
