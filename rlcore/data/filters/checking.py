"""Validates a list of filters before they run: names, types, ranges, and the kind of table."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlcore.data.filters.config import ALL, KINDS, FilterConfig
from rlcore.problems import suggest
from rlcore.registry import describe


def check(filters: Sequence[FilterConfig | Mapping[str, Any]], table_kind: str, place: str = "filters") -> list[str]:
    """All errors in the filters for a table of `table_kind` ("prompts", "samples", "pairs").

    Each message begins with its place, as in `filters[2].treshold: ...`, and suggests the nearest known name.
    """
    return parse(filters, table_kind, place)[1]


def parse(
    filters: Sequence[FilterConfig | Mapping[str, Any]], table_kind: str, place: str = "filters"
) -> tuple[list[FilterConfig], list[str]]:
    """The filters as dataclasses, and the errors of `check`; with errors the list is incomplete."""
    if table_kind not in ALL:
        return [], [f"{place}: no table is of kind {table_kind!r}{suggest(str(table_kind), ALL)}: {', '.join(ALL)}"]
    if isinstance(filters, str | Mapping) or not isinstance(filters, Sequence):
        return [], [f"{place}: must be a list of {{kind: ..., options}}, not a {type(filters).__name__}"]
    parsed: list[FilterConfig] = []
    errors: list[str] = []
    for index, given in enumerate(filters):
        made, wrong = (given, []) if isinstance(given, FilterConfig) else _make(given)
        if made is not None:
            wrong = wrong or _values(made) or _fits(made, table_kind)
            parsed.append(made)
        errors += [f"{place}[{index}].{message}" for message in wrong]
    return parsed, errors


def _make(given: Any) -> tuple[FilterConfig | None, list[str]]:
    if not isinstance(given, Mapping) or "kind" not in given:
        return None, [f"kind: missing in {given!r}: write {{kind: ..., options}}; known: {', '.join(KINDS)}"]
    name = given["kind"]
    if not isinstance(name, str) or name not in KINDS:
        return None, [f"kind: unknown filter {name!r}{suggest(str(name), KINDS)}; known: {', '.join(KINDS)}"]
    kind = KINDS[name]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    options = {str(key): value for key, value in given.items() if key != "kind"}
    wrong = [f"{key}: {name} has no such option{suggest(key, fields)}; it has {', '.join(fields) or 'none'}"
             for key in options if key not in fields]  # fmt: skip
    missing = dataclasses.MISSING
    wrong += [f"{key}: {name} needs it" for key, f in fields.items()
              if key not in options and f.default is missing and f.default_factory is missing]  # fmt: skip
    if wrong:
        known = {key: value for key, value in options.items() if key in fields}
        return None, wrong + _types(kind, known)
    return kind(**options), []


def _values(config: FilterConfig) -> list[str]:
    return _types(type(config), {f.name: getattr(config, f.name) for f in dataclasses.fields(config)})


def _types(kind: type[FilterConfig], options: Mapping[str, Any]) -> list[str]:
    hints = typing.get_type_hints(kind)
    return [f"{key}: {value!r} is not {_words(hints[key])}{_nearest(value, hints[key])}"
            for key, value in options.items() if not _is(value, hints[key])]  # fmt: skip


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, a) for a in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list | tuple) and all(_is(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _is(k, arguments[0]) and _is(v, arguments[1]) for k, v in value.items()
        )
    if hint is Any:
        return True
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (hint is float and isinstance(value, float) and value == value)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (list, dict):
        return f"a {origin.__name__} of {' to '.join(_words(a) for a in arguments)}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", Any: "anything"}.get(
        hint, "null"
    )


def _nearest(value: Any, hint: Any) -> str:
    known = [a for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal
             for a in typing.get_args(part)]  # fmt: skip
    return suggest(value, known) if isinstance(value, str) else ""


def _fits(config: FilterConfig, table_kind: str) -> list[str]:
    if table_kind not in config.tables:
        return [f"kind: {config.kind} works on {' and '.join(config.tables)}, not on {table_kind}"]
    of = getattr(config, "of", None)
    if table_kind == "prompts" and of in ("response", "both"):
        return [f"of: {of} of a table of prompts, which have no responses"]
    try:
        return config.problems(table_kind)
    except Exception as error:  # a user's file or an optional package may raise anything
        return [f"kind: {config.kind} cannot be checked: {describe(error)}"]
