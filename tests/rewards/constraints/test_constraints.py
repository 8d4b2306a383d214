"""Scores of constraints, strict and loose."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlcore.rewards import get
from rlcore.rewards.composition import Item, Term
from rlcore.rewards.constraints import ConstraintError, kinds, loose_variants, read_row, score
from rlcore.rewards.pool import VerifierPool
from rlcore.rewards.registry import call, load_fn
from rlcore.types import Status
from tests.rewards.constraints.cases import NO_COMMA, SHORT, sample

QUOTED = {"id": "startend:quotation", "kwargs": {}}


def test_share_and_all():
    result = score("no commas here", [NO_COMMA, QUOTED, SHORT])
    assert result.score == pytest.approx(2 / 3)
    assert result.parts == {
        "punctuation:no_comma": 1.0,
        "startend:quotation": 0.0,
        "length_constraints:number_words": 1.0,
        "all": 0.0,
    }
    assert result.info == {"unfulfilled": ["startend:quotation"]}
    assert score("no commas here", [NO_COMMA, QUOTED, SHORT], mode="all").score == 0.0
    full = score('"none here"', [NO_COMMA, QUOTED, SHORT], mode="all")
    assert (full.score, full.parts["all"], full.info) == (1.0, 1.0, {})


def test_two_of_one_kind_have_a_part_each():
    letters = [
        {"id": "keywords:letter_frequency", "kwargs": {"letter": c, "let_frequency": 1, "let_relation": "at least"}}
        for c in "abc"
    ]
    assert score("ac", letters).parts == {
        "keywords:letter_frequency": 1.0,
        "keywords:letter_frequency#2": 0.0,
        "keywords:letter_frequency#3": 1.0,
        "all": 0.0,
    }


def test_an_unknown_mode_is_an_error_of_the_config():
    with pytest.raises(ValueError, match="mode='any': one of share, all"):
        score("x", [NO_COMMA], mode="any")


def test_loose_variants_are_the_eight_of_the_paper():
    assert loose_variants("Sure:\n*b*\nBye") == [
        "Sure:\n*b*\nBye",
        "*b*\nBye",
        "Sure:\n*b*",
        "*b*",
        "Sure:\nb\nBye",
        "b\nBye",
        "Sure:\nb",
        "b",
    ]
    assert loose_variants("one") == ["one", ""]


@pytest.mark.parametrize(
    ("response", "one"),
    [
        ('Sure, here it is:\n"quoted"', QUOTED),  # first line
        ('"quoted"\nHope it helps!', QUOTED),  # last line
        ('Sure:\n"quoted"\nHope it helps!', QUOTED),  # both
        ('**"quoted"**', QUOTED),  # stars
        ('Sure:\n*"quoted"*\nBye', QUOTED),  # everything
    ],
)
def test_loose_forgives_what_strict_does_not(response, one):
    assert score(response, [one]).score == 0.0
    assert score(response, [one], loose=True).score == 1.0


def test_loose_never_takes_away():
    for response in ("* a\n* b", "a\n***\nb", "Section 1\nx\nSection 2", "x"):
        for one in (
            {"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 2}},
            {"id": "length_constraints:number_paragraphs", "kwargs": {"num_paragraphs": 2}},
        ):
            assert score(response, [one], loose=True).score >= score(response, [one]).score


def test_the_reward_looks_past_thoughts():
    response = "<think>commas, commas, commas</think>none here"
    fn = get("constraints")
    assert call(fn, sample(response, constraints=[NO_COMMA])).score == 1.0
    assert call(fn, sample(response, constraints=[NO_COMMA]), {"thoughts": True}).score == 0.0
    assert call(fn, sample("<think>never closed", constraints=[NO_COMMA])).score == 0.0
    options = {"mode": "all", "loose": True}
    assert call(fn, sample('Sure:\n"a"', constraints=[NO_COMMA, QUOTED]), options).score == 1.0


def test_the_example(monkeypatch):
    """Its rows can all be read and fulfilled, its own kind included."""
    monkeypatch.setattr(kinds.KINDS, "_held", dict(kinds.KINDS._held))
    folder = Path(__file__).parents[3] / "examples/constraints"
    fn = load_fn(f"{folder}/my_constraints.py:constraints")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    answers = ["Cod and hake", "Tea warms. Drink up!", '{"colour": "blue"}', "Black night,\nno light."]
    assert [call(fn, sample(answer, **row)).score for answer, row in zip(answers, rows, strict=True)] == [1.0] * 4
    assert [call(fn, sample("x, x", **row)).score for row in rows] == [0.0, 0.5, 0.0, 0.0]


def test_in_verifier_processes():
    pytest.importorskip("py3langid")
    german = {"id": "language:response_language", "kwargs": {"language": "de"}}
    term = (Term("constraints", "rlcore.rewards.constraints:constraints"),)
    responses = ["Heute scheint die Sonne über dem ruhigen Meer.", "The sun shines over the quiet sea today.", ""]
    items = [Item(term, sample(r, constraints=[german, NO_COMMA])) for r in responses]
    items.append(Item(term, sample("x", constraints=[])))
    with VerifierPool(1, timeout_s=20.0) as pool:
        results = pool.submit(items).result(timeout=200)
    assert [r.score for r in results] == [1.0, 0.5, 0.0, 0.0]
    assert [r.status for r in results] == [Status.OK] * 3 + [Status.UNPARSABLE]
    assert results[1].parts["constraints/language:response_language"] == 0.0


def test_a_missing_language_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.delitem(sys.modules, "rlcore.rewards.languages", raising=False)
    row = {"constraints": [{"id": "language:response_language", "kwargs": {"language": "de"}}]}
    result = call(get("constraints"), sample("Guten Tag", **row))
    assert result.status is Status.ERROR
    assert "py3langid" in result.info["error"]


def test_no_constraints_to_score_is_an_error_of_the_data():
    assert score("x", []).status is Status.UNPARSABLE
    with pytest.raises(ConstraintError):
        read_row({"constraints": []})
