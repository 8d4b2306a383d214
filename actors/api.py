"""The Python interface: `rlcore.train`, `rlcore.evaluate`, `rlcore.plan`. It prints nothing and sets no signal handler.

    result = rlcore.train({"defaults": {"algorithm": "rloo"}, "trainer": {"steps": 20}, "run_dir": "runs/mine"})
    print(result.metrics["reward/mean"], result.model)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from actors.commands import plan as planning
from actors.commands import train as run
from actors.commands.plan import Plan
from actors.commands.train import EvalResult, RunResult
from actors.config import compose as validate
from actors.config import config_file
from actors.config.schema import Config

Given = Config | Mapping[str, Any] | str | os.PathLike[str] | Sequence[str] | None


def compose(config: Given = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a run.

    Args:
        config: a `Config`; nested keys and values, with presets under `defaults`; the path of a YAML file of the same;
            a list of overrides such as `["algorithm=rloo", "trainer.steps=20"]`; or None for the quickstart.
        overrides: additional overrides, which take precedence. Not allowed with a `Config`: set its attributes instead.

    Raises:
        ConfigError, ConfigFileError: all errors, each with its cure.
    """
    if isinstance(config, Config):
        if overrides:
            raise TypeError("overrides change a composed config: set the attributes of the Config instead")
        return config
    quiet = ["tracking.console=false"]  # unless the caller enables it
    if config is None:
        return validate.compose([*quiet, *overrides])
    if isinstance(config, Mapping):
        return validate.compose(config_file.from_values(config, overrides, quiet=True))
    if isinstance(config, str | os.PathLike):
        return validate.compose(config_file.expand(["--config", os.fspath(config), *overrides]))
    return validate.compose([*quiet, *config, *overrides])


def train(config: Given = None, overrides: Sequence[str] = ()) -> RunResult:
    """Trains and exports a model; resumes if the run folder has a checkpoint. For the arguments see `compose`.

    Raises:
        UserError: an error that the user can fix; the message says how.
    """
    return run.train(compose(config, overrides))


def evaluate(config: Given = None, overrides: Sequence[str] = ()) -> EvalResult:
    """Evaluates a model on held-out prompts, see `actors.commands.train.evaluate`. For the arguments see `compose`.

    Raises:
        UserError: an error that the user can fix; the message says how.
    """
    return run.evaluate(compose(config, overrides))


def plan(config: Given = None, overrides: Sequence[str] = ()) -> Plan:
    """Checks a config without starting anything: `plan(...).ok`, `.problems`, `.text`. For the arguments see `compose`.

    Raises:
        ConfigError, ConfigFileError: it does not compose.
    """
    return planning.plan(compose(config, overrides))
