"""Columns of each kind of example."""

from __future__ import annotations

import re

import pytest

from rlcore.data.examples.load import (
    ExampleColumnsConfig,
    ExampleKind,
    describe,
)
from tests.data.examples.cases import problem


@pytest.mark.parametrize(
    ("kind", "row", "columns", "message"),
    [
        ("demonstrations", {"question": "a", "answer": "b"}, {},
         r"no column 'prompt' \(examples.columns.prompt\); no column 'response' .*columns are question, answer\. "
         r"Did you mean examples.columns.prompt=question examples.columns.response=answer\?\n"
         "rows of kind demonstrations:"),
        ("demonstrations", {"conversations": []}, {}, "Did you mean .*examples.columns.messages=conversations"),
        ("demonstrations", {"prompt": "a", "response": "b"}, {"uid": "id"}, r"no column 'id' \(examples.columns.uid\)"),
        ("preferences", {"prompt": "a", "Chosen": "b", "rejected": "c"}, {}, "mean examples.columns.chosen=Chosen"),
        ("preferences", {"question": "a", "chosen": "b", "rejected": "c"}, {},
         r"examples.columns.prompt=question\? \(examples.columns.prompt='' if chosen and rejected hold the prompt\)"),
        ("labelled", {"prompt": "a", "response": "b", "label": True}, {}, "examples.columns.completion=response"),
        ("attribute_pairs", {"prompt": "a", "response1": "b", "response2": "c", "overall_preference": 1}, {},
         "response_1=response1 examples.columns.response_2=response2 examples.columns.preference=overall_preference"),
        ("attributes", {"prompt": "a", "response": "b", "quality": 1}, {}, "none of the attributes helpfulness, "),
        ("attributes", {"prompt": "a", "response": "b", "helpfulnes": 1},
         {"attributes": {"helpfulness": "helpfullness"}},
         "no column 'helpfullness' .*columns.attributes.helpfulness=helpfulnes"),
    ],
)  # fmt: skip
def test_a_column_missing_everywhere_is_told_once(tmp_path, tokenizer, kind, row, columns, message):
    text = problem(tmp_path, tokenizer, kind, [row] * 9, columns=ExampleColumnsConfig(**columns))
    assert re.search(message, text), text
    assert "broken" not in text


@pytest.mark.parametrize("kind", list(ExampleKind))
def test_every_format_is_described(kind):
    text = describe(kind, ExampleColumnsConfig(prompt="question"), ("tone",))
    assert text.startswith(f"rows of kind {kind.value}:")
    assert "  question " in text
    assert ("tone" in text) == ("attribute" in kind.value)
