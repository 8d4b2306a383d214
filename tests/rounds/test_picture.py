"""The picture of a run of rounds."""

from __future__ import annotations

import matplotlib.axes
import pytest

from rlcore.rounds.picture import draw
from rlcore.rounds.status import Measured


def test_a_curve_for_each_metric_and_set_of_prompts(tmp_path, monkeypatch):
    drawn: dict[str, tuple[list[int], list[float]]] = {}
    plot = matplotlib.axes.Axes.plot

    def recorded(axes, x, y, **look):
        drawn[look["label"]] = (list(x), list(y))
        return plot(axes, x, y, **look)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", recorded)
    reports = [
        Measured(1, "base", {"accuracy": 0.5}, prompts="a"),
        Measured(1, "other", {"accuracy": 0.25}, prompts="b"),
        Measured(1, "after", {"accuracy": 0.625, "mean_reward": -0.5}, prompts="a"),
        Measured(2, "loss", {"loss": 1.0}, prompts="a"),
        Measured(2, "after", {"accuracy": 0.75, "mean_reward": 1.5}, prompts="a"),
    ]
    assert draw(reports, tmp_path / "rounds.png", "three")
    assert drawn == {
        "accuracy, prompts 1": ([0, 2, 3], [0.5, 0.625, 0.75]),
        "accuracy, prompts 2": ([1], [0.25]),
        "mean reward, prompts 1": ([2, 3], [-0.5, 1.5]),
    }
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("reports", [[], [Measured(1, "train", {"loss": 0.5})]])
def test_nothing_evaluated_nothing_drawn(tmp_path, reports):
    assert not draw(reports, tmp_path / "rounds.png", "none")
    assert not list(tmp_path.iterdir())
