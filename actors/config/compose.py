"""Composes a checked `Config` from Hydra overrides. All errors are reported together, each with its cure."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from actors.config.aliases import OWN, alias
from actors.config.rules import problems
from actors.config.schema import Config
from rlcore.problems import Problem, UserError, nearest

LOG = logging.getLogger("rlcore")
CONF = str(Path(__file__).resolve().parents[2] / "conf")  # by path: a project may have its own `conf`
MISSING = "must be given"
REQUIRED = "<required>"  # in YAML, for values without default; a dataclass default would overwrite OmegaConf's ???
FILE_GROUP = "config_file"  # Hydra group of a `--config` file; the command line overrides its values
SCHEMA = "schema"  # first entry of the defaults list in conf/config.yaml
REFUSALS = (HydraException, OmegaConfBaseException, ValueError, TypeError)


class ConfigError(UserError, ValueError):
    """An invalid configuration; the message has all `problems`."""

    def __init__(self, found: Sequence[Problem]):
        self.problems = list(found)
        count = f"{len(found)} problem{'s' if len(found) != 1 else ''} in the configuration"
        super().__init__("\n".join([count, *(problem.render() for problem in found)]))


@cache
def register() -> None:
    """Registers the schema for `conf/config.yaml`. Call it before `hydra.main`; repeated calls are harmless."""
    ConfigStore.instance().store(name=SCHEMA, node=Config, provider="rlcore")
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


def _run_name(*, _root_: DictConfig) -> str:
    """The default of `name`, part of the run folder's name, so that runs of different models or data do not collide."""
    path, train, source = (OmegaConf.select(_root_, k) for k in ("model.path", "data.train", "data.source"))
    algorithm = OmegaConf.select(_root_, "algorithm.name")
    train = train[0] if isinstance(train, ListConfig) and train else train
    source = getattr(source, "value", source)
    model, data = Path(str(path)).name if path else "tiny", Path(str(train)).stem if train else str(source)
    parts = ["quickstart"] if (model, data) == ("tiny", "addition") else [model, data]
    parts += [] if algorithm == "grpo" else [algorithm]
    return re.sub(r"[^\w.+-]+", "_", "-".join(map(str, parts)))


def compose(overrides: Sequence[str]) -> Config:
    """The config of a command line such as `["algorithm=rloo", "trainer.steps=10", "+experiment=smollm2"]`.

    Raises:
        ConfigError: overrides that do not parse, unknown keys and group options, wrong types, missing values. The error
            then also includes invalid combinations of the valid rest; otherwise `check` reports these.
    """
    found: list[Problem] = []
    overrides = [_quoted(override) for override in overrides]
    try:
        raw = _raw(overrides)
    except REFUSALS as error:
        base = [override for override in overrides if override.startswith(("hydra.searchpath=", f"+{FILE_GROUP}="))]
        alone = {override: None if override in base else _alone(override, base) for override in overrides}
        found = [problem for problem in alone.values() if problem]
        if not found:  # each override is valid, but not their combination
            raise ConfigError([_explain(" ".join(overrides), error)]) from None
        try:
            raw = _raw([override for override, problem in alone.items() if not problem])
        except REFUSALS:  # the rest depends on the invalid overrides
            raise ConfigError(found) from None
    config, more = _convert(raw)
    found += more
    if found:
        reported = {problem.key for problem in found}
        raise ConfigError(found + [p for p in problems(config) if not p.warning and p.key not in reported])
    return config


def check(config: Config) -> None:
    """Raises for errors, and logs warnings.

    Raises:
        ConfigError: with all invalid values and combinations.
    """
    found = problems(config)
    for problem in found:
        if problem.warning:
            LOG.warning("%s", problem.render().strip())
    if errors := [problem for problem in found if not problem.warning]:
        raise ConfigError(errors)


def to_config(raw: DictConfig) -> Config:
    """Converts the config that Hydra composed to dataclasses. Each job of a `--multirun` gets a separate run folder; in
    a shared one the second job would resume from the checkpoint of the first.

    Raises:
        ConfigError: unknown keys (added with `+`), missing values, broken interpolations.
    """
    config, found = _convert(raw)
    if found:
        raise ConfigError(found)
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        config.run_dir = str(HydraConfig.get().runtime.output_dir)
    return config


