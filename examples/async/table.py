"""The table and the picture of the grid, from the folders of its finished runs.

    python examples/async/table.py                prints the table
    python examples/async/table.py --write        also writes it into README.md, and curves.png

Runs that are not finished are left out, and the number of seeds says so.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ACCURACY = "eval/heldout/mean@1"
GOAL = 0.9
SAMPLES = 512  # per step
LOSSES = ("trainer", "rollout", "masked")
COLORS = {0: "#000000", 1: "#4477aa", 2: "#228833", 4: "#cc3311"}
BEGIN, END = "<!-- table.py begins -->", "<!-- table.py ends -->"


@dataclass(frozen=True)
class Run:
    ahead: int
    loss: str
    seed: int
    rows: list[dict[str, Any]]  # of metrics.jsonl, by step

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """Step, seconds since the first evaluation (with evaluations and checkpoints, without restarts), accuracy."""
        points, seconds = [], 0.0
        for row in self.rows:
            if row["step"]:
                seconds += sum(row.get(f"timing_s/{phase}") or 0.0 for phase in ("step", "eval", "checkpoint"))
            if ACCURACY in row:
                points.append((row["step"], seconds, row[ACCURACY]))
        return points

    @property
    def final(self) -> float:
        return self.curve[-1][2]

    def reached(self) -> tuple[int, float] | None:
        """Step and seconds of the first evaluation at the goal."""
        return next(((step, seconds) for step, seconds, accuracy in self.curve if accuracy >= GOAL), None)

    @property
    def rate(self) -> float:
        """Completions per second of the steps, without evaluations and the first five steps."""
        steps = [row["timing_s/step"] for row in self.rows if row["step"] > 5]
        return SAMPLES * len(steps) / sum(steps)

    def mean(self, name: str) -> float:
        return statistics.fmean(row[name] for row in self.rows if row.get(name) is not None)


def read(folder: Path) -> list[Run]:
    runs = []
    for path in sorted(folder.glob("k*-seed*")):
        named = re.fullmatch(r"k(\d+)-(\w+)-seed(\d+)", path.name)
        if named and (path / "finished").exists():
            rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            runs.append(Run(int(named[1]), named[2], int(named[3]), rows))
    return runs


def table(runs: Sequence[Run]) -> str:
    cells: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.ahead, run.loss].append(run)
    lines = [
        f"| K | loss | seeds | final accuracy: mean (range) | to {GOAL:.0%}: steps | seconds | completions/s "
        "| age of tokens, steps | clipped | weight bounded |",
        "|" + "---|" * 10,
    ]
    order: Callable[[tuple[int, str]], tuple[int, int]] = lambda cell: (cell[0], LOSSES.index(cell[1]))  # noqa: E731
    for cell in sorted(cells, key=order):
        lines.append(line(cells[cell]))
    steps = sorted({run.rows[-1]["step"] for run in runs})
    return "\n".join([*lines, "", f"{len(runs)} runs of {', '.join(map(str, steps)) or 'no'} steps."])


def line(runs: Sequence[Run]) -> str:
    finals = [run.final for run in runs]
    reached = [found for run in runs if (found := run.reached())]
    missing = f" ({len(reached)} of {len(runs)} runs)" if len(reached) < len(runs) else ""
    steps, seconds = (f"{statistics.median(of):.0f}{missing}" for of in zip(*reached, strict=True)) if reached else "--"
    names = ("rollout/age_mean", "actor/pg_clipfrac", "rollout/bounded")
    age, clipped, bounded = (statistics.fmean(run.mean(name) for run in runs) for name in names)
    shown = [
        str(runs[0].ahead),
        runs[0].loss,
        str(len(runs)),
        f"{statistics.fmean(finals):.1%} ({min(finals):.1%} to {max(finals):.1%})",
        steps,
        seconds,
        f"{statistics.median(run.rate for run in runs):.0f}",
        f"{age:.2f}",
        f"{clipped:.2%}",
        "-" if runs[0].loss == "rollout" else f"{bounded:.2%}",  # there the weight is measured, not applied
    ]
    return f"| {' | '.join(shown)} |"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Accuracy over steps and over seconds; a panel per loss, a color per K, a line per seed."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    losses = [loss for loss in LOSSES if any(run.loss == loss for run in runs)]
    figure = Figure(figsize=(4.4 * len(losses), 7), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(losses), sharey=True, squeeze=False)
    for column, loss in enumerate(losses):
        for ahead in COLORS:
            for i, run in enumerate(run for run in runs if (run.loss, run.ahead) == (loss, ahead)):
                steps, seconds, accuracy = zip(*run.curve, strict=True)
                label = f"K = {ahead}" if i == 0 else None
                for row, places in enumerate((steps, seconds)):
                    axes[row][column].plot(places, accuracy, color=COLORS[ahead], alpha=0.75, label=label)
        axes[0][column].set_title(loss)
        axes[0][column].set_xlabel("steps")
        axes[1][column].set_xlabel("seconds")
        for row in (0, 1):
            axes[row][column].grid(alpha=0.3)
            axes[row][column].axhline(GOAL, color="#999999", linewidth=0.8)
    for row in (0, 1):
        axes[row][0].set_ylabel("held-out accuracy")
    axes[0][0].legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/async"))
    parser.add_argument("--write", action="store_true", help="README.md and curves.png next to this file")
    options = parser.parse_args()
    runs = read(options.folder)
    if not runs:
        raise SystemExit(f"no finished run in {options.folder}: run examples/async/run.py")
    found = table(runs)
    print(found)
    if options.write:
        draw(runs, HERE / "curves.png")
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
