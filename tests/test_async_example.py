"""The grid of examples/async: its configs launch, and a partial grid gives a table and a picture."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from actors.config.compose import ConfigError, check, compose
from rlcore.registry import POLICY_LOSSES

EXAMPLE = Path(__file__).parents[1] / "examples" / "async"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"async_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_cell_may_be_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POLICY_LOSSES, "_held", dict(POLICY_LOSSES._held))
    grid = load("run", monkeypatch)
    for ahead in grid.AHEAD:
        for loss in grid.LOSSES:
            check(compose(grid.settings(ahead, loss)))
    with pytest.raises(ConfigError, match=r"trainer\.max_staleness"):  # why the grid has an unguarded loss
        check(compose([*grid.LOSSES["trainer"], "trainer.max_staleness=2", *grid.APART]))


def write(folder: Path, name: str, accuracies: list[float], finished: bool = True) -> None:
    (folder / name).mkdir()
    rows = [{"step": 0, "eval/heldout/mean@1": accuracies[0], "timing_s/eval": 9.0}]
    for step in range(1, 10 * len(accuracies) - 9):
        rows.append({"step": step, "timing_s/step": 2.0, "rollout/age_mean": 0.5, "actor/pg_clipfrac": 0.01})
        rows[-1]["rollout/bounded"] = 0.1
        if step % 10 == 0:
            rows[-1] |= {"eval/heldout/mean@1": accuracies[step // 10], "timing_s/eval": 1.0}
    (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        (folder / name / "finished").touch()


def test_a_partial_grid_gives_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = load("table", monkeypatch)
    write(tmp_path, "k0-trainer-seed0", [0.4, 0.7, 0.92])
    write(tmp_path, "k4-rollout-seed0", [0.4, 0.91, 0.96])
    write(tmp_path, "k4-rollout-seed1", [0.4, 0.6, 0.8])
    write(tmp_path, "k4-rollout-seed2", [0.4, 0.5], finished=False)
    runs = shown.read(tmp_path)
    lines = shown.table(runs).splitlines()
    assert lines[2] == "| 0 | trainer | 1 | 92.0% (92.0% to 92.0%) | 20 | 42 | 256 | 0.50 | 1.00% | 10.00% |"
    reached = "10 (1 of 2 runs) | 21 (1 of 2 runs)"
    assert lines[3] == f"| 4 | rollout | 2 | 88.0% (80.0% to 96.0%) | {reached} | 256 | 0.50 | 1.00% | - |"
    assert lines[-1] == "3 runs of 20 steps."
    shown.draw(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
