"""Rows of files as checked examples."""

from __future__ import annotations

import re

import pytest

from rlcore.data.examples.load import (
    RowPolicy,
)
from tests.data.examples.cases import KINDS, load, problem


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "tails"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        ("The sky is blue.", "The sky is blunt.", "The sky is", (" blue.", " blunt.")),  # no word is cut
        (
            "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: a b\n\nAssistant: sure c",
            "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: a b\n\nAssistant: sure d",
            "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: a b\n\nAssistant:",
            (" sure c", " sure d"),
        ),
    ],
)
def test_the_prompt_is_what_both_texts_begin_with(tmp_path, tokenizer, chosen, rejected, prompt, tails):
    (pair,) = load(tmp_path, tokenizer, "preferences", [{"chosen": chosen, "rejected": rejected}]).pairs
    assert (pair.prompt.text, (pair.chosen.text, pair.rejected.text)) == (prompt, tails)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("demonstrations", {"response": " \n"}, "line 2: response is empty"),
        ("demonstrations", {"response": "<eos>"}, "line 2: the answer has only an end token"),
        ("demonstrations", {"response": 5}, r"line 2: response must be text or a list of messages, not 5 \(int\)"),
        ("demonstrations", {"prompt": None}, "line 2: prompt must be text or a list of messages, not None"),
        ("demonstrations", {"uid": 1.5}, "line 2: uid must be text or a whole number"),
        ("demonstrations", {"uid": "first"}, "line 2: uid 'first' is that of line 1"),
        ("demonstrations", {"reference": {}}, "line 2: reference must be text or a number"),
        ("demonstrations", {"response": [{"role": "assistant", "content": "x"}]}, "needs examples.chat_template=true"),
        ("preferences", {"rejected": "2"}, "line 2: chosen equals rejected: neither is better"),
        ("preferences", {"rejected": "2<eos>"}, "line 2: both responses have the same tokens"),
        ("preferences", {"rejected": ""}, "line 2: rejected is empty"),
        ("preferences", {"score_chosen": 1, "score_rejected": 2}, "line 2: score_chosen 1 is below score_rejected 2"),
        ("preferences", {"score_chosen": "9"}, "line 2: score_chosen must be a number, not '9'"),
        ("preferences", {"strength": -1}, "line 2: strength -1 is negative: chosen is the better one"),
        ("preferences", {"rejected": [{"role": "assistant", "content": "x"}]}, "one is text and the other a list"),
        ("labelled", {"label": 1}, r"line 2: label must be true or false, not 1 \(int\)"),
        ("labelled", {"label": "true"}, "line 2: label must be true or false, not 'true'"),
        ("labelled", {"label": None}, "line 2: label must be true or false, not None"),
        ("attributes", {"helpfulness": True}, "line 2: helpfulness must be a number, not True"),
        ("attributes", {"helpfulness": None}, "line 2: none of the attributes helpfulness, .* is labelled"),
        ("attribute_pairs", {"preference_strength": None}, "line 2: preference_strength must be a number, not None"),
        ("attribute_pairs", {"response_2": "2"}, "line 2: response_1 equals response_2"),
        ("prompts", {"prompt": " "}, "line 2: prompt is empty"),
    ],
)
def test_a_broken_row_is_named(tmp_path, tokenizer, kind, change, message):
    rows = [{**KINDS[kind], "uid": "first"}, {**KINDS[kind], **change}, {**KINDS[kind], "uid": "last"}]
    text = problem(tmp_path, tokenizer, kind, rows)
    assert text.startswith(f"{tmp_path / 'a.jsonl'}: 1 of 3 rows are broken:\n")
    assert re.search(message, text), text
    kept = load(tmp_path, tokenizer, kind, rows, broken_rows=RowPolicy.skip)
    assert (kept.counts["rows"], kept.counts["records"], kept.counts["skipped_broken"]) == (3, 2, 1)
    assert re.search(message, kept.broken[0])


def test_texts_with_nothing_in_common_are_no_pair(tmp_path, tokenizer):
    rows = [
        {"chosen": "yes", "rejected": "no"},
        {"chosen": "a b", "rejected": "a b"},
        {"chosen": "a b", "rejected": "a "},
    ]
    text = problem(tmp_path, tokenizer, "preferences", rows)
    assert "line 1: chosen and rejected have no common beginning that could be the prompt" in text
    assert "line 2: chosen equals rejected" in text
    assert "line 3: rejected is empty after the prompt" in text
    talk = "\n\nHuman: a\n\nAssistant:"
    rows = [{"chosen": talk + " b\n\nHuman: c\n\nAssistant: d", "rejected": talk + " e"}]
    assert "continues with a user turn" in problem(tmp_path, tokenizer, "preferences", rows)
