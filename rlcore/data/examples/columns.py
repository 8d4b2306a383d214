"""The columns of each kind of example, and the errors for missing ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rlcore.data.examples.config import ExampleColumnsConfig, ExampleKind, ExamplesConfig
from rlcore.data.sources.readers import DataError, Table, has_column, nested_columns
from rlcore.problems import nearest


class Role(NamedTuple):
    key: str  # of ExampleColumnsConfig
    required: bool
    meaning: str


_PROMPT = Role("prompt", True, "text, or a list of messages that does not end with the assistant's")
_RESPONSE = "text, or a list of messages that begins and ends with the assistant's"
_SHARED = (
    Role("uid", False, "text or a whole number, unique"),
    Role("reference", False, "the expected answer, or a list of alternatives"),
    Role("rewards", False, "name or names of rewards"),
    Role("tools", False, "JSON schemas for the chat template"),
)
FORMATS: dict[ExampleKind, tuple[Role, ...]] = {
    ExampleKind.prompts: (_PROMPT,),
    ExampleKind.demonstrations: (
        Role("messages", False, "a whole conversation, the assistant's message last, in place of the next two"),
        _PROMPT,
        Role("response", True, _RESPONSE),
    ),
    ExampleKind.preferences: (
        Role("prompt", False, "text or messages; without it: the common beginning of chosen and rejected"),
        Role("chosen", True, "the better response, text or messages; or the whole conversation with it"),
        Role("rejected", True, "the worse response, likewise"),
        Role("score_chosen", False, "a number"),
        Role("score_rejected", False, "a number, at most score_chosen"),
        Role("strength", False, "strength of the preference, a number of at least 0"),
    ),
    ExampleKind.labelled: (
        _PROMPT,
        Role("completion", True, _RESPONSE),
        Role("label", True, "true: a good completion, false: a bad one"),
    ),
    ExampleKind.attributes: (_PROMPT, Role("response", True, _RESPONSE)),
    ExampleKind.attribute_pairs: (
        _PROMPT,
        Role("response_1", True, _RESPONSE),
        Role("response_2", True, _RESPONSE),
        Role("preference", True, "a number: < 0: the first is better, > 0: the second, 0: a tie, which is skipped"),
    ),
}
_OTHER_NAMES = {
    "prompt": ("question", "problem", "instruction", "query", "context", "input"),
    "response": ("answer", "completion", "output", "target", "solution"),
    "messages": ("conversations", "conversation", "dialogue", "turns"),
    "chosen": ("chosen_response", "response_chosen", "preferred", "winner", "accepted"),
    "rejected": ("rejected_response", "response_rejected", "dispreferred", "loser"),
    "completion": ("response", "answer", "output"),
    "label": ("desirable", "thumbs_up", "is_good"),
    "response_1": ("response1", "response_a", "answer_1", "output_1"),
    "response_2": ("response2", "response_b", "answer_2", "output_2"),
    "preference": ("overall_preference", "strength", "margin"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Column layout of one file."""

    whole: bool  # demonstrations: from the column `messages`
    strength: str  # column of the strength
    used: frozenset[str]  # columns that do not go to the metadata


def describe(kind: ExampleKind, columns: ExampleColumnsConfig | None = None, attributes: tuple[str, ...] = ()) -> str:
    """The columns of a kind, one per line, for errors and documentation."""
    names = columns or ExampleColumnsConfig()
    lines = [(getattr(names, r.key) or "(none)", r.required, r.meaning) for r in (*FORMATS[kind], *_SHARED)]
    if kind in (ExampleKind.attributes, ExampleKind.attribute_pairs):
        suffixes = ("",) if kind is ExampleKind.attributes else ("_1", "_2")
        graded = [names.attributes.get(a, a) + s for a in attributes or ("<attribute>",) for s in suffixes]
        lines.append((", ".join(graded), False, "numbers; missing or null ones are not labelled"))
    width = max(len(name) for name, _, _ in lines if len(name) < 20)
    shown = [f"  {name:<{width}}  {'' if needed else 'optional; '}{meaning}" for name, needed, meaning in lines]
    return f"rows of kind {kind.value}:\n" + "\n".join(shown)


