"""Parses and checks the columns that all kinds of data share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from rlcore.data.sources.config import ColumnsConfig
from rlcore.data.sources.conversations import Said, check_asks_model, said
from rlcore.data.sources.problem import BrokenRow, shown
from rlcore.data.sources.readers import DataError, Place, Table, has_column, look_up, nested_columns
from rlcore.problems import nearest
from rlcore.types import REFERENCES

_OTHER_NAMES = {
    "prompt": ("question", "problem", "instruction", "messages", "query", "input", "text"),
    "reference": ("answer", "solution", "ground_truth", "final_answer", "target", "label", "output",
                  "reward_model.ground_truth"),
}  # fmt: skip


class Names(Protocol):
    """Names of the columns shared by all kinds; "" for none."""

    prompt: str
    reference: str
    rewards: str
    uid: str
    tools: str


@dataclass(frozen=True, slots=True)
class Row:
    place: Place
    uid: str
    prompt: Said
    reference: str | None = None
    rewards: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()  # JSON schemas of functions, for the chat template


class _Named(Protocol):
    @property
    def uid(self) -> str: ...


T = TypeVar("T", bound=_Named)


def parse(table: Table, names: ColumnsConfig) -> list[Row]:
    """Parses the prompts of a file; errors go to `table.problems`.

    Columns other than `prompt` are optional under their default names; an empty name disables a column. A row
    without a uid gets `<file>-<line or row number>`.

    Raises:
        DataError: a required column is in no row, or the file has a column that looks like a missing `reference`.
    """
    _check_columns(table, names)
    used = frozenset({names.prompt, names.reference, names.rewards, names.uid})

    def one(place: Place, values: Mapping[str, Any]) -> list[Row]:
        return [head(place, values, names, used, prompt_of(column(values, names.prompt), names.prompt))]

    return collect(table, one)


def collect(table: Table, make: Callable[[Place, Mapping[str, Any]], Sequence[T]]) -> list[T]:
    """Results of `make` for each row, in order; BrokenRow and duplicate uids go to `table.problems`."""
    made: list[T] = []
    seen: dict[str, Place] = {}
    for place, values in table.rows:
        try:
            new = make(place, values)
            for one in new:
                if one.uid in seen:
                    raise BrokenRow(f"uid {one.uid!r} is that of {seen[one.uid]}")
        except BrokenRow as broken:
            table.problems.add(place, str(broken))
            continue
        seen |= {one.uid: place for one in new}
        made += new
    return made


def head(place: Place, values: Mapping[str, Any], names: Names, used: frozenset[str], prompt: Said = "") -> Row:
    """Parses the columns that all kinds of data share.

    Args:
        used: columns that do not go to the metadata.

    Raises:
        BrokenRow: a value of the wrong type.
    """
    uid = optional(values, names.uid)
    if uid is None:
        uid = place.uid
    elif isinstance(uid, bool) or not isinstance(uid, str | int) or uid == "":
        raise BrokenRow(f"{names.uid} must be text or a whole number, not {shown(uid)}")
    metadata = {name: value for name, value in values.items() if name not in used}
    accepted = references_of(optional(values, names.reference), names.reference)
    if len(accepted) > 1:
        metadata[REFERENCES] = list(accepted)
    return Row(
        place=place,
        uid=str(uid),
        prompt=prompt,
        reference=accepted[0] if accepted else None,
        rewards=_rewards(optional(values, names.rewards), names.rewards),
        metadata=metadata,
        tools=_tools(optional(values, names.tools), names.tools),
    )


def column(values: Mapping[str, Any], name: str) -> Any:
    """Value of a column. Raises BrokenRow if the row does not have it."""
    try:
        return look_up(values, name)
    except KeyError:
        raise BrokenRow(f"no column {name!r}; the row has {', '.join(values) or 'none'}") from None


def optional(values: Mapping[str, Any], name: str) -> Any:
    try:
        return look_up(values, name) if name else None
    except KeyError:
        return None


def prompt_of(value: Any, name: str) -> Said:
    """Text, or messages with a last one that the model answers. Raises BrokenRow for anything else."""
    prompt = said(value, name)
    if not isinstance(prompt, str):
        check_asks_model(prompt, name)
    return prompt


def references_of(value: Any, name: str) -> tuple[str, ...]:
    """The acceptable answers as text, without duplicates; a list has alternatives.

    >>> references_of(Decimal("2.50"), "x"), references_of([7, "seven", 7], "x"), references_of(True, "x")
    (('2.50',), ('7', 'seven'), ('true',))

    Raises:
        BrokenRow: not text, a number, a boolean, null, or a list of these.
    """
    listed = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, list | tuple) and (not value or None in value):
        raise BrokenRow(f"{name} must contain at least one answer and no null, got {shown(value)}")
    return tuple(dict.fromkeys(_reference(one, name) for one in listed if one is not None))


def _reference(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()  # JSON spelling
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    raise BrokenRow(f"{name} must be text or a number, not {shown(value)}")


def _rewards(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(x, str) and x for x in listed):
        raise BrokenRow(f"{name} must be the name of a reward or a list of names, not {shown(value)}")
    return tuple(listed)


def _tools(value: Any, name: str) -> tuple[Mapping[str, Any], ...]:
    """A list of JSON schemas, or its JSON text, which tables use if the schemas differ."""
    if value is None or value == "":
        return ()
    tools = value
    if isinstance(value, str):
        try:
            tools = json.loads(value)
        except ValueError as error:
            raise BrokenRow(f"{name} is text but not JSON ({error}): {shown(value)}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BrokenRow(f"{name} must be a list of JSON schemas, or its JSON, not {shown(value)}; columns.tools='' "
                        "moves the column to the metadata")  # fmt: skip
    return tuple(_without_nulls(tool) for tool in tools)


def _without_nulls(value: Any) -> Any:
    """Removes the null keys that tables add to objects."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _check_columns(table: Table, names: ColumnsConfig) -> None:
    defaults, present = ColumnsConfig(), ", ".join(table.columns)
    if not table.rows:  # all rows are broken: those errors are reported instead
        return
    for key in ("prompt", "reference", "rewards", "uid", "tools"):
        name = getattr(names, key)
        if has_column(table, name) or (not name and key != "prompt"):
            continue
        free = [c for c in (nested_columns(table) if "." in name or key == "reference" else table.columns)
                if c != names.prompt]  # fmt: skip
        guess = nearest(name, free, _OTHER_NAMES.get(key, ()))
        is_default = key != "prompt" and name == getattr(defaults, key)
        if is_default and not (guess and key == "reference"):
            continue
        cure = f" Did you mean data.columns.{key}={guess}?" if guess else ""
        cure += f" (data.columns.{key}='' if there is none)" if key != "prompt" else ""
        raise DataError(f"{table.path}: no column {name!r} (data.columns.{key}); the columns are {present}.{cure}")
