from __future__ import annotations

import pytest

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply
from rlcore.rounds import status
from rlcore.types import Prompt, Sample

LONG = "the quick brown fox jumps over the lazy dog while two cats watch from a wall"  # 16 words: 9 8-grams


def reasons(texts: list[str], evals: dict[str, list[str]], **options) -> list[bool]:
    table = tables.from_prompts([Prompt(str(i), (1,), t, source="web") for i, t in enumerate(texts)])
    kept, _ = apply(table, [{"kind": "contamination", **options}], FilterContext(evals))
    return [str(i) not in kept["uid"].to_pylist() for i in range(len(texts))]


def test_a_quoted_problem_is_found_inside_a_longer_text():
    quoted = "Solve this. " + LONG.upper().replace(" ", ",  ") + "! Then explain it in at least twenty words."
    assert reasons([quoted, "something else altogether of about the same length as that text"], {"e": [LONG]}) == [
        True,
        False,
    ]


def test_share_of_the_evaluation_texts_ngrams():
    words = LONG.split()
    texts = [" ".join(words[:n]) for n in (16, 12, 11, 8, 7)]  # 9, 5, 4, 1 and 0 of 9 n-grams
    assert reasons(texts, {"e": [LONG]}) == [True, True, False, False, False]
    assert reasons(texts, {"e": [LONG]}, share=0.1) == [True, True, True, True, False]
    assert reasons(texts, {"e": [LONG]}, share=1.0) == [True, False, False, False, False]


def test_short_texts_are_compared_whole():
    texts = ["What is 2+2?", "what is 2 + 2", "What is 2-2?", "user: What is 2+2? assistant:"]
    assert reasons(texts, {"e": ["What is 2+2?", ""]}) == [True, True, False, False]
    assert reasons(texts, {"e": ["What is 2+2?"]}, short="contained") == [True, True, False, True]


def test_boilerplate_is_not_counted():
    head = "you are given a problem please answer it with one number only now here it comes"
    evals = [f"{head} {LONG.replace('fox', f'fox{i}')}" for i in range(12)]
    assert reasons([head + " anything that is new"], {"e": evals}, share=0.1) == [False]
    assert reasons([head + " anything that is new"], {"e": evals}, share=0.1, max_shared=20) == [True]


def test_the_set_is_named_and_chosen():
    table = tables.from_samples([Sample(Prompt("p", (1,), "q", source="web"), "s", LONG, (1,))])
    context = FilterContext({"one": ["some short text"], "two": [LONG]})
    _, report = apply(table, [{"kind": "contamination", "of": "response"}], context)
    assert status.dropped(report.to_json()) == {"contaminated: two": 1}
    kept, _ = apply(table, [{"kind": "contamination"}], context)  # the prompt alone
    assert kept.num_rows == 1
    kept, _ = apply(table, [{"kind": "contamination", "of": "both", "sets": ["one"]}], context)
    assert kept.num_rows == 1
    with pytest.raises(ValueError, match=r"no texts of 'tow' \(did you mean 'two'"):
        apply(table, [{"kind": "contamination", "sets": ["tow"]}], context)


def test_without_evaluation_texts_it_refuses():
    with pytest.raises(ValueError, match="needs evaluation texts"):
        reasons(["a"], {})
