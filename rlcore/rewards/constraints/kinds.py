"""Kinds of constraints by id, and checks of the constraints of a row."""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rlcore.problems import UserError
from rlcore.registry import Registry

Relation = Literal["less than", "at most", "exactly", "at least", "more than"]
Check = Callable[..., bool]
F = TypeVar("F", bound=Check)

_WANTED = {int: "a whole number, not negative", str: "a text", list[str]: "a list of texts"}


class ConstraintError(UserError, ValueError):
    """A row's constraint that cannot be read: an unknown id, a missing, unknown or wrong argument."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A checked constraint of a row.

    >>> Constraint("startend:end_checker", {"end_phrase": "the end"}).holds("This is the end")
    True
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def holds(self, text: str) -> bool:
        """True if the text fulfils the constraint; an empty text never does."""
        return bool(text.strip()) and bool(KINDS.get(self.id)(text, **self.kwargs))


KINDS = Registry("constraint", error=ConstraintError)
ids = KINDS.names


def constraint(id: str) -> Callable[[F], F]:
    """Registers a kind of constraint: a predicate of the response with keyword arguments.

    The kwargs of a row are checked against the annotations (`int`, `str`, `list[str]`, `Relation`); arguments with a
    default are optional.

    >>> @constraint("mine:shouted")
    ... def shouted(text: str) -> bool:
    ...     return text.isupper()
    >>> read_constraint("mine:shouted", {}).holds("YES")
    True

    Raises:
        ConstraintError: the id is taken, or an argument is annotated with another type.
    """

    def register(fn: F) -> F:
        for name, (kind, _) in _arguments(fn).items():
            if kind not in (int, str, list[str], Relation):
                raise ConstraintError(f"{id}: {name} must be int, str, list[str] or Relation, not {kind}")
        return KINDS.register(id)(fn)

    return register


@functools.cache
def _arguments(fn: Check) -> dict[str, tuple[Any, bool]]:
    """Name -> type, and whether it must be given."""
    hints, (_, *arguments) = typing.get_type_hints(fn), inspect.signature(fn).parameters.values()
    return {p.name: (hints.get(p.name), p.default is inspect.Parameter.empty) for p in arguments}


def read_constraint(id: Any, kwargs: Any) -> Constraint:
    """Checks a constraint. Arguments that are None count as missing, because tables give every row all columns.

    Raises:
        ConstraintError: an unknown id or an invalid argument.
    """
    arguments, given = _arguments(KINDS.get(id)), {} if kwargs is None else kwargs
    if not isinstance(given, Mapping):
        raise ConstraintError(f"{id}: kwargs must be an object, not {given!r}")
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := set(given) - set(arguments):
        takes = ", ".join(arguments) or "none"
        raise ConstraintError(f"{id}: unknown argument {', '.join(sorted(map(str, unknown)))}; it takes: {takes}")
    if missing := {name for name, (_, needed) in arguments.items() if needed} - set(given):
        raise ConstraintError(f"{id}: the argument {', '.join(sorted(missing))} is missing")
    return Constraint(id, {name: _value(id, name, arguments[name][0], value) for name, value in given.items()})


def read_row(metadata: Mapping[str, Any]) -> list[Constraint]:
    """The constraints of a row: column `constraints`, a list of `{"id": ..., "kwargs": {...}}`, or the two columns
    `instruction_id_list` and `kwargs` of IFEval. Either may be JSON in a string.

    Raises:
        ConstraintError: both layouts or none, an empty list, or an invalid constraint.
    """
    ours, theirs = _column(metadata, "constraints"), _column(metadata, "instruction_id_list")
    if (ours is None) == (theirs is None):
        have = "both" if ours is not None else f"neither: its columns are {', '.join(metadata) or 'none'}"
        raise ConstraintError(f"a row needs the column constraints, or instruction_id_list and kwargs; it has {have}")
    if ours is not None:
        entries = _sequence("constraints", ours)
        for entry in entries:
            if not isinstance(entry, Mapping) or "id" not in entry or set(entry) - {"id", "kwargs"}:
                raise ConstraintError(f'constraints holds {entry!r}; an entry is {{"id": "...", "kwargs": {{...}}}}')
        pairs = [(entry["id"], entry.get("kwargs")) for entry in entries]
    else:
        names = _sequence("instruction_id_list", theirs)
        given = _column(metadata, "kwargs")
        arguments = [None] * len(names) if given is None else _sequence("kwargs", given)
        if len(names) != len(arguments):
            raise ConstraintError(f"instruction_id_list has {len(names)} entries, kwargs {len(arguments)}")
        pairs = list(zip(names, arguments, strict=True))
    if not pairs:
        raise ConstraintError("the row's list of constraints is empty")
    return [read_constraint(id, kwargs) for id, kwargs in pairs]


def compare(count: int, relation: Relation, wanted: int) -> bool:
    """Compares `count` with `wanted`, for example "at least 3"."""
    if relation == "less than":
        return count < wanted
    if relation == "at most":
        return count <= wanted
    if relation == "exactly":
        return count == wanted
    return count >= wanted if relation == "at least" else count > wanted


def _column(metadata: Mapping[str, Any], name: str) -> Any:
    value = metadata.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConstraintError(f"{name} is a string that is not JSON ({error}): {value[:80]!r}") from error


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConstraintError(f"{name} must be a list, not {value!r:.80}")
    return value


def _value(id: str, name: str, kind: Any, value: Any) -> Any:
    if kind is int:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and math.isfinite(value) and value == int(value) and value >= 0:
            return int(value)  # tables turn integers with missing values into floats
    elif kind is str:
        if isinstance(value, str) and value.strip():
            return value
    elif kind is Relation:
        if value in typing.get_args(Relation):
            return value
    elif isinstance(value, list | tuple) and value and all(isinstance(x, str) and x.strip() for x in value):
        return list(value)
    wanted = _WANTED.get(kind) or f"one of: {', '.join(typing.get_args(Relation))}"
    raise ConstraintError(f"{id}: {name} must be {wanted}; it is {value!r:.80}")
