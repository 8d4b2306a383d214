from __future__ import annotations

import pytest

from rlcore.agents.config import ToolFormat
from rlcore.agents.tools import Call, InvalidEnvironment, calls_in, schemas, tool_names


class Calculator:
    def reset(self, **row) -> None: ...

    def add(self, a: float, b: float) -> str:
        """Adds two numbers.

        Args:
            a: the first.
            b: the second.
        """
        return str(a + b)

    def get_reward(self) -> float:
        return 1.0

    def close(self) -> None: ...

    def _helper(self) -> None: ...


class Derived(Calculator):
    def negate(self, a: int) -> str:
        """Changes the sign.

        Args:
            a: a number.
        """
        return str(-a)


def test_public_methods_are_tools_in_order():
    assert tool_names(Derived) == ["add", "negate"]


def test_schemas_come_from_signature_and_docstring():
    (schema,) = schemas(Calculator)
    assert schema["function"]["name"] == "add"
    assert schema["function"]["description"] == "Adds two numbers."
    assert schema["function"]["parameters"]["properties"]["b"] == {"type": "number", "description": "the second."}


def test_a_tool_without_docstring_is_named_with_its_cure():
    class Bad:
        def reset(self) -> None: ...
        def look(self, x: int) -> str: ...

    with pytest.raises(InvalidEnvironment, match=r"Bad\.look has no schema.*needs type hints, a docstring"):
        schemas(Bad)


@pytest.mark.parametrize(
    ("methods", "text"),
    [({"look": lambda self: ""}, "has no method reset"), ({"reset": lambda self: None}, "neither a tool")],
)
def test_a_class_that_cannot_play_is_refused(methods, text):
    with pytest.raises(InvalidEnvironment, match=text):
        tool_names(type("Env", (), methods))


HERMES, LLAMA, PYTHON = ToolFormat.hermes, ToolFormat.llama, ToolFormat.python


@pytest.mark.parametrize(
    ("style", "text", "calls"),
    [
        (HERMES, 'so <tool_call>{"name":"f","arguments":{"x": [1]}}</tool_call> and', [Call("f", {"x": [1]})]),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><tool_call>{"name": "g"}</tool_call>',
         [Call("f"), Call("g")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}', [Call("f")]),  # the end token came instead of the tag
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', [Call("f", {"x": 1})]),
        (HERMES, "the answer is 7", []),
        (HERMES, '{"name": "f", "arguments": {}}', []),
        (LLAMA, '{"name": "f", "parameters": {"x": 1}}', [Call("f", {"x": 1})]),
        (LLAMA, '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
         [Call("f"), Call("g")]),
        (LLAMA, '{"answer": 7}', []),
        (LLAMA, 'I call {"name": "f", "parameters": {}}', []),
        (PYTHON, '[f(x=1, y="a"), g()]', [Call("f", {"x": 1, "y": "a"}), Call("g")]),
        (PYTHON, "```tool_code\nf(x=-1)\n```", [Call("f", {"x": -1})]),
        (PYTHON, "[1, 2]", []),
        (ToolFormat.text, '<tool_call>{"name": "f"}</tool_call>', []),
    ],
)  # fmt: skip
def test_calls_in(style, text, calls):
    assert calls_in(text, style) == calls


@pytest.mark.parametrize(
    ("style", "text", "error"),
    [
        (HERMES, "<tool_call>{name: f}</tool_call>", "not JSON"),
        (HERMES, "<tool_call>[1]</tool_call>", "an object with"),
        (HERMES, '<tool_call>{"name": "f", "arguments": 3}</tool_call>', "must be an object"),
        (HERMES, "<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON"),
        (LLAMA, '{"name": "f", ', "not JSON"),
        (PYTHON, "[f(1)]", "must have names"),
        (PYTHON, "[f(x=__import__('os'))]", "no plain value"),
        (PYTHON, "[f(x=" + "(" * 500 + "]", "not Python"),
    ],
)
def test_a_malformed_call_is_an_error_for_the_model(style, text, error):
    (call,) = calls_in(text, style)
    assert error in call.error
