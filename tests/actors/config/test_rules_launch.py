"""Checks of the machine on which a run is started."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.config.compose import compose
from actors.config.rules import problems
from actors.config.rules_launch import launch_problems
from actors.config.schema import Config, Device


def test_a_run_folder_in_rays_session_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "session_2026-11-28_03-50-58_1_2" / "runtime_resources" / "working_dir_files"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)  # as `ray job submit --working-dir .` does
    (found,) = [p for p in problems(Config(run_dir="runs/first")) if p.key == "run_dir"]
    assert not found.warning
    assert "which Ray deletes" in found.text
    assert not [p for p in problems(Config(run_dir=str(tmp_path / "run"))) if p.key == "run_dir"]


def test_idle_gpus_are_worth_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = Config()
    config.cluster.device = Device.cpu
    assert not list(launch_problems(config, tmp_path))
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    (found,) = launch_problems(config, tmp_path)
    assert found.warning
    assert "2 GPUs" in found.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not list(launch_problems(config, tmp_path))


def test_each_evaluation_set_is_looked_for(tmp_path):
    for name in ("train", "sums"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    sets = f"{{sums: {tmp_path}/sums.jsonl, more: {tmp_path}/none.jsonl}}"
    config = compose(["data=jsonl", "reward=math", f"data.train={tmp_path}/train.jsonl", f"data.eval={sets}"])
    found = {p.key: p.text for p in problems(config)}
    assert "no such" in found["data.eval.more"]
    assert "data.eval.sums" not in found


@pytest.mark.parametrize(
    ("version", "refused"),
    [("0.25.1", True), ("0.26.0", False), ("0.32.0+cpu", False), ("0.33.2", False), ("0.34.0", True), ("1.0.0", True)],
)
def test_a_vllm_that_was_not_tested_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, refused: bool) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda name: [SimpleNamespace(version=version)])
    found = [p for p in launch_problems(Config()) if p.key == "rollout"]
    assert [p.warning for p in found] == [False] * refused
    assert all(f"vLLM {version} is installed; rlcore works with 0.26 to 0.33" in p.text for p in found)
