"""The strict reader of settings: converts plain values to dataclasses and reports all errors together."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rlcore.problems import Problem, choices, setting_problems

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read(kind: type[T], raw: Any, path: str) -> tuple[T | None, list[Problem]]:
    """An instance of the dataclass `kind`, and its problems.

    Missing options keep their defaults, also in nested dataclasses and dicts. "3" is accepted as a number and 3 as
    text; other types are not converted.

    Args:
        raw: a mapping of option names to plain values.
        path: key of `raw` in the config, "" for the root.

    Returns:
        The instance is None if an option is unknown, missing or of a wrong type. The problems are these, and those of
        `setting_problems`.
    """
    reader = _Reader()
    made = reader.settings(kind, None, raw, path)
    if reader.problems:
        return None, reader.problems
    return made, list(setting_problems(made, path))


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def settings(self, kind: Any, default: Any, raw: Any, path: str) -> Any:
        """`default`: an instance with the values of missing options."""
        known = {field.name: field for field in fields(kind) if field.init}
        if not isinstance(raw, Mapping):
            return self._wrong(path, raw, "it has another type", f"write a mapping of its options: {', '.join(known)}")
        hints, values = get_type_hints(kind), {}
        for name, value in raw.items():
            key = _join(path, name)
            if name not in known:
                self._wrong(key, value, "unknown option", choices(str(name), known))
                continue
            field = known[name]
            if default is not None:
                own = getattr(default, name)
            else:
                own = field.default if field.default_factory is MISSING else field.default_factory()
            values[name] = self.value(hints[name], None if own is MISSING else own, value, key)
        for name, field in known.items() if default is None else ():
            if name not in raw and field.default is MISSING and field.default_factory is MISSING:
                self._wrong(_join(path, name), None, "needed, and missing", f"write {name}: {words(hints[name])}")
        if self.problems:
            return None
        return kind(**values) if default is None else replace(default, **values)

    def value(self, hint: Any, default: Any, value: Any, key: str) -> Any:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            (hint,) = (argument for argument in arguments if argument is not type(None))
            return self.value(hint, default, value, key)
        if is_dataclass(hint):
            return self.settings(hint, default, value, key)
        if origin is list:
            if not isinstance(value, list | tuple):
                return self._wrong(key, value, "it has another type", "write it as a list, such as [...]")
            return [self.value(arguments[0], None, item, _join(key, i)) for i, item in enumerate(value)]
        if origin is dict:
            if not isinstance(value, Mapping):
                return self._wrong(key, value, "it has another type", "write it as a mapping, such as {name: value}")
            made = {self.value(arguments[0], None, k, key): self.value(arguments[1], None, v, _join(key, k))
                    for k, v in value.items()}  # fmt: skip
            return {**(default or {}), **made}
        if known := _choices(hint):
            found = getattr(value, "value", value)
            if found in known:
                return known[found]
            return self._wrong(key, found, "unknown value", choices(str(found), map(str, known)))
        made, fits = _scalar(hint, value)
        if fits:
            return made
        cure = f"write {words(hint)}" + ("" if default is None else f"; its default is {default}")
        return self._wrong(key, value, f"not {words(hint)}", cure)

    def _wrong(self, key: str, value: Any, text: str, cure: str) -> None:
        self.problems.append(Problem(key, value, text, cure))


def _scalar(hint: Any, value: Any) -> tuple[Any, bool]:
    """The value as type `hint`, and True if the conversion is possible."""
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value, True
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole:
        return float(value), True
    if hint is str and isinstance(value, int | float):
        return str(value), True
    if isinstance(value, str):
        with suppress(ValueError, KeyError):
            return (_TRUTH[value.lower()] if hint is bool else hint(value)), True
    return None, False


def _choices(hint: Any) -> dict[Any, Any]:
    """A member of an enum or Literal, by its text."""
    if get_origin(hint) is Literal:
        return {value: value for value in get_args(hint)}
    members: list[enum.Enum] = list(hint) if isinstance(hint, enum.EnumMeta) else []
    return {one.value: one for one in members}


def words(hint: Any) -> str:
    """A type in readable form."""
    arguments = [argument for argument in get_args(hint) if argument is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        return f"{words(arguments[0])} or null"
    if get_origin(hint) in (list, dict):
        return f"a {get_origin(hint).__name__} of {' to '.join(map(words, arguments))}"
    if known := _choices(hint):
        return f"one of {', '.join(map(str, known))}"
    return _WORDS.get(hint, "a value")


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