def _raw(overrides: Sequence[str]) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        raw: DictConfig = hydra_compose("config", list(overrides))
    return raw


def _quoted(override: str) -> str:
    """Quotes `model.path=~/x` for Hydra, which parses a bare tilde as an operator."""
    key, separator, value = override.partition("=")
    bare = value.startswith("~") and not any(c in value for c in "'\\,")
    return f"{key}='{value}'" if separator and bare else override


def _alone(override: str, base: Sequence[str]) -> Problem | None:
    try:
        _raw([*base, override])
    except REFUSALS as error:
        return _explain(override, error)
    return None


def _explain(override: str, error: Exception) -> Problem:
    """Converts an error of Hydra to a problem."""
    key, _, value = override.partition("=")
    key = re.sub(r"@.*$", "", key.lstrip("+~"))
    if isinstance(error, MissingConfigException) and error.options is not None:
        options = list(error.options)
        near = _hint(value, options)
        own = f"; {OWN[key]}" if key in OWN else ""
        return Problem(key, value, "unknown preset", f"{near}choose one of: {', '.join(options)}{own}")
    cause = error.__cause__
    if override.startswith("-"):
        return _flag(override)
    if override.endswith((".yaml", ".yml")) and "=" not in override:
        return Problem(override, "", "a config file needs its flag", f"write --config {override}")
    if is_dataclass(group := _default(key)) and key not in GROUPS:
        names = [f.name for f in fields(group)]
        inner = f"{key}.peak={value or '...'}; " if "peak" in names else ""
        cure = f"{inner}set one of its keys: {', '.join(f'{key}.{name}' for name in names)}"
        return Problem(key, value, "a group of keys, not a value", cure)
    if key in OPTIONAL_GROUPS:
        return Problem(key, value, "not in the defaults list", f"append it: +{key}={value}")
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        if str(cause.object_type) == "<class 'dict'>":
            return Problem(key, value, "cannot be overridden", f"append it: +{key}=...")
        if cause.object_type is not None and is_dataclass(cause.object_type) and str(cause.key) not in key:
            known = [f.name for f in fields(cause.object_type)]
            cure = f"{_hint(str(cause.key), known)}its keys: {', '.join(known)}"
            return Problem(key, value, f"unknown key {str(cause.key)!r} inside", cure)
        return _unknown(key, value)
    if key in GROUPS and (cause is None or value in ("", "null")):
        return Problem(key, value, "a group of keys, not a value", f"{key}=PRESET, or {key}.KEY=VALUE")
    first = str(cause or error).splitlines()[0]
    if first.startswith("Ambiguous value"):
        return Problem(key, value, "several values for one key", "a list is written [a,b]; a sweep needs --multirun")
    if first.startswith(("Error parsing", "mismatched", "no viable", "missing EQUAL", "extraneous", "token recog")):
        home = f"quote it: '{key}=\"{value}\"'"  # characters with a special meaning in Hydra's grammar
        return Problem(key, value, f"does not parse ({first})", home if value.startswith("~") else QUOTING)
    if not key:
        return Problem(override, "", f"does not parse ({first})", QUOTING)
    choices = re.findall(r"\w+", first.partition("expected one of")[2])
    cure = f"{_hint(value, choices)}give a value such as {_default(key)}"
    return Problem(key, value, first, cure)


def _default(key: str) -> Any:
    value: Any = Config()
    for name in key.split("."):
        value = getattr(value, name, None)
    return value.value if isinstance(value, Enum) else value


def _flag(override: str) -> Problem:
    name = override.lstrip("-").partition("=")[0]
    near = alias(name) or _nearest_key(name.replace("-", "_"))
    cure = f"options are written key=value: {near}=..." if near else "options are written key=value; see `rlcore keys`"
    return Problem(override, "", "unknown flag", cure)


def _unknown(key: str, value: Any) -> Problem:
    near = alias(key) if key not in KEYS else ""
    near = near or _nearest_key(key)
    cure = f"did you mean {near}?" if near else "`rlcore keys` lists all keys"
    return Problem(key, value, "unknown key", cure)


