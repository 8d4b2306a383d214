"""The report's figures against hand-worked ones, on whole, cut and odd runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from matplotlib.image import imread

from rlcore.report import ReportError, duration, read_metrics, render, smooth, step_split, summarize, write_report


def row(step: int, **more: float | None) -> dict[str, float | None]:
    named = {name.replace("__", "/").replace("_at_", "@"): value for name, value in more.items()}
    return {"step": step, "time": 1000.0 + step, **named}


def timed(step: int, **more: float | None) -> dict[str, float | None]:
    return row(step, timing_s__gen=1.0, timing_s__update_actor=0.5, timing_s__step=2.0, reward__mean=step / 10, **more)


def make_run(directory: Path, rows: list[dict[str, float | None]]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten steps of 2 s, of which 1 s generation and 0.5 s update; three evaluations of 0.4 + 0.1 s, one checkpoint."""
    evals = {0: 0.5, 4: 0.9, 10: 0.8}
    rows = [row(0, eval__heldout__mean_at_1=0.5, timing_s__eval=0.4, timing_s__eval_reward=0.1)]
    for step in range(1, 11):
        more = {}
        if step in evals:
            more = {"eval__heldout__mean_at_1": evals[step], "timing_s__eval": 0.4, "timing_s__eval_reward": 0.1}
        if step == 6:
            more["timing_s__checkpoint"] = 3.5
        rows.append(timed(step, perf__throughput=100.0 * step, perf__completions_per_s=8.0, **more))
    return make_run(tmp_path / "addition", rows)


def test_figures(run):
    report = write_report(run)
    assert report.steps == 10
    assert report.eval_name == "eval/heldout/mean@1"
    assert (report.start_accuracy, report.end_accuracy) == (0.5, 0.8)
    assert (report.best_accuracy, report.best_step) == (0.9, 4)
    assert (report.start_reward, report.end_reward) == (0.1, 1.0)  # a tenth of ten steps is one
    assert report.total_s == pytest.approx(10 * 2.0 + 3 * 0.5 + 3.5)
    assert report.step_s == 2.0
    assert report.tokens_per_s == 550.0
    assert report.completions_per_s == 8.0
    shares = {"gen": 10 / 25, "update_actor": 5 / 25, "eval": 1.5 / 25, "checkpoint": 3.5 / 25}
    assert report.phase_shares == pytest.approx(shares)
    assert report.other_share == pytest.approx(5 / 25)
    assert sum(report.phase_shares.values()) + report.other_share == pytest.approx(1)


def test_files_and_words(run):
    report = write_report(run)
    picture = imread(run / "curve.png")
    assert picture.shape[0] > 500
    assert picture.shape[1] > 800
    assert len({tuple(pixel) for pixel in picture[::7, ::7, :3].reshape(-1, 3).tolist()}) > 10, "something is drawn"
    summary = (run / "summary.md").read_text()
    text = render(report)
    for words in (summary, text):
        assert "50.0% -> 80.0%, best 90.0% at step 4" in words
        assert "25 s, 2.00 s per step" in words
    assert summary.startswith("# addition\n")
    assert "| generation | 40.0% |" in summary
    assert "curve.png" in summary
    lines = [line.strip() for line in text.splitlines()]
    order = [lines.index(f"{name:<15}{share}") for name, share in (
        ("generation", " 40.0%  ████████████"), ("policy update", " 20.0%  ██████"), ("checkpoint", " 14.0%  ████"),
        ("evaluation", "  6.0%  ██"), ("other", " 20.0%  ██████"),
    )]  # fmt: skip
    assert order == sorted(order)


def test_writing_twice_gives_the_same(run):
    first = write_report(run)
    assert write_report(run) == first


def test_line_cut_by_a_kill_is_skipped_and_counted(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 11, "reward/me')
    report = write_report(run)
    assert (report.steps, report.skipped_lines) == (10, 1)
    assert "1 of metrics.jsonl were skipped" in render(report)


def test_rows_out_of_order_and_twice(tmp_path):
    twice = [row(1, reward__mean=0.9), row(1, reward__mean=0.3)]
    run = make_run(tmp_path, [timed(2), *twice, row(2, eval__a__mean_at_1=0.7)])
    rows, skipped = read_metrics(run)
    assert [(r["step"], r["reward/mean"]) for r in rows] == [(1, 0.3), (2, 0.2)]
    assert skipped == 0
    assert summarize(run, rows).end_accuracy == 0.7
    assert rows[1]["timing_s/step"] == 2.0


@pytest.mark.parametrize(
    "rows",
    [
        [row(0)],
        [row(0, eval__heldout__mean_at_1=0.5)],
        [timed(1)],
        [timed(1), timed(2)],
        [timed(s) for s in range(1, 60)],
        [row(s, reward__mean=None, eval__heldout__mean_at_1=None, timing_s__step=None) for s in range(5)],
        [row(s, reward__mean=-3.0 * s, actor__entropy=0.0, response_length__mean=0.0) for s in range(1, 30)],
        [timed(s, actor__entropy=1 / s) for s in range(1, 5)],
    ],
    ids=["bare", "evaluation alone", "one step", "two steps", "no evaluation", "nulls", "negative", "entropy alone"],
)
def test_partial_runs(tmp_path, rows):
    run = make_run(tmp_path, rows)
    report = write_report(run)
    assert (run / "curve.png").stat().st_size > 10_000
    assert report.steps == rows[-1]["step"]
    assert "nan" not in render(report).lower()
    assert "None" not in render(report)
    assert not math.isnan(report.total_s)


def test_accuracy_of_several_sets_takes_the_one_measured_most(tmp_path):
    rows = [row(s, eval__b__mean_at_1=0.5) for s in range(3)] + [row(3, eval__a__mean_at_8=0.9, eval__b__pass_at_8=1.0)]
    assert summarize(tmp_path, rows).eval_name == "eval/b/mean@1"
    assert summarize(tmp_path, [row(1, eval__b__mean_at_4=0.5, eval__a__mean_at_4=0.5)]).eval_name == "eval/a/mean@4"


def test_what_is_not_a_run(tmp_path):
    with pytest.raises(ReportError, match="absent is no folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(ReportError, match=r"is not a run: it has no metrics\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"reward/mean": 1}\n[3]\nnull\n')
    with pytest.raises(ReportError, match="no finished step yet"):
        write_report(tmp_path)
    assert not (tmp_path / "summary.md").exists()


def test_split_of_a_step():
    assert step_split(timed(1)) == {"gen": 1.0, "update_actor": 0.5, "other": 0.5}
    overlapping = row(1, timing_s__gen=1.5, timing_s__reward=1.0, timing_s__step=2.0)
    assert step_split(overlapping)["other"] == 0.0
    ahead = row(1, timing_s__gen=1.9, timing_s__wait=0.4, timing_s__update_actor=1.5, timing_s__step=2)
    assert step_split(ahead) == pytest.approx({"wait": 0.4, "update_actor": 1.5, "other": 0.1})
    assert step_split(row(0, timing_s__warmup=9.0)) == {"warmup": 9.0, "other": 0.0}


def test_smoothing():
    assert smooth([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0], "short curves stay"
    line = [float(i) for i in range(100)]
    assert smooth(line)[10:-10] == line[10:-10]
    assert smooth([4.0] * 100) == [4.0] * 100


def test_durations():
    assert [duration(s) for s in (0.71, 42.4, 185, 7620)] == ["0.71 s", "42.4 s", "3 min 05 s", "2 h 07 min"]
