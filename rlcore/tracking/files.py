"""`metrics.jsonl` and `samples.jsonl`."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.tracking.base import SilentTracker
from rlcore.types import Group


class _Lines:
    """A file of one strict-JSON object per line, in the order of `step`. A line cut short by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._started = False
        self._last_step = -math.inf
        self.truncate_after(math.inf)

    def append(self, step: int, rows: Sequence[Mapping[str, Any]], join: bool = False) -> None:
        """Rows of one step; what stands there of this step and later ones moves aside first.

        `join`: rows of this step that were appended since the file was opened stay.
        """
        if step < self._last_step or (step == self._last_step and not (join and self._started)):
            self.truncate_after(step - 1)
        self._last_step, self._started = step, True
        self._file.write("".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()

    def truncate_after(self, step: float) -> int:
        """Moves the rows of later steps to `<name>.bak-<n>`; returns how many."""
        kept: list[bytes] = []
        dropped: list[bytes] = []
        torn = False
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                later = json.loads(line)["step"] > step
                torn = torn or not line.endswith(b"\n")
            except (ValueError, TypeError, KeyError):
                torn = True
                continue
            (dropped if later else kept).append(line.rstrip(b"\n") + b"\n")
        if dropped or torn:
            if dropped:
                self._backup().write_bytes(b"".join(dropped))
            aside = self.path.with_name(self.path.name + ".partial")
            aside.write_bytes(b"".join(kept))
            os.replace(aside, self.path)
            self._file.close()
            self._file = self.path.open("a", encoding="utf-8")
        self._last_step = max((json.loads(line)["step"] for line in kept[-1:]), default=-math.inf)
        return len(dropped)

    def _backup(self) -> Path:
        n = 1
        while (path := self.path.with_name(f"{self.path.name}.bak-{n}")).exists():
            n += 1
        return path

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


class JsonlTracker(SilentTracker):
    """`metrics.jsonl`: `{"step": 3, "time": 1760000000.123, "reward/mean": 0.5, ...}`, one row per step; time in
    seconds since 1970, NaN and infinities as null. A step logged again replaces its row and all later ones, which move
    to `metrics.jsonl.bak-<n>`: however a run was resumed, no step stands there twice.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = _Lines(run_dir / "metrics.jsonl")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, "time": round(time.time(), 3)}
        self._lines.append(step, [row | {name: _number(value) for name, value in metrics.items()}])

    def truncate_after(self, step: float) -> int:
        """Drops the rows of steps after `step`, keeping them in `metrics.jsonl.bak-<n>`; returns how many."""
        return self._lines.truncate_after(step)

    def close(self, failed: bool = False) -> None:
        self._lines.close()


class SamplesTracker(SilentTracker):
    """`samples.jsonl`: every logged sample, with prompt, response, reference, score, status and the score's parts."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = _Lines(run_dir / "samples.jsonl")

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        self._lines.append(step, sample_rows(step, groups), join=True)

    def truncate_after(self, step: float) -> int:
        return self._lines.truncate_after(step)

    def close(self, failed: bool = False) -> None:
        self._lines.close()


def sample_rows(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One JSON-able row per sample; score and status are null where nothing was scored."""
    rows = []
    for group in groups:
        for t in group.trajectories:
            row = {"step": step, "sample_id": t.sample_id, "prompt": group.prompt.text, "response": t.text}
            row |= {"reference": group.prompt.reference, "score": t.reward and _number(t.reward.score)}
            row |= {"status": t.reward and t.reward.status.value, "finish_reason": t.finish_reason}
            row["response_tokens"] = t.num_response_tokens
            row["parts"] = {name: _number(part) for name, part in t.reward.parts.items()} if t.reward else {}
            rows.append({k: _text(v) if isinstance(v, str) else v for k, v in row.items()})
    return rows


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return int(value)
    number = float(value)  # numpy and torch scalars too
    return number if math.isfinite(number) else None


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()  # byte-level tokenizers can give lone surrogates
