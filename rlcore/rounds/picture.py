"""`rounds.png`: the evaluations of a run of rounds as curves over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.rounds.status import Measured, headlines

COLORS = {"accuracy": "#cc3311", "win_rate": "#4477aa", "mean_reward": "#228833"}
STYLES = ("-", "--", ":", "-.")  # by set of prompts


def draw(reports: Sequence[Measured], path: Path, title: str) -> bool:
    """Writes the picture: the evaluations in their order, a curve for each metric and set of prompts.

    Rewards of a reward model have a scale of their own and a panel of their own.

    Returns:
        False where nothing was evaluated; nothing is written then.
    """
    shown = [one for one in reports if headlines(one.report)]
    prompts = list(dict.fromkeys(one.prompts for one in shown))
    curves: dict[str, dict[tuple[str, int], list[tuple[int, float]]]] = {"share": {}, "reward": {}}
    for place, one in enumerate(shown):
        for metric, value in headlines(one.report):
            panel = curves["reward" if metric == "mean_reward" else "share"]
            panel.setdefault((metric, prompts.index(one.prompts)), []).append((place, value))
    panels = [panel for panel in curves.values() if panel]
    if not panels:
        return False

    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    width = max(5.5, 0.8 * len(shown))
    figure = Figure(figsize=(width * len(panels), 4.4), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    all_axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        for (metric, number), points in panel.items():
            places, values = zip(*points, strict=True)
            label = metric.replace("_", " ") + (f", prompts {number + 1}" if len(prompts) > 1 else "")
            style = STYLES[number % len(STYLES)]
            axes.plot(places, values, color=COLORS[metric], label=label, linestyle=style, marker="o")
            for place, value in points:
                text = f"{value:.3g}" if metric == "mean_reward" else f"{value:.1%}"
                axes.annotate(text, (place, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
        axes.set_xticks(range(len(shown)), [f"{one.round} {one.stage}" for one in shown], rotation=30, ha="right")
        axes.set_xlabel("round and stage")
        axes.margins(0.12)
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)
    return True
