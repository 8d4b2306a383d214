"""The picture of a run of rounds."""

from __future__ import annotations

import matplotlib.axes
import pytest

from rlcore.rounds.picture import draw
from rlcore.rounds.status import Measured


def test_curves_start_at_round_0_and_rewards_have_a_panel(tmp_path, monkeypatch):
    drawn: dict[str, tuple[list[int], list[float]]] = {}
    plot = matplotlib.axes.Axes.plot

    def recorded(axes, x, y, **look):
        drawn[look["label"]] = (list(x), list(y))
        return plot(axes, x, y, **look)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", recorded)
    reports = [
        Measured(2, "after", {"accuracy": 0.75, "mean_reward": 1.5}),
        Measured(1, "after", {"accuracy": 0.625, "mean_reward": -0.5}),
        Measured(1, "before", {"accuracy": 0.5}, start=True),
        Measured(1, "before", {"accuracy": 0.25}, prompts="others", start=True),
    ]
    assert draw(reports, tmp_path / "rounds.png", "three")
    assert drawn == {
        "after: accuracy": ([0, 1, 2], [0.5, 0.625, 0.75]),
        "after: mean reward": ([1, 2], [-0.5, 1.5]),
        "before: accuracy": ([0], [0.25]),
    }
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("reports", [[], [Measured(1, "train", {"loss": 0.5})]])
def test_nothing_evaluated_nothing_drawn(tmp_path, reports):
    assert not draw(reports, tmp_path / "rounds.png", "none")
    assert not list(tmp_path.iterdir())
