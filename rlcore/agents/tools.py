"""Tools of an environment: schemas for the chat template, and calls in the text of a turn."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex  # type: ignore[import-untyped, unused-ignore]

from rlcore.agents.config import ToolFormat
from rlcore.problems import UserError

NO_TOOLS = ("reset", "get_reward", "close", "reply", "list_tools", "call_tool")  # public methods that are no tools
SEARCH_S = 1.0  # limit of one search in a turn


class InvalidEnvironment(UserError, ValueError):
    """An environment class that cannot be used."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of the model. `error` is set if the arguments cannot be read: the model gets it as the result."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def tool_names(environment: type) -> list[str]:
    """Public methods that are tools, in order of definition.

    Raises:
        InvalidEnvironment: no `reset`, or neither a tool nor `reply`.
    """
    names: dict[str, None] = {}
    for cls in reversed(environment.__mro__[:-1]):  # without `object`
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith("_") and name not in NO_TOOLS:
                names[name] = None
    if not callable(getattr(environment, "reset", None)):
        raise InvalidEnvironment(f"the environment {environment.__name__} has no method reset(self, **row): add one")
    if not names and not any(callable(getattr(environment, name, None)) for name in ("reply", "call_tool")):
        raise InvalidEnvironment(
            f"the environment {environment.__name__} has neither a tool (a public method with a docstring) nor "
            "reply(self, text): add one"
        )
    return list(names)


def schemas(environment: type) -> list[dict[str, Any]]:
    """JSON schemas of the tools, from signatures and docstrings (Google style, as `transformers` reads them).

    Raises:
        InvalidEnvironment: a tool without docstring, type hint or description of an argument.
    """
    from transformers.utils import get_json_schema

    found = []
    for name in tool_names(environment):
        try:
            found.append(get_json_schema(getattr(environment, name)))
        except Exception as error:  # of several kinds, by the docstring's fault
            raise InvalidEnvironment(
                f"the tool {environment.__name__}.{name} has no schema: {error}. A tool needs type hints, a docstring "
                "and in it `Args:` with a line `name: description` for each argument; a method that is no tool needs "
                "a name that begins with _"
            ) from error
    return found


def calls_in(text: str, style: ToolFormat) -> list[Call]:
    """The tool calls of a turn, in order; malformed ones have an `error`.

    >>> calls_in('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', ToolFormat.hermes)
    [Call(name='add', arguments={'a': 1}, error='')]
    >>> calls_in('{"name": "add", "parameters": {"a": 1}}', ToolFormat.llama)[0].arguments
    {'a': 1}
    >>> calls_in('[add(a=1), add(a=2)]', ToolFormat.python)[1].arguments
    {'a': 2}
    """
    try:
        return _READERS[style](text) if style in _READERS else []
    except TimeoutError:
        return [Call("", error="the turn takes too long to read")]


_HERMES = regex.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", regex.DOTALL)
_BLOCK = regex.compile(r"```(?:tool_code|python)?\s*(.*?)```", regex.DOTALL)


def _hermes(text: str) -> list[Call]:
    return [_from_json(found.group(1), "arguments") for found in _HERMES.finditer(text, timeout=SEARCH_S)]


def _llama(text: str) -> list[Call]:
    stripped = text.strip().removeprefix("<|python_tag|>").strip()
    if not stripped.startswith("{"):
        return []
    decoder, calls = json.JSONDecoder(), list[Call]()
    while stripped:
        try:
            value, end = decoder.raw_decode(stripped)
        except ValueError as error:
            return [*calls, Call("", error=f"the call is not JSON: {error}")]
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            return calls  # an answer that is JSON
        calls.append(_call(value, "parameters"))
        stripped = stripped[end:].lstrip().removeprefix(";").lstrip()
    return calls


def _python(text: str) -> list[Call]:
    block = _BLOCK.search(text, timeout=SEARCH_S)
    source = (block.group(1) if block else text).strip()
    if not block and not (source.startswith("[") and source.endswith("]")):
        return []
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [Call("", error=f"the call is not Python: {error}")]
    nodes: Sequence[ast.expr] = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
    if not all(isinstance(node, ast.Call) and isinstance(node.func, ast.Name) for node in nodes):
        return []
    return [_from_python(node) for node in nodes if isinstance(node, ast.Call)]


def _from_python(node: ast.Call) -> Call:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        return Call(name, error="arguments must have names: name(x=1)")
    try:
        return Call(name, {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg is not None})
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        return Call(name, error=f"an argument is no plain value: {error}")


def _from_json(text: str, key: str) -> Call:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Call("", error=f"the call is not JSON: {error}")
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return Call("", error=f'a call is an object with "name" and "{key}"')
    return _call(value, key)


def _call(value: Mapping[str, Any], key: str) -> Call:
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some templates write them as JSON text
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        return Call(value["name"], error=f'"{key}" must be an object')
    return Call(value["name"], dict(arguments))


_READERS = {ToolFormat.hermes: _hermes, ToolFormat.llama: _llama, ToolFormat.python: _python}
