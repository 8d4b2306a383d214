"""Prompts through the chat template."""

from __future__ import annotations

import json

import pytest

from rlcore.data.sources.config import ColumnsConfig
from tests.data.sources.cases import load, problem
from tests.data.sources.test_load import chat_tokenizer as chat_tokenizer

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number"}}}}
WITH_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}<no>{% endif %}>"
    "{% endif %}"
)


@pytest.fixture
def template(tmp_path) -> str:
    (tmp_path / "chat.jinja").write_text(WITH_TOOLS)
    return str(tmp_path / "chat.jinja")


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_of_a_row_reach_the_chat_template(tmp_path, tokenizer, template, tools):
    rows = [{"prompt": "1+1", "tools": tools}, {"prompt": "2+2", "tools": None}]
    one, other = load(tmp_path, rows, tokenizer, chat_template=True, chat_template_file=template)
    assert (one.text, other.text) == ("[add]1+1>", "2+2>")
    assert one.metadata["tools"] == tools  # a reward may ask which were there


def test_tools_that_would_be_left_out_are_an_error(tmp_path, tokenizer, chat_tokenizer, template):
    text = problem(tmp_path, [{"prompt": "x", "tools": [TOOL]}], chat_tokenizer, chat_template=True)
    assert "row 0: the row has tools, which the chat template ignores: set data.columns.tools=''" in text
    for wrong, message in [("[1", "tools is text but not JSON"), (["add"], "tools must be a list of JSON schemas")]:
        rows = [{"prompt": "x", "tools": wrong}]
        text = problem(tmp_path, rows, tokenizer, chat_template=True, chat_template_file=template)
        assert f"row 0: {message}" in text
    rows = [{"prompt": "x", "tools": ["add"]}]
    (one,) = load(tmp_path, rows, tokenizer, ColumnsConfig(tools=""))
    assert one.metadata == {"tools": ["add"]}


def test_arguments_of_the_chat_template(tmp_path, tokenizer, template):
    rows, settings = [{"prompt": "1+1"}], {"chat_template": True, "chat_template_file": template}
    assert load(tmp_path, rows, tokenizer, **settings)[0].text == "1+1>"
    (one,) = load(tmp_path, rows, tokenizer, **settings, chat_options={"enable_thinking": False})
    assert one.text == "1+1<no>>"
    for changes, message in [
        ({"chat_options": {"enable_thinkng": False}}, "data.chat_options.enable_thinkng: the chat template uses no "
         "such variable. Did you mean enable_thinking?"),
        ({"chat_options": {"tools": []}}, "data.chat_options.tools is set by rlcore"),
        ({"chat_template_file": f"{tmp_path}/none"}, f"data.chat_template_file={tmp_path}/none cannot be read"),
        ({"chat_template": False}, "data.chat_template_file needs data.chat_template=true"),
        ({"chat_template": False, "chat_template_file": None, "chat_options": {"a": 1}}, "data.chat_options needs"),
    ]:  # fmt: skip
        assert message in problem(tmp_path, rows, tokenizer, **(settings | changes))
