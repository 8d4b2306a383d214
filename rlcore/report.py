"""The report of a run from its `metrics.jsonl`: `summary.md`, `curve.png`, and a few lines for the console."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.problems import UserError

OUTSIDE = ("warmup", "eval", "checkpoint")  # phases between two steps
INSIDE = ("wait", "gen", "reward", "old_log_prob", "ref", "values", "update_critic", "update_actor", "update_weights",
          "parity")  # fmt: skip
PHASES = INSIDE + OUTSIDE
BESIDE = ("gen", "reward")  # on other threads in a run that samples ahead; its trainer has the phase "wait" instead
PARTS = {"eval": ("eval", "eval_reward")}  # a phase that contains others
LABELS = {
    "wait": "waiting for samples", "parity": "parity check",
    "gen": "generation", "reward": "reward", "old_log_prob": "old log-probs", "ref": "reference log-probs",
    "values": "values", "update_critic": "critic update", "update_actor": "policy update",
    "update_weights": "weight sync", "warmup": "supervised warm-up", "eval": "evaluation", "checkpoint": "checkpoint",
    "other": "other",
}  # fmt: skip
COLORS = {
    "wait": "#dddddd", "parity": "#bbbbdd",
    "gen": "#4477aa", "reward": "#66ccee", "old_log_prob": "#228833", "ref": "#88bb66", "values": "#99ddcc",
    "update_critic": "#ee8866", "update_actor": "#ccbb44", "update_weights": "#ee6677", "eval": "#aa3377",
    "checkpoint": "#997766", "warmup": "#bb5566", "other": "#cccccc",
}  # fmt: skip
_ACCURACY = re.compile(r"eval/(.+)/mean@(\d+)")


class ReportError(UserError, RuntimeError):
    """The folder is not a run, or has no finished step yet."""


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one run. Accuracies and rewards are None if the run logged none; shares are relative to `total_s`."""

    run_dir: Path
    steps: int  # completed
    eval_name: str | None  # "eval/<set>/mean@<n>"
    start_accuracy: float | None
    end_accuracy: float | None
    best_accuracy: float | None
    best_step: int | None
    start_reward: float | None  # mean of the first tenth of the steps
    end_reward: float | None  # mean of the last tenth
    total_s: float  # wall-clock seconds in steps, evaluations and checkpoints, without pauses between starts
    step_s: float  # median wall-clock seconds of a step
    tokens_per_s: float | None  # median
    completions_per_s: float | None  # median
    turns: tuple[float, float] | None = None  # of a rollout with an environment, as the rewards
    broken_rollouts: float = 0.0  # breaks, failures and retries of environments, in all steps
    phase_shares: Mapping[str, float] = field(default_factory=dict)
    other_share: float = 0.0  # share of step time outside of all phases
    skipped_lines: int = 0  # unreadable lines: a kill may truncate the last one


Row = dict[str, Any]


def write_report(run_dir: Path) -> Report:
    """Writes `summary.md` and `curve.png` into the run folder. Also works for running and killed runs.

    Raises:
        ReportError: no such folder, no `metrics.jsonl` in it, or no readable row.
    """
    run_dir = Path(run_dir)
    rows, skipped = read_metrics(run_dir)
    report = summarize(run_dir, rows, skipped)
    draw(rows, report, run_dir / "curve.png")
    (run_dir / "summary.md").write_text(_markdown(report), encoding="utf-8")
    return report


def read_metrics(run_dir: Path) -> tuple[list[Row], int]:
    """Rows by step (later values replace earlier ones), and the number of unreadable lines."""
    path = run_dir / "metrics.jsonl"
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is no folder: give the run_dir of a run")
    if not path.is_file():
        raise ReportError(f"{run_dir} is not a run: it has no metrics.jsonl")
    rows: dict[int, Row] = {}
    skipped = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.setdefault(int(row["step"]), {}).update(row)
        except (ValueError, TypeError, KeyError):
            skipped += bool(line.strip())
    if not rows:
        raise ReportError(f"{path} holds no finished step yet: try again after the first one")
    return [rows[step] for step in sorted(rows)], skipped


# ---- figures


def summarize(run_dir: Path, rows: Sequence[Row], skipped: int = 0) -> Report:
    name = eval_name(rows)
    evals = _points(rows, name) if name else []
    rewards = _first_and_last([value for _, value in _points(rows, "reward/mean")])
    best_step, best = max(evals, key=lambda point: point[1], default=(None, None))  # the first of equals
    split = [step_split(row) for row in rows]
    total = sum(sum(parts.values()) for parts in split)
    shares = {phase: sum(parts.get(phase, 0.0) for parts in split) / (total or 1) for phase in (*PHASES, "other")}
    return Report(
        run_dir=run_dir,
        steps=max(int(rows[-1]["step"]), 0),
        eval_name=name,
        start_accuracy=evals[0][1] if evals else None,
        end_accuracy=evals[-1][1] if evals else None,
        best_accuracy=best,
        best_step=best_step,
        start_reward=rewards[0] if rewards else None,
        end_reward=rewards[1] if rewards else None,
        total_s=total or _span(rows),
        step_s=_median(rows, "timing_s/step") or 0.0,
        tokens_per_s=_median(rows, "perf/throughput"),
        completions_per_s=_median(rows, "perf/completions_per_s"),
        turns=_first_and_last([value for _, value in _points(rows, "agent/turns")]),
        broken_rollouts=sum(v for n in ("breaks", "failed", "retries") for _, v in _points(rows, f"agent/{n}")),
        phase_shares={phase: share for phase, share in shares.items() if share and phase != "other"},
        other_share=shares.get("other", 0.0),
        skipped_lines=skipped,
    )


