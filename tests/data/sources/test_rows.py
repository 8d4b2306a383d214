"""What rows of the field look like: nested references, several answers, numbers of all kinds, text parts, tools."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcore.data.sources.config import ColumnsConfig, DataConfig, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError
from rlcore.types import Prompt
from tests.data.sources.test_load import chat_tokenizer as chat_tokenizer


def load(path: Path, rows: list, tokenizer, columns: ColumnsConfig | None = None, **changes) -> list[Prompt]:
    file = path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    config = DataConfig(source=SourceKind.file, train=str(file), num_eval=0, max_prompt_tokens=500, **changes)
    config.columns = columns or ColumnsConfig()
    return load_data(config, tokenizer, seed=0).train


def problem(*args, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load(*args, **changes)
    return str(caught.value)


def test_a_reference_inside_another_column(tmp_path, tokenizer):
    rows = [{"prompt": "1+1", "reward_model": {"ground_truth": "2", "style": "rule"}, "extra": {"id": "x"}}]
    columns = ColumnsConfig(reference="reward_model.ground_truth", uid="extra.id")
    (one,) = load(tmp_path, rows, tokenizer, columns)
    assert (one.uid, one.reference) == ("x", "2")
    assert one.metadata == {"reward_model": {"ground_truth": "2", "style": "rule"}, "extra": {"id": "x"}}
    text = problem(tmp_path, rows, tokenizer, ColumnsConfig(reference="reward_model.ground_trth"))
    assert "Did you mean data.columns.reference=reward_model.ground_truth?" in text
    assert "Did you mean data.columns.reference=reward_model.ground_truth?" in problem(tmp_path, rows, tokenizer)
    assert "no column 'reward.x'" in problem(tmp_path, rows, tokenizer, ColumnsConfig(reference="reward.x"))


def test_any_of_several_references_is_right(tmp_path, tokenizer):
    rows = [{"prompt": "1+1", "reference": ["2", "two", "2"]}, {"prompt": "2+2", "reference": ["4"]}]
    one, other = load(tmp_path, rows, tokenizer)
    assert (one.reference, one.metadata) == ("2", {"references": ["2", "two"]})
    assert (other.reference, other.metadata) == ("4", {})


@pytest.mark.parametrize(
    ("value", "text"),
    [(Decimal("2.50"), "2.50"), (Decimal("1E+2"), "100"), (7, "7"), (0.5, "0.5"), (True, "true"), ([1.5, 2.0], "1.5")],
)
def test_references_of_every_type(tmp_path, tokenizer, value, text):
    assert load(tmp_path, [{"prompt": "x", "reference": value}], tokenizer)[0].reference == text


def test_text_parts_of_a_message(tmp_path, chat_tokenizer):
    parts = [{"type": "text", "text": "look", "url": None}, {"type": "text", "text": "here", "url": None}]
    (one,) = load(tmp_path, [{"prompt": [{"role": "user", "content": parts}]}], chat_tokenizer, chat_template=True)
    assert one.text == "<user>look\nhere<assistant>"
    parts[1] = {"type": "image_url", "text": None, "url": "x.png"}
    text = problem(tmp_path, [{"prompt": [{"role": "user", "content": parts}]}], chat_tokenizer, chat_template=True)
    assert "row 0: prompt holds a part of type 'image_url'; only text can be read" in text


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
