"""The reference of config keys, generated from the dataclasses: type, default, bounds and the comment of each field."""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlcore.problems import BOUNDS


@dataclass(frozen=True)
class Key:
    name: str
    kind: str  # "" for a group
    default: str
    text: str
    limits: str = ""  # choices and bounds


def keys(node: Any, path: str = "") -> Iterator[Key]:
    """Descriptions of all keys of a config, groups before their members."""
    texts = descriptions(type(node))  # type: ignore[arg-type]  # a type is hashable
    hints = typing.get_type_hints(type(node))
    for f in dataclasses.fields(node):
        value, name, hint = getattr(node, f.name), f"{path}{f.name}", hints[f.name]
        text = texts.get(f.name, "")
        if dataclasses.is_dataclass(value):
            yield Key(name, "", "", text or _first_sentence(type(value)))
            yield from keys(value, f"{name}.")
            continue
        bounds = f.metadata.get(BOUNDS)
        choices = [c for c in (hint, *typing.get_args(hint)) if isinstance(c, type) and issubclass(c, enum.Enum)]
        limits = f"one of: {', '.join(c.value for c in choices[0])}" if choices else str(bounds or "")
        yield Key(name, _kind(hint), _shown(value), text, limits)


@functools.cache
def descriptions(kind: Any) -> dict[str, str]:
    """Field -> its comment, on the same line or on the lines above."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    found = {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1
        while line in comments and lines[line - 1].lstrip().startswith("#"):
            above.insert(0, comments[line])
            line -= 1
        behind = comments.get(node.end_lineno or node.lineno, "")
        found[node.target.id] = behind or " ".join(above)
    return found


def _first_sentence(kind: type) -> str:
    text = inspect.getdoc(kind) or ""
    return "" if text.startswith(f"{kind.__name__}(") else text.split("\n\n")[0].replace("\n", " ")


def _kind(hint: Any) -> str:
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) in (list, dict):
        inner = [a for a in arguments if not dataclasses.is_dataclass(a)]
        return f"{typing.get_origin(hint).__name__}[{', '.join(map(_kind, inner))}]" if inner else "list of mappings"
    if arguments:
        return " | ".join(map(_kind, arguments)) + " | null"
    return "choice" if isinstance(hint, type) and issubclass(hint, enum.Enum) else getattr(hint, "__name__", "any")


def _shown(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, list):
        return f"[{', '.join('{...}' if dataclasses.is_dataclass(v) else _shown(v) for v in value)}]"
    if isinstance(value, dict):
        return "{}"
    return {"None": "null", "True": "true", "False": "false", "": "''"}.get(str(value), str(value))


def render(found: list[Key]) -> str:
    """One line per key, wrapped under its description."""
    lines = []
    for key in found:
        head = f"{key.name}" if not key.kind else f"{key.name} = {key.default}  ({key.kind})"
        lines.append(head)
        text = "; ".join(part for part in (key.text, key.limits) if part)
        lines += textwrap.wrap(text, 108, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
