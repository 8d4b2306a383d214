"""The command line, config files and run folders, for the tests of several modules."""

from __future__ import annotations

import sys

import pytest

from actors import cli
from actors.config.compose import compose
from actors.config.schema import Config
from actors.run_folder import claim


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rlcore", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    return stopped.value.code, shown.out, shown.err


def written(tmp_path, text: str) -> str:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    return str(file)


def recorded(tmp_path, *overrides: str) -> Config:
    """A run folder with a checkpoint."""
    config = compose([f"run_dir={tmp_path}/run", *overrides])
    claim(config)
    folder = tmp_path / "run/checkpoints/step-000003"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return config