def check_columns(table: Table, config: ExamplesConfig, key: str) -> Layout:
    """The layout of a file.

    Raises:
        DataError: required columns are in no row; the message has the likely names and the whole format.
    """
    names, usual, present = config.columns, ExampleColumnsConfig(), set(table.columns)
    whole = config.kind is ExampleKind.demonstrations and has_column(table, names.messages)
    whole = whole and (names.messages != usual.messages or not has_column(table, names.response))
    strength = names.strength
    if strength == usual.strength and strength not in present and "margin" in present:
        strength = "margin"
    if table.rows:  # otherwise all rows are broken, and those errors are reported instead
        _check(table, config, key, whole)
    return Layout(whole, strength, _used(config, whole, strength))


def graded_columns(config: ExamplesConfig, attribute: str) -> tuple[str, ...]:
    """Columns of one attribute: one for a single response, two for a pair."""
    column = config.columns.attributes.get(attribute, attribute)
    if config.kind is ExampleKind.attributes:
        return (column,)
    return (f"{column}_1", f"{column}_2") if config.kind is ExampleKind.attribute_pairs else ()


def _check(table: Table, config: ExamplesConfig, key: str, whole: bool) -> None:
    names, usual = config.columns, ExampleColumnsConfig()
    roles = {role.key: role for role in (*FORMATS[config.kind], *_SHARED)}
    needed = {k for k, role in roles.items() if role.required} - ({"prompt", "response"} if whole else set())
    # a column that the user names must exist, even an optional one
    needed |= {k for k in roles if getattr(names, k) not in ("", getattr(usual, k))}
    missing = [k for k in roles if k in needed and not has_column(table, getattr(names, k))]
    hidden = config.kind is ExampleKind.preferences and names.prompt and not has_column(table, names.prompt)
    if hidden and not missing and _guess(table, config, "prompt"):
        missing = ["prompt"]  # more likely than a prompt inside of chosen and rejected
    graded = [a for a in config.attributes if graded_columns(config, a)]
    lost = [
        a for a in config.columns.attributes if not all(has_column(table, c) for c in graded_columns(config, a))
    ]
    if missing or lost:
        raise DataError(_told(table, config, key, missing, lost, "prompt" not in needed))
    if config.kind is ExampleKind.attributes and not any(
        has_column(table, c) for a in graded for c in graded_columns(config, a)
    ):
        raise DataError(
            f"{table.path}: none of the attributes {', '.join(graded)} is a column; the columns are "
            f"{', '.join(table.columns)}. Name yours in {key}.attributes"
        )


def _guess(table: Table, config: ExamplesConfig, key: str) -> str:
    taken = {getattr(config.columns, role.key) for role in FORMATS[config.kind]}
    name = getattr(config.columns, key)
    free = [c for c in (nested_columns(table) if "." in name else table.columns) if c not in taken]
    return nearest(name, free, _OTHER_NAMES.get(key, ()))


def _told(table: Table, config: ExamplesConfig, key: str, missing: list[str], lost: list[str], may_go: bool) -> str:
    keys = [(f"columns.{k}", getattr(config.columns, k), _guess(table, config, k)) for k in missing]
    for attribute in lost:
        column = config.columns.attributes[attribute]
        keys.append((f"columns.attributes.{attribute}", column, nearest(column, table.columns)))
    cures = [f"{key}.{k}={guess}" for k, _, guess in keys if guess]
    if config.kind is ExampleKind.demonstrations and "response" in missing:
        whole = _guess(table, config, "messages")
        cures += [f"{key}.columns.messages={whole}"] if whole else []
    text = "; ".join(f"no column {name!r} ({key}.{k})" for k, name, _ in keys)
    text += f"; the columns are {', '.join(table.columns)}."
    text += f" Did you mean {' '.join(cures)}?" if cures else ""
    if missing == ["prompt"] and may_go:
        text += f" ({key}.columns.prompt='' if chosen and rejected hold the prompt)"
    return f"{table.path}: {text}\n{describe(config.kind, config.columns, tuple(config.attributes))}"


def _used(config: ExamplesConfig, whole: bool, strength: str) -> frozenset[str]:
    names = config.columns
    used = {getattr(names, role.key) for role in (*FORMATS[config.kind], *_SHARED)} - {names.tools}
    if config.kind is ExampleKind.demonstrations:
        used -= {names.prompt, names.response} if whole else {names.messages}
    if config.kind is ExampleKind.preferences:
        used.add(strength)
    for attribute in config.attributes:
        used |= set(graded_columns(config, attribute))
    return frozenset(used)
