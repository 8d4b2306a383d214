"""What rows of the field look like: nested references, several answers, numbers of all kinds, text parts, tools."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rlcore.data.sources.config import ColumnsConfig
from tests.data.sources.cases import load, problem
from tests.data.sources.test_load import chat_tokenizer as chat_tokenizer


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
