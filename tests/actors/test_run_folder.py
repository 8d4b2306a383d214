"""Run folders and the configs in them."""

from __future__ import annotations

import dataclasses

import pytest

from actors.config.compose import compose
from actors.run_folder import RunFolderError, claim
from tests.actors.cases import recorded


def test_runs_of_other_models_and_data_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = ["model=hf", "model.path=org/Qwen2", "data=jsonl", "data.train=train.jsonl"]
    folders = [compose(o).run_dir for o in ([], ["algorithm=rloo"], readme, [*readme, "seed=1"])]
    assert folders == [
        "runs/quickstart-seed0", "runs/quickstart-rloo-seed0", "runs/Qwen2-train-seed0", "runs/Qwen2-train-seed1",
    ]  # fmt: skip
    assert compose(["name=mine"]).run_dir == "runs/mine-seed0"


def test_another_config_in_a_run_folder_is_answered_by_the_cure_first(tmp_path):
    config = recorded(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        claim(dataclasses.replace(config, seed=5))
    assert str(caught.value).startswith("give run_dir=... for a new run")
    assert "seed: 0 -> 5" in str(caught.value)
