"""`rounds.png`: the evaluations of a run of rounds as curves over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.rounds.status import Measured, headlines

COLORS = {"accuracy": "#cc3311", "win_rate": "#4477aa", "mean_reward": "#228833"}
STYLES = ("-", "--", ":", "-.")
MARKERS = "os^D"


def draw(reports: Sequence[Measured], path: Path, title: str) -> bool:
    """Writes the picture: a curve for each evaluation stage and metric, from the model of the start at round 0.

    Rewards of a reward model have a scale of their own and a panel of their own.

    Returns:
        False where nothing was evaluated; nothing is written then.
    """
    curves: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = {"share": {}, "reward": {}}
    starts = {(one.prompts, metric): value for one in reports if one.start for metric, value in headlines(one.report)}
    for one in sorted(reports, key=lambda one: (one.start, one.round)):
        for metric, value in headlines(one.report):
            panel = curves["reward" if metric == "mean_reward" else "share"]
            start = starts.get((one.prompts, metric))
            if not one.start:
                begin = [] if start is None else [(0, start)]
                panel.setdefault((one.stage, metric), begin).append((one.round, value))
            elif not any((0, value) in points for points in panel.values()):
                panel[one.stage, metric] = [(0, value)]
    panels = [panel for panel in curves.values() if panel]
    if not panels:
        return False

    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.5 * len(panels), 4.2), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    all_axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        stages = list(dict.fromkeys(stage for stage, _ in panel))
        for (stage, metric), points in panel.items():
            rounds, values = zip(*sorted(points), strict=True)
            number = stages.index(stage)
            look = {"linestyle": STYLES[number % len(STYLES)], "marker": MARKERS[number % len(MARKERS)]}
            axes.plot(rounds, values, color=COLORS[metric], label=f"{stage}: {metric.replace('_', ' ')}", **look)
            last = f"{values[-1]:.3g}" if metric == "mean_reward" else f"{values[-1]:.1%}"
            axes.annotate(last, (rounds[-1], values[-1]), xytext=(0, 7), textcoords="offset points", ha="center")
        axes.set_xlabel("round (0: model of the start)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(0.12)
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)
    return True
