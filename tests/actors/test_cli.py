"""The command line: help, versions, config files, hints, exit codes; and the Python interface without actors."""

from __future__ import annotations

import dataclasses

import pytest

import rlcore
from actors import cli
from actors.commands.train import _checkpoint, eval_overrides, evaluate
from actors.config.compose import compose
from actors.config.config_file import expand
from actors.run_folder import RunFolderError, claim
from tests.actors.cases import recorded, run


def test_the_version(monkeypatch, capsys):
    for arguments in (["--version"], ["train", "--version"]):
        code, out, _ = run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert out.strip() == f"rlcore {rlcore.__version__}"


def test_an_unknown_command(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "trian")
    assert code == 2
    assert "did you mean 'train'" in err


def test_rounds_status_takes_a_run_folder(monkeypatch, tmp_path):
    from actors.commands import rounds

    seen = []
    monkeypatch.setattr(rounds, "status", lambda config: seen.append(config.run_dir) or 0)
    claim(compose([f"run_dir={tmp_path}/run", "+experiment=llama3"]))
    assert cli.rounds(["status", f"{tmp_path}/run"]) == 0
    assert seen == [f"{tmp_path}/run"]


def test_a_home_folder_needs_no_quotes():
    assert compose(["model=hf", "model.path=~/x"]).model.path == "~/x"


def test_eval_of_a_run_folder_takes_its_config(tmp_path):
    config = recorded(tmp_path, "algorithm=rloo", "trainer.samples_per_prompt=4")
    composed = compose(expand(eval_overrides([f"{tmp_path}/run", "trainer.eval.num_samples=2"])))
    assert composed.algorithm == config.algorithm
    assert composed.trainer.samples_per_prompt == 4
    assert composed.trainer.eval.num_samples == 2
    assert composed.run_dir == config.run_dir


def test_eval_finds_the_checkpoint_of_a_run_that_began_from_a_model(tmp_path, monkeypatch):
    config = recorded(tmp_path, "model=hf", "model.path=org/name")
    newest = tmp_path / "run/checkpoints/step-000003"
    monkeypatch.setattr("actors.commands.train.Checkpoints.load_latest", lambda self: (newest, {}))
    assert _checkpoint(config) == newest
    assert _checkpoint(dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="start"))) is None
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, path="org/other"))
    assert _checkpoint(other) is None  # that model is meant, not the run
    named = dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="step-000003"))
    assert _checkpoint(named) == newest
    missing = dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="step-000009"))
    with pytest.raises(RunFolderError, match="holds: step-000003"):
        _checkpoint(missing)


def test_eval_of_a_model_needs_data(tmp_path):
    with pytest.raises(RunFolderError, match="on which data"):
        eval_overrides(["model.path=some/model"])
    with pytest.raises(RunFolderError, match="on which data"):
        eval_overrides(["model=hf", "model.path=some/model"])
    recorded(tmp_path)
    with pytest.raises(RunFolderError, match=f"rlcore eval {tmp_path}/run"):
        eval_overrides([f"model.path={tmp_path}/run/model"])
    assert eval_overrides(["model.path=some/model", "data=addition"]) == ["model.path=some/model", "data=addition"]
    with pytest.raises(RunFolderError, match="no run folder"):
        eval_overrides([str(tmp_path)])


def test_eval_without_anything_to_measure(tmp_path):
    with pytest.raises(RunFolderError, match="no checkpoint"):
        evaluate(compose([f"run_dir={tmp_path}/none"]))
