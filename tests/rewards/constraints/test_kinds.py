"""Kinds of constraints, and the constraints of a row."""

from __future__ import annotations

import json
import re

import pytest

from rlcore.rewards import constraints, get
from rlcore.rewards.constraints import constraint, kinds, read_row, score
from rlcore.rewards.registry import call
from rlcore.types import Status
from tests.rewards.constraints.cases import NO_COMMA, SHORT, sample


def test_both_layouts_of_a_row_and_json_in_strings():
    ours = {"constraints": [NO_COMMA, SHORT]}
    # as tables hold IFEval: every row has every argument, most of them null, whole numbers as floats
    empty = {"num_words": None, "relation": None, "keywords": None}
    theirs = {
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [empty, {**empty, "num_words": 5.0, "relation": "less than"}],
        "key": 1000,
    }
    as_text = {name: json.dumps(value) for name, value in theirs.items() if name != "key"}
    wanted = read_row(ours)
    assert [c.id for c in wanted] == ["punctuation:no_comma", "length_constraints:number_words"]
    assert wanted == read_row(theirs) == read_row(as_text) == read_row({"constraints": json.dumps([NO_COMMA, SHORT])})
    assert read_row({"instruction_id_list": ["punctuation:no_comma"]}) == wanted[:1]


def test_rows_survive_a_table():
    pa = pytest.importorskip("pyarrow")
    ours, theirs = (
        {"constraints": [NO_COMMA, SHORT]},
        {"instruction_id_list": [SHORT["id"]], "kwargs": [SHORT["kwargs"]]},
    )
    for row in (ours, theirs):
        plain = {
            k: [v if isinstance(v, str) or "id" not in v else {"kwargs": {}, **v} for v in x] for k, x in row.items()
        }
        (back,) = pa.Table.from_pylist([plain]).to_pylist()
        assert read_row(back) == read_row(row)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "it has neither: its columns are none"),
        ({"level": 1}, "it has neither: its columns are level"),
        ({"constraints": [NO_COMMA], "instruction_id_list": []}, "it has both"),
        ({"constraints": []}, "the row's list of constraints is empty"),
        ({"constraints": "[{"}, "constraints is a string that is not JSON"),
        ({"constraints": {"id": "x"}}, "constraints must be a list"),
        ({"constraints": ["punctuation:no_comma"]}, "constraints holds 'punctuation:no_comma'; an entry is"),
        ({"constraints": [{"id": "a", "args": {}}]}, "an entry is"),
        ({"constraints": [{"id": "punctuation:no_coma"}]}, r"did you mean 'punctuation:no_comma'\?"),
        ({"constraints": [{"id": 3}]}, "no constraint is named 3"),
        ({"constraints": [{"id": "punctuation:no_comma", "kwargs": [1]}]}, "kwargs must be an object"),
        ({"constraints": [{"id": "punctuation:no_comma", "kwargs": {"n": 1}}]}, "unknown argument n; it takes: none"),
        ({"constraints": [{"id": "keywords:existence"}]}, "the argument keywords is missing"),
        ({"constraints": [{"id": "keywords:existence", "kwargs": {"keywords": "sun"}}]}, "must be a list of texts"),
        ({"constraints": [{"id": "keywords:existence", "kwargs": {"keywords": [" "]}}]}, "must be a list of texts"),
        ({"constraints": [{"id": "startend:end_checker", "kwargs": {"end_phrase": ""}}]}, "must be a text; it is ''"),
        *[
            (
                {"constraints": [{"id": "length_constraints:number_paragraphs", "kwargs": {"num_paragraphs": bad}}]},
                "num_paragraphs must be a whole number, not negative",
            )
            for bad in (True, 1.5, -1, "2", float("nan"), float("inf"))
        ],
        (
            {
                "constraints": [
                    {"id": "keywords:frequency", "kwargs": {"keyword": "a", "frequency": 1, "relation": "about"}}
                ]
            },
            "relation must be one of: less than, at most, exactly, at least, more than; it is 'about'",
        ),
        (
            {"constraints": [{"id": "keywords:letter_frequency", "kwargs": {"letter": "ab", "let_frequency": 1}}]},
            "letter must be one character",
        ),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "1 entries, kwargs 0"),
        (
            {
                "constraints": [
                    {
                        "id": "length_constraints:nth_paragraph_first_word",
                        "kwargs": {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
                    }
                ]
            },
            "nth_paragraph is 2 of 1",
        ),
    ],
)
def test_a_broken_row_is_a_status_and_never_a_score(metadata, message):
    result = call(get("constraints"), sample("some text", **metadata))
    assert result.status is Status.UNPARSABLE
    assert result.score == 0.0
    assert re.search(message, result.info["error"])


def test_an_unknown_language_is_a_broken_row():
    pytest.importorskip("py3langid")
    bad = {"constraints": [{"id": "language:response_language", "kwargs": {"language": "english"}}]}
    result = call(get("constraints"), sample("some text", **bad))
    assert result.status is Status.UNPARSABLE
    assert "no language has the code 'english'" in result.info["error"]


def test_kinds_of_ones_own(monkeypatch):
    monkeypatch.setattr(kinds.KINDS, "_held", dict(kinds.KINDS._held))

    @constraint("mine:vowels")
    def vowels(text: str, most: int = 1) -> bool:
        return sum(c in "aeiou" for c in text) <= most

    assert "mine:vowels" in constraints.ids()
    assert score("bad", [{"id": "mine:vowels"}]).score == 1.0
    assert score("bade", [{"id": "mine:vowels"}]).score == 0.0
    assert score("bade", [{"id": "mine:vowels", "kwargs": {"most": 2}}]).score == 1.0
    with pytest.raises(ValueError, match="'mine:vowels' is registered twice"):
        constraint("mine:vowels")(vowels)
    with pytest.raises(ValueError, match="most must be int, str"):

        @constraint("mine:other")
        def other(text: str, most: float) -> bool:
            return True