def _nearest_key(key: str) -> str:
    """A similar key under the same parent, otherwise a key with the same last word, otherwise a similar key anywhere.
    """
    parent, _, last = key.rpartition(".")
    siblings = [k for k in KEYS if k.rpartition(".")[0] == parent]
    moved = next((k for k in KEYS if k.rpartition(".")[2] == last), "")
    return nearest(key, siblings, cutoff=0.7) or moved or nearest(key, KEYS)


def _hint(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known)
    return f"did you mean {near}? " if near else ""


def _convert(raw: DictConfig) -> tuple[Config, list[Problem]]:
    """The config with invalid values at their defaults, and the problems."""
    found: list[Problem] = []
    container = OmegaConf.to_container(raw, resolve=False)
    default = Config()
    for key, value, remove in _strangers(container, default, ""):
        found.append(_unknown(key, value))
        remove()
    for key in [key for key, value in _leaves(container) if value == REQUIRED]:
        found.append(Problem(key, "", MISSING, f"add {key}=..."))
        _put(container, key, None)
    while True:
        try:
            config = OmegaConf.to_object(OmegaConf.merge(_schema(), container))  # which copies the schema
            assert isinstance(config, Config)
            return config, found
        except OmegaConfBaseException as error:
            key = str(error.full_key or "")
            value = OmegaConf.select(OmegaConf.create(container), key, throw_on_resolution_failure=False) if key else ""
            leads_nowhere = isinstance(error, InterpolationResolutionError)
            parent = key.partition(".")[0]
            cure = f"set {key}=..." if leads_nowhere else f"`rlcore keys {parent}` lists types and defaults"
            found.append(Problem(key, value, str(error).splitlines()[0], cure))
            if not key or not _put(container, key, OmegaConf.select(OmegaConf.structured(default), key)):
                return default, found  # no more corrections possible: report the problems


@cache
def _schema() -> DictConfig:
    return OmegaConf.structured(Config)  # type: ignore[no-any-return]


def convert_values(values: Mapping[str, Any]) -> tuple[Config, list[Problem]]:
    """The defaults with the values of a YAML file, and the problems of the file."""
    config, found = _convert(OmegaConf.create(dict(values)))
    return config, [problem for problem in found if problem.text != MISSING]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
        return
    for name, value in items:
        yield from _leaves(value, f"{path}.{name}" if path else str(name))


def _put(container: Any, key: str, value: Any) -> bool:
    """Sets a dotted key; False if its parent does not exist or the value is unchanged."""
    *way, last = key.replace("[", ".").replace("]", "").split(".")
    for step in way:
        container = container[int(step)] if isinstance(container, list) else container.get(step, {})
    if isinstance(container, list) or last not in container or container[last] == value:
        return False
    container[last] = value
    return True


def _strangers(node: Any, default: Any, path: str) -> Iterator[tuple[str, Any, Callable[[], None]]]:
    """Unknown keys that Hydra accepted after a `+`, each with a function that removes it."""
    if is_dataclass(default) and isinstance(node, dict):
        known = {f.name for f in fields(default)}
        for name in list(node):
            if name in known:
                yield from _strangers(node[name], getattr(default, name), f"{path}{name}.")
            else:
                yield f"{path}{name}", node[name], lambda name=name: node.pop(name)  # type: ignore[misc]
    elif isinstance(default, list) and default and is_dataclass(default[0]) and isinstance(node, list):
        for i, item in enumerate(node):
            yield from _strangers(item, default[0], f"{path}{i}.")


def _keys(node: Any, path: str = "") -> Iterator[str]:
    for f in fields(node):
        value = getattr(node, f.name)
        yield path + f.name
        if is_dataclass(value):
            yield from _keys(value, f"{path}{f.name}.")


KEYS = tuple(_keys(Config()))
GROUPS = ("algorithm", "model", "data", "reward", "rollout", "trainer", "cluster", "tracking")
OPTIONAL_GROUPS = ("experiment",)
QUOTING = "write key=value; quote special characters: 'key=\"a b\"'"
