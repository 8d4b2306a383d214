"""`--config FILE.yaml` and `--config-dir DIR`: a plain YAML file of keys; the command line overrides its values.

    defaults: {algorithm: grpo, model: hf, data: jsonl, reward: custom}   # presets, optional; a list works too
    model: {path: my/model}
    trainer: {steps: 200, learning_rate: {peak: 1e-6}}
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from actors.config.compose import FILE_GROUP, GROUPS, OPTIONAL_GROUPS, ConfigError, convert_values
from rlcore.problems import Problem, UserError

NUMBER = re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+")


class ConfigFileError(UserError, ValueError):
    """An invalid config file; the message has its name and the cure."""


def expand(arguments: Sequence[str]) -> list[str]:
    """Replaces `--config` and `--config-dir` in the arguments with overrides for Hydra.

    Raises:
        ConfigFileError: no such file or folder, not YAML, not a mapping, `defaults` of another form.
    """
    rest, paths, file = [], [], None
    remaining = iter(arguments)
    for argument in remaining:
        flag, separator, value = argument.partition("=")
        if flag not in ("--config", "--config-dir"):
            rest.append(argument)
            continue
        value = value if separator else next(remaining, "")
        if not value:
            raise ConfigFileError(f"{flag} needs a path, such as {flag} {'my.yaml' if flag == '--config' else 'conf'}")
        if flag == "--config-dir":
            if not Path(value).expanduser().is_dir():
                raise ConfigFileError(f"--config-dir {value}: no such folder; relative paths start at {Path.cwd()}")
            paths.append(Path(value).expanduser().resolve())
        elif file is not None:
            raise ConfigFileError(f"--config is given twice ({file} and {value}): one file, and overrides behind it")
        else:
            file = value
    overrides = []
    if file is not None:
        presets, values = _split(_read(Path(file).expanduser()), file)
        paths.append(_as_preset(values, file))
        overrides = [*_unless_given(presets, rest), f"+{FILE_GROUP}=file"]
    if paths:
        quoted = ",".join(f"'file://{path}'" for path in paths)
        overrides.insert(0, f"hydra.searchpath=[{quoted}]")
    return [*overrides, *rest]


def _unless_given(presets: Mapping[str, str], overrides: Sequence[str]) -> list[str]:
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    return [text for key, text in presets.items() if key not in given]


def from_values(values: Mapping[str, Any], overrides: Sequence[str] = (), quiet: bool = False) -> list[str]:
    """Converts nested keys and values, with presets under `defaults`, to overrides, followed by `overrides`.

    Args:
        quiet: disables console output, unless the values enable it.
    """
    presets, rest = _split(values, "")
    folder = _as_preset(rest, quiet=quiet)
    chosen = _unless_given(presets, overrides)
    return [f"hydra.searchpath=['file://{folder}']", *chosen, f"+{FILE_GROUP}=file", *overrides]


def _as_preset(values: dict[str, Any], name: str = "", quiet: bool = False) -> Path:
    """A temporary Hydra config folder with these values as the only preset of a group."""
    _, found = convert_values(values)
    if found:
        prefix = f"{name}: " if name else ""
        raise ConfigError([Problem(f"{prefix}{p.key}", p.value, p.text, p.cure, p.warning) for p in found])
    if quiet and isinstance(tracking := values.get("tracking", {}), Mapping):
        values = {**values, "tracking": {"console": False, **tracking}}
    folder = Path(tempfile.mkdtemp(prefix="rlcore-config-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / FILE_GROUP).mkdir()
    text = "# @package _global_\n" + yaml.safe_dump(values, sort_keys=False)
    (folder / FILE_GROUP / "file.yaml").write_text(text)
    return folder


def _read(file: Path) -> Mapping[str, Any]:
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ConfigFileError(
            f"--config {file}: no such file; relative paths start at {Path.cwd()}. `rlcore init {file}` writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"--config {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigFileError(f"--config {file} is not YAML: {error}") from error
    if not isinstance(raw, Mapping):
        found = "it is empty" if raw is None else f"it holds a {type(raw).__name__}"
        raise ConfigFileError(f"--config {file} must hold keys and values, such as `trainer: {{steps: 10}}`; {found}")
    return raw


def _split(raw: Mapping[str, Any], file: str) -> tuple[dict[str, str], dict[str, Any]]:
    """(group -> override that selects its preset, recipes first; the values).

    Presets are the entries of `defaults`, and groups with a name as value (`algorithm: grpo`).
    """
    values = {str(key): _numbers(value) for key, value in raw.items()}
    given = values.pop("defaults", None) or []
    entries = [{key: value} for key, value in given.items()] if isinstance(given, Mapping) else given
    chosen: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        if entry == "_self_":
            continue
        if not isinstance(entry, Mapping) or not all(isinstance(value, str) for value in entry.values()):
            raise ConfigFileError(
                f"{file or 'config'}: defaults: {entry!r} is not `group: preset`, such as `- algorithm: grpo`"
            )
        chosen |= {str(key).removeprefix("override ").strip().lstrip("/"): value for key, value in entry.items()}
    chosen |= {key: values.pop(key) for key in GROUPS if isinstance(values.get(key), str)}
    known = (*GROUPS, *OPTIONAL_GROUPS)
    if strange := [key for key in chosen if key not in known]:
        raise ConfigFileError(f"{file or 'config'}: defaults: no group {strange[0]!r}; groups: {', '.join(known)}")
    optional = {key: f"+{key}={value}" for key, value in chosen.items() if key in OPTIONAL_GROUPS}
    return optional | {key: f"{key}={value}" for key, value in chosen.items() if key in GROUPS}, values


def _numbers(value: Any) -> Any:
    """Converts text like `1e-6`, which YAML 1.1 does not parse as a number."""
    if isinstance(value, Mapping):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


STARTER = """\
# A run of rlcore with your own model, data and reward. Check it: rlcore plan --config {name}
# Train:  rlcore train --config {name} [key=value ...]      All keys: rlcore keys
defaults:                # presets; each is a file of conf/
  algorithm: grpo        # or rloo, dr_grpo, dapo, reinforce_pp, ppo (needs a critic), online_dpo (needs a reference)
  model: hf              # a Hugging Face folder or hub id; tiny: a small, randomly initialised model
  data: jsonl            # or parquet, or addition (built in)
  reward: custom         # your function; or math, code, constraints
  rollout: gpu           # on a machine without a GPU: cpu
  cluster: gpu8          # on a machine without a GPU: laptop
  trainer: default

name: mine               # the results go to runs/<name>-...
seed: 0

model:
  path: path/to/model    # a folder with config.json, tokenizer and weights, or org/name

data:
  train: train.jsonl     # one JSON object per line
  columns:
    prompt: prompt       # text, or a list of messages
    reference: reference # the right answer, for the reward
  max_prompt_tokens: 512

reward:
  fn: my_reward.py:my_reward  # def my_reward(sample: rlcore.RewardInput) -> float

rollout:
  max_new_tokens: 1024
  temperature: 1.0

trainer:
  steps: 200
  prompts_per_step: 32       # distinct prompts of one step
  samples_per_prompt: 8      # completions of each
  learning_rate: {{peak: 1.0e-6, warmup_steps: 10}}
  max_tokens_per_micro_batch: 16384
  eval: {{every: 20}}
  checkpoint: {{every: 50}}
"""


def write_starter(file: Path) -> None:
    """Writes the template. Raises ConfigFileError: the file exists, or cannot be written."""
    try:
        with file.open("x") as out:
            out.write(STARTER.format(name=file))
    except FileExistsError:
        raise ConfigFileError(f"{file} exists and is not overwritten: choose another name") from None
    except OSError as error:
        raise ConfigFileError(f"{file} cannot be written: {error}") from error