def _first_and_last(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and of the last tenth."""
    tenth = max(1, len(values) // 10)
    return (sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth) if values else None


def eval_name(rows: Sequence[Row]) -> str | None:
    """The accuracy metric to show: of the most often evaluated set, then the first by name."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in row:
            if _ACCURACY.fullmatch(name) and row[name] is not None:
                counts[name] = counts.get(name, 0) + 1
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def step_split(row: Row) -> dict[str, float]:
    """Seconds by phase of one row, including `other`. Evaluation and checkpoint are not part of `timing_s/step`."""
    split = {}
    ahead = _value(row, "timing_s/wait") is not None
    for phase in PHASES:
        if ahead and phase in BESIDE:
            continue
        parts = [_value(row, f"timing_s/{part}") for part in PARTS.get(phase, (phase,))]
        if seconds := sum(part for part in parts if part is not None):
            split[phase] = seconds
    inside = sum(split.get(phase, 0.0) for phase in INSIDE)
    split["other"] = max(0.0, (_value(row, "timing_s/step") or 0.0) - inside)
    return split


def _value(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _points(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), value) for row in rows if (value := _value(row, name)) is not None]


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = sorted(value for _, value in _points(rows, name))
    middle = len(values) // 2
    return (values[middle] + values[~middle]) / 2 if values else None


def _span(rows: Sequence[Row]) -> float:
    times = [time for row in rows if (time := _value(row, "time")) is not None]
    return max(times) - min(times) if times else 0.0


# ---- the picture


def draw(rows: Sequence[Row], report: Report, path: Path) -> None:
    """Reward and accuracy above; length and entropy, and where a step's time goes, below."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style = {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#e6e6e6", "axes.axisbelow": True, "axes.edgecolor": "#888888", "axes.titlelocation": "left",
        "axes.titlesize": 11, "axes.titleweight": "bold", "legend.frameon": False, "legend.fontsize": 9,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 7.5), dpi=130, layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.35, 1))  # apart: a legend takes room in one row alone
        above, below = halves
        top, (left, right) = above.subplots(), below.subplots(1, 2)
        figure.suptitle(f"{report.run_dir.resolve().name}: {report.steps} steps", x=0.01, ha="left", fontsize=14)
        _draw_learning(top, rows, report)
        _draw_length_and_entropy(left, rows)
        _draw_time(right, rows)
        for axes in (top, left, right):
            axes.set_xlabel("step")
            if len(rows) == 1:
                axes.set_xlim(rows[0]["step"] - 0.6, rows[0]["step"] + 0.6)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        figure.savefig(path)


def _draw_learning(axes: Any, rows: Sequence[Row], report: Report) -> None:
    rewards = _points(rows, "reward/mean")
    marker = {"marker": "o", "markersize": 3} if len(rewards) < 8 else {}
    if rewards:
        steps, raw = zip(*rewards, strict=True)
        axes.plot(steps, raw, color="#4477aa", alpha=0.3 if len(raw) >= 20 else 1, linewidth=1, **marker)
        if len(raw) >= 20:
            axes.plot(steps, smooth(raw), color="#4477aa", linewidth=2)
        axes.plot([], [], color="#4477aa", linewidth=2, label="reward of the sampled responses (mean)")
    if report.eval_name and (evals := _points(rows, report.eval_name)):
        name, k = _ACCURACY.fullmatch(report.eval_name).groups()  # type: ignore[union-attr]
        label = f"eval score on {name}" + (f" (mean of {k})" if k != "1" else "")
        axes.plot(*zip(*evals, strict=True), color="#cc3311", linewidth=2, marker="o", markersize=5, label=label)
        for step, value in dict((evals[0], evals[-1])).items():
            last = step == evals[-1][0] and len(evals) > 1
            below = value > 0.9 or (len(evals) > 1 and evals[1][1] > value)
            axes.annotate(
                f"{value:.1%}", (step, value), xytext=(8, -4) if last else (0, -16 if below else 9),
                textcoords="offset points", ha="left", color="#cc3311", weight="bold", annotation_clip=False,
            )  # fmt: skip
        axes.margins(x=0.07)
    axes.set_title("Learning")
    values = [value for name in ("reward/mean", report.eval_name or "") for _, value in _points(rows, name)]
    if values and min(values) >= 0 and max(values) <= 1:
        axes.set_ylim(0, 1.03)
    if values:
        axes.legend(loc="best")
    else:
        _nothing(axes, "neither reward/mean nor eval/<set>/mean@n was logged")


def _draw_length_and_entropy(axes: Any, rows: Sequence[Row]) -> None:
    lengths, entropies = _points(rows, "response_length/mean"), _points(rows, "actor/entropy")
    axes.set_title("Responses")
    if not lengths and not entropies:
        _nothing(axes, "neither response length nor entropy was logged")
        return
    twin = axes.twinx() if lengths and entropies else axes
    for ax, points, color, label in (
        (axes, lengths, "#228833", "length (tokens, mean)"),
        (twin, entropies, "#aa3377", "entropy (nats per token)"),
    ):
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        ax.plot(steps, values, color=color, linewidth=1.6, marker="o" if len(points) < 8 else None, markersize=3)
        ax.set_ylabel(label, color=color)
        ax.tick_params(axis="y", colors=color)
        low, high = min(values), max(values)
        if low >= 0 and high > 0:  # from zero, with room above a flat curve, so that small changes look small
            ax.set_ylim(0, (1.25 if high - low < 0.2 * high else 1.05) * high)
    if twin is not axes:
        twin.spines["right"].set_visible(True)
        twin.grid(False)


def _draw_time(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_title("Seconds per step")
    timed = [row for row in rows if _value(row, "timing_s/step") is not None]
    if not timed:
        _nothing(axes, "no timing_s/step was logged")
        return
    steps = [int(row["step"]) for row in timed]
    split = [step_split(row) for row in timed]
    # evaluation and checkpoint are rare and would be spikes that hide the steps, so they are not shown
    layers = [(phase, [parts.get(phase, 0.0) for parts in split]) for phase in (*INSIDE, "other")]
    layers = [(phase, smooth(values)) for phase, values in layers if any(values)]
    names, heights = [phase for phase, _ in layers], [values for _, values in layers]
    colors = [COLORS[name] for name in names]
    if len(steps) < 3:
        bottom = [0.0] * len(steps)
        for name, values, color in zip(names, heights, colors, strict=True):
            axes.bar(steps, values, 0.5, bottom=bottom, color=color, label=LABELS[name])
            bottom = [b + v for b, v in zip(bottom, values, strict=True)]
    else:
        axes.stackplot(steps, heights, colors=colors, labels=[LABELS[name] for name in names], linewidth=0)
        axes.set_xlim(steps[0], steps[-1])
    tallest = max(sum(column) for column in zip(*heights, strict=True))
    axes.set_ylim(0, 1.05 * tallest)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))


def _nothing(axes: Any, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#888888")


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about a twentieth of the curve; shorter windows at both ends."""
    half = len(values) // 40
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


