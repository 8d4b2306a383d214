"""The check of a list of filters before anything runs: names, types, ranges, and whether they fit the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.data.filters.config import ALL, KINDS, FilterConfig
from rlcore.problems import Problem, suggest
from rlcore.reader import read

Filters = Sequence[FilterConfig | Mapping[str, Any]]


def check(filters: Filters, table_kind: str, place: str = "filters") -> list[Problem]:
    """All that is wrong with the filters for a table of `table_kind` ("prompts", "samples", "pairs")."""
    return parse(filters, table_kind, place)[1]


def parse(filters: Filters, table_kind: str, place: str = "filters") -> tuple[list[FilterConfig], list[Problem]]:
    """The filters as dataclasses, and the problems of `check`; with problems the list is incomplete."""
    if table_kind not in ALL:
        text = f"no table is of kind {table_kind!r}{suggest(str(table_kind), ALL)}"
        return [], [Problem(place, table_kind, text, f"one of: {', '.join(ALL)}")]
    if isinstance(filters, str | Mapping) or not isinstance(filters, Sequence):
        return [], [Problem(place, filters, "it has another type", "it must be a list of {kind: ..., options}")]
    parsed: list[FilterConfig] = []
    problems: list[Problem] = []
    for index, given in enumerate(filters):
        key = f"{place}.{index}"
        if isinstance(given, FilterConfig):
            given = {"kind": given.kind, **{f.name: getattr(given, f.name) for f in dataclasses.fields(given)}}
        name = given.get("kind") if isinstance(given, Mapping) else None
        if not isinstance(name, str) or name not in KINDS:
            text = "missing" if name is None else f"unknown filter {name!r}{suggest(str(name), KINDS)}"
            cure = f"write {{kind: ..., options}}; the kinds are {', '.join(KINDS)}"
            problems.append(Problem(f"{key}.kind", name or given, text, cure))
            continue
        made, wrong = read(KINDS[name], {option: value for option, value in given.items() if option != "kind"}, key)
        if made is not None:
            parsed.append(made)
            wrong = wrong or _misfits(made, table_kind, key)
        problems += wrong
    return parsed, problems


def _misfits(config: FilterConfig, table_kind: str, key: str) -> list[Problem]:
    if table_kind not in config.tables:
        text = f"it works on {' and '.join(config.tables)}, not on {table_kind}"
        return [Problem(f"{key}.kind", config.kind, text, "leave it out here")]
    if table_kind == "prompts" and (of := getattr(config, "of", None)) in ("response", "both"):
        return [Problem(f"{key}.of", of, "prompts have no responses", "of: prompt")]
    if table_kind == "prompts" and getattr(config, "keep", None) == "best":
        return [Problem(f"{key}.keep", "best", "best needs scores; prompts have none", "keep: first")]
    return []
