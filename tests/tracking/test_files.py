"""Files hold what was logged, once per step, strictly as JSON."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from rlcore.tracking.files import JsonlTracker, SamplesTracker
from tests.tracking.cases import group, rows_of, steps_of, strict


def test_a_row_per_step(tmp_path):
    tracker = JsonlTracker(tmp_path)
    before = time.time()
    tracker.log(0, {"a/b": 0.1, "n": np.float32(2.5), "i": 3, "k": np.int64(4), "nan": math.nan, "inf": -math.inf})
    tracker.log(1, {"a/b": np.float64(1 / 3)})
    first, second = rows_of(tmp_path / "metrics.jsonl")  # readable while the run goes on
    assert before - 0.01 <= first.pop("time") <= time.time() + 0.01
    assert first == {"step": 0, "a/b": 0.1, "n": 2.5, "i": 3, "k": 4, "nan": None, "inf": None}
    assert second["a/b"] == 1 / 3
    tracker.close()
    tracker.close()


def test_truncate_after_keeps_what_it_drops(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(tmp_path)
    for step in range(8):
        tracker.log(step, {"x": step})
    assert tracker.truncate_after(5) == 2
    assert tracker.truncate_after(5) == 0
    assert steps_of(path) == list(range(6))
    assert steps_of(tmp_path / "metrics.jsonl.bak-1") == [6, 7]
    tracker.log(6, {"x": 60})
    tracker.close()
    tracker = JsonlTracker(tmp_path)
    assert tracker.truncate_after(3) == 3
    assert [row["x"] for row in rows_of(tmp_path / "metrics.jsonl.bak-2")] == [4, 5, 60]
    assert steps_of(path) == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "metrics.jsonl.bak-1", "metrics.jsonl.bak-2"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_row_cut_short_by_a_kill(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(tmp_path)
    for step in range(3):
        tracker.log(step, {"reward/mean": 0.123456})
    tracker.close()
    path.write_bytes(path.read_bytes()[:-cut])
    tracker = JsonlTracker(tmp_path)
    last = steps_of(path)[-1]
    assert last == (2 if cut == 1 else 1), "only the line break was missing: the row is whole"
    tracker.log(last + 1, {"x": 1})
    assert steps_of(path) == list(range(last + 2))


def test_no_step_stands_there_twice_even_without_truncation(tmp_path):
    """The run went back to another checkpoint than the one it was told of."""
    tracker = JsonlTracker(tmp_path)
    for step in range(6):
        tracker.log(step, {"x": step})
    tracker.close()
    tracker = JsonlTracker(tmp_path)
    tracker.log(3, {"x": 30})
    tracker.log(4, {"x": 40})
    assert steps_of(tmp_path / "metrics.jsonl") == [0, 1, 2, 3, 4]
    assert [row["x"] for row in rows_of(tmp_path / "metrics.jsonl")] == [0, 1, 2, 30, 40]
    assert steps_of(tmp_path / "metrics.jsonl.bak-1") == [3, 4, 5]


def test_samples(tmp_path):
    tracker = SamplesTracker(tmp_path)
    odd = "ü\u2028\ud800\n\x00"
    tracker.log_samples(1, [group("a", 1.0, None), group("b", math.nan, text=odd)])
    tracker.log_samples(1, [group("c", 0.0)])  # more of the same step
    path = tmp_path / "samples.jsonl"
    rows = [strict(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [(r["sample_id"], r["score"], r["status"]) for r in rows] == [
        ("a#1.0", 1.0, "ok"), ("a#1.1", None, None), ("b#1.0", None, "ok"), ("c#1.0", 0.0, "ok"),
    ]  # fmt: skip
    assert rows[0] == {
        "step": 1, "sample_id": "a#1.0", "prompt": "1+2=", "response": "301", "reference": "3", "score": 1.0,
        "status": "ok", "finish_reason": "stop", "response_tokens": 3, "parts": {"math": 1.0},
    }  # fmt: skip
    assert rows[2]["response"] == "ü\u2028?\n\x00", "what UTF-8 cannot hold is replaced"
    tracker.close()
    again = SamplesTracker(tmp_path)
    again.log_samples(1, [group("d", 0.0)])
    assert [r["sample_id"] for r in rows_of(path)] == ["d#1.0"]