# ---- words


def render(report: Report) -> str:
    """A few aligned lines for the console."""
    lines = [f"{report.run_dir}", *(f"  {name:<18}{value}" for name, value in _facts(report))]
    lines.append("  time")
    width = max(len(label) for label, _ in _shares(report)) + 2
    for label, share in _shares(report):
        lines.append(f"    {label:<{width}}{share:>6.1%}  {'█' * round(30 * share)}".rstrip())
    lines.append(f"  files             {report.run_dir / 'summary.md'}, curve.png")
    return "\n".join(lines)


def _markdown(report: Report) -> str:
    lines = [f"# {report.run_dir.resolve().name}", "", "![learning curve](curve.png)", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(report)]
    lines += ["", "| Phase | Share of time |", "|---|---|"]
    lines += [f"| {label} | {share:.1%} |" for label, share in _shares(report)]
    return "\n".join(lines) + "\n"


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("steps", str(report.steps))]
    if report.start_accuracy is not None and report.end_accuracy is not None:
        change = f"{report.start_accuracy:.1%} -> {report.end_accuracy:.1%}"
        facts.append(("eval score", f"{change}, best {report.best_accuracy:.1%} at step {report.best_step}"))
        facts.append(("measured by", str(report.eval_name)))
    if report.start_reward is not None and report.end_reward is not None:
        facts.append(("reward", f"{report.start_reward:.3f} -> {report.end_reward:.3f}"))
    if report.turns is not None:
        broken = f", {report.broken_rollouts:.0f} broken" if report.broken_rollouts else ""
        facts.append(("turns of a rollout", f"{report.turns[0]:.2f} -> {report.turns[1]:.2f}{broken}"))
    facts.append(("wall time", f"{duration(report.total_s)}, {report.step_s:.2f} s per step (median)"))
    if report.tokens_per_s is not None:
        facts.append(("generated tokens", f"{report.tokens_per_s:,.0f} per second"))
    if report.completions_per_s is not None:
        facts.append(("completions", f"{report.completions_per_s:,.0f} per second"))
    if report.skipped_lines:
        facts.append(("unreadable lines", f"{report.skipped_lines} of metrics.jsonl were skipped"))
    return facts


def _shares(report: Report) -> list[tuple[str, float]]:
    shares = sorted(report.phase_shares.items(), key=lambda item: -item[1])
    return [*((LABELS[phase], share) for phase, share in shares), (LABELS["other"], report.other_share)]


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 07 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{minutes} min {s:02} s" if minutes else f"{seconds:.3g} s"
