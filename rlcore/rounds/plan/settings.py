"""Checks names, kinds and overrides of the stages, and merges the overrides of each round."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from rlcore.problems import Problem, UserError, choices, nearest
from rlcore.rounds.plan.config import BUILT_IN, RoundsConfig
from rlcore.rounds.plan.references import name_fault

STAGES_KEY, OVERRIDES_KEY = "rounds.stages", "rounds.overrides"
FIXED = ("kind", "rounds")  # options that define the stage and its rounds; they cannot differ by round


class GraphError(UserError, ValueError):
    """All problems of the stages."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def check(rounds: RoundsConfig, kinds: Collection[str]) -> list[Problem]:
    """Checks names, kinds and overrides; `graph.plan` checks references. Empty without problems."""
    problems = []
    if rounds.count < 1:
        problems.append(Problem("rounds.count", rounds.count, "there is no round", "set it to 1 or more"))
    if not rounds.stages:
        problems.append(Problem(STAGES_KEY, {}, "there is no stage", "list one, for example sft: {kind: sft}"))
    problems += _check_names(rounds)
    for name, raw in rounds.stages.items():
        problems += _check_kind(f"{STAGES_KEY}.{name}", raw, kinds)
    for number, stages in rounds.overrides.items():
        problems += _check_override(rounds, number, stages)
    return problems


def merged(rounds: RoundsConfig, kinds: Collection[str]) -> dict[tuple[int, str], dict[str, Any]]:
    """(round, stage) -> its options, including `kind`, with the overrides of that round: mappings are merged, other
    values replaced. Covers every stage of a known kind and every round, also rounds in which it does not run.
    """
    result = {}
    for number in range(1, rounds.count + 1):
        overrides = _of_round(rounds.overrides, number)
        for name, raw in rounds.stages.items():
            if kind_of(raw, kinds) is not None:
                own = overrides.get(name)
                result[number, name] = deep_merge(raw, own if isinstance(own, Mapping) else {})
    return result


def kind_of(raw: Any, kinds: Collection[str]) -> str | None:
    """The kind of a stage; None if it is not in `kinds`."""
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    return kind if isinstance(kind, str) and kind in kinds else None


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with the values of `over`; mappings are merged recursively, other values replaced.

    >>> deep_merge({"train": {"steps": 2, "epochs": 1}, "data": ["a"]}, {"train": {"steps": 5}, "data": ["b"]})
    {'train': {'steps': 5, 'epochs': 1}, 'data': ['b']}
    """
    result = {str(key): _copy(value) for key, value in base.items()}
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[str(key)] = deep_merge(old, value) if both else _copy(value)  # type: ignore[arg-type]
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _check_names(rounds: RoundsConfig) -> Iterator[Problem]:
    taken = dict.fromkeys(BUILT_IN, "there from the start")
    groups = (("rounds.models", rounds.models), ("rounds.sources", rounds.sources), (STAGES_KEY, rounds.stages))
    for group, names in groups:
        for name in names:
            if fault := name_fault(name):
                yield Problem(f"{group}.{name}", name, "invalid name", fault)
            lower = str(name).lower()  # some file systems are case-insensitive
            if lower in taken:
                text = f"duplicate name: {name!r} is {taken[lower]}"
                yield Problem(f"{group}.{name}", name, text, "give it another name")
            else:
                taken[lower] = f"one of {group}"


def _check_kind(key: str, raw: Any, kinds: Collection[str]) -> list[Problem]:
    known = "one of " + ", ".join(kinds)
    if not isinstance(raw, Mapping):
        return [Problem(key, raw, "a stage must be a mapping of options", f"write {{kind: ...}}, {known}")]
    if "kind" not in raw:
        guess = nearest(key.rpartition(".")[2], kinds)
        return [Problem(f"{key}.kind", None, "a stage needs a kind", f"write kind: {guess or known}")]
    if kind_of(raw, kinds) is None:
        return [Problem(f"{key}.kind", raw["kind"], "unknown kind of stage", choices(str(raw["kind"]), kinds))]
    return []


def _check_override(rounds: RoundsConfig, number: Any, stages: Any) -> Iterator[Problem]:
    key = f"{OVERRIDES_KEY}.{number}"
    if not str(number).isdecimal() or not 1 <= int(number) <= rounds.count:
        cure = f"overrides need the number of a round, 1 to {rounds.count} (rounds.count)"
        yield Problem(key, number, "there is no such round", cure)
        return
    if not isinstance(stages, Mapping):
        yield Problem(key, stages, "must be a mapping", "write {stage name: {option: value}}")
        return
    for name, options in stages.items():
        at = f"{key}.{name}"
        if name not in rounds.stages:
            guess = nearest(str(name), [str(n) for n in rounds.stages])
            cure = f"did you mean {guess}?" if guess else f"the stages are {', '.join(map(str, rounds.stages))}"
            yield Problem(at, name, "there is no such stage", cure)
        elif not isinstance(options, Mapping):
            yield Problem(at, options, "must be a mapping", "write {option: value}")
        else:
            yield from _check_options(rounds, int(number), name, options)


def _check_options(rounds: RoundsConfig, number: int, name: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    at, raw = f"{OVERRIDES_KEY}.{number}.{name}", rounds.stages[name]
    for key in FIXED:
        if key in options:
            text = f"`{key}` is the same in every round"
            yield Problem(f"{at}.{key}", options[key], text, f"set {STAGES_KEY}.{name}.{key}")
    runs = raw.get("rounds") if isinstance(raw, Mapping) else None
    if isinstance(runs, list | tuple) and runs and number not in runs:
        only = ", ".join(map(str, runs))
        text = f"{name} does not run in round {number}, only in {only}"
        yield Problem(at, dict(options), text, f"leave it out, or add {number} to {STAGES_KEY}.{name}.rounds")


def _of_round(overrides: Mapping[Any, Any], number: int) -> Mapping[str, Any]:
    """YAML parses `2:` as a number, the command line as text."""
    merged_stages: dict[str, Any] = {}
    for key, stages in overrides.items():
        if str(key).isdecimal() and int(key) == number and isinstance(stages, Mapping):
            merged_stages = deep_merge(merged_stages, stages)
    return merged_stages
