"""Texts for every kind of constraint."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rlcore.rewards.constraints import read_constraint
from rlcore.rewards.constraints.kinds import KINDS
from rlcore.types import RewardInput

NO_COMMA = {"id": "punctuation:no_comma"}
SHORT = {"id": "length_constraints:number_words", "kwargs": {"num_words": 5, "relation": "less than"}}


def sample(response: str, **metadata) -> RewardInput:
    return RewardInput("Do it.", response, metadata=metadata)


IFEVAL = [
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:number_paragraphs",
    "length_constraints:number_words",
    "length_constraints:number_sentences",
    "length_constraints:nth_paragraph_first_word",
    "detectable_content:postscript",
    "detectable_content:number_placeholders",
    "detectable_format:number_bullet_lists",
    "detectable_format:title",
    "detectable_format:constrained_response",
    "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections",
    "detectable_format:json_format",
    "combination:repeat_prompt",
    "combination:two_responses",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "change_case:capital_word_frequency",
    "startend:end_checker",
    "startend:quotation",
    "punctuation:no_comma",
]

EN = "The committee will meet on Tuesday to discuss the budget for the coming year."
DE = "Der Ausschuss trifft sich am Dienstag, um den Haushalt des kommenden Jahres zu besprechen."
HI = "समिति मंगलवार को बजट पर चर्चा करने के लिए बैठक करेगी।"
ZH = "委员会将于星期二开会讨论明年的预算。"

CASES: dict[str, list[tuple[dict, list[str], list[str]]]] = {  # id -> (kwargs, fulfil it, do not)
    "keywords:existence": [
        ({"keywords": ["sun", "sea"]}, ["The sea, the Sun.", "sunny seaside"], ["The sea.", "sun", "s u n sea"]),
        ({"keywords": ["c++ (11)"]}, ["I like C++ (11)."], ["I like c++"]),
        ({"keywords": ["día"]}, ["Un DÍA más"], ["un dia"]),
    ],
    "keywords:frequency": [
        ({"keyword": "la", "frequency": 3, "relation": "at least"}, ["la La LA", "lalala"], ["la la", "l a"]),
        ({"keyword": "la", "frequency": 2, "relation": "less than"}, ["la", "no"], ["la la"]),
        ({"keyword": "a.b", "frequency": 1, "relation": "at least"}, ["a.b"], ["axb"]),
        ({"keyword": "x", "frequency": 2, "relation": "exactly"}, ["x x"], ["x", "x x x"]),
        ({"keyword": "x", "frequency": 2}, ["x x", "xxx"], ["x"]),
    ],
    "keywords:forbidden_words": [
        ({"forbidden_words": ["cat", "no way"]}, ["concatenate", "Scatter no  way"], ["A Cat.", "CAT", "no way!"]),
        ({"forbidden_words": ["c++"]}, ["c and c+"], ["I use c++."]),
    ],
    "keywords:letter_frequency": [
        ({"letter": "a", "let_frequency": 2, "let_relation": "at least"}, ["Aa", "banana"], ["a", "b"]),
        ({"letter": "q", "let_frequency": 1, "let_relation": "less than"}, ["none"], ["Q"]),
        ({"letter": "!", "let_frequency": 3, "let_relation": "at least"}, ["!!!"], ["!! ?"]),
    ],
    "language:response_language": [
        ({"language": "de"}, [DE], [EN, "12 + 5 = 17", "!", HI]),
        ({"language": "hi"}, [HI], [EN, ZH]),
        ({"language": "zh-cn"}, [ZH], [EN, DE]),
        ({"language": "en"}, [EN], [DE, "🙂🙂"]),
    ],
    "length_constraints:number_sentences": [
        (
            {"num_sentences": 2, "relation": "at least"},
            ["One. Two!", "Is it 3.5? Dr. A. Lee said no."],
            ["Mr. X is in."],
        ),
        ({"num_sentences": 2, "relation": "less than"}, ["E.g. this one, i.e. it", "3.14 is pi"], ["Yes. No."]),
        ({"num_sentences": 3, "relation": "exactly"}, ["- a\n- b\n- c", "你好。好！走吗？"], ["a b c", "你好。"]),
    ],
    "length_constraints:number_words": [
        (
            {"num_words": 3, "relation": "at least"},
            ["one two three", "a b c d", "我们好"],
            ["one two", "well-known it's"],
        ),
        ({"num_words": 3, "relation": "less than"}, ["one - two", "3.5 %"], ["one, two, three"]),
        ({"num_words": 5, "relation": "exactly"}, ["समिति मंगलवार को बजट पर"], ["समिति मंगलवार को बजट"]),
    ],
    "length_constraints:number_characters": [
        ({"num_characters": 3, "relation": "at most"}, ["abc", " ab\n", "é"], ["abcd", "a b c"]),
        ({"num_characters": 3}, ["abc", "abcd"], ["ab  "]),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, ["a\n***\nb", "a *** b", "***\na\n***\nb\n***"], ["a\n\nb", "a", "a\n***\n\n***\nb"]),
        ({"num_paragraphs": 1}, ["a b", "a\n***"], ["a\n***\nb", "***"]),
        ({"num_paragraphs": 2}, ["a ****** x\n***\nb"], ["a\n******\nb"]),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Once"},
            ["A.\n\nonce upon", 'A.\n \n\n"Once, he', "A\n\n**Once** b", "A\n\nONCE"],
            ["Once\n\nA.", "A.\n\nOncelot", "A.\n\nOnce\n\nB", "A.\nOnce"],
        ),
    ],
    "detectable_content:postscript": [
        (
            {"postscript_marker": "P.S."},
            ["Bye.\nP.S. I do", "Bye. P. S. x", "a\n**p.s.** b", '"P.S. b"'],
            ["P.S.", "tops. me", "PPS x"],
        ),
        ({"postscript_marker": "P.P.S"}, ["a\nP.P.S. b", "a\nP.P.S: b", "P.P.S b"], ["P.S. b", "a"]),
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, ["[name], [age]", "[a][b][c]"], ["[name]", "[] [ ]", "[a\nb] [c]", "(a) (b)"]),
    ],
    "detectable_format:number_bullet_lists": [
        (
            {"num_bullets": 2},
            ["* a\n* b", "x\n- a\n  - b\ny", "* a\n- b"],
            ["* a", "* a\n* b\n* c", "-a\n-b", "---\n---", "**a**\n**b**"],
        ),
    ],
    "detectable_format:title": [
        ({}, ["<<joy>>\nx", "a <<b c>> d"], ["<<>>", "<< >>", "<joy>", "<<a\nb>>", "joy"]),
    ],
    "detectable_format:constrained_response": [
        (
            {},
            ["My answer is yes.", "Well: My answer is maybe. Ok"],
            ["yes", "my answer is yes.", "My answer is yes. My answer is no."],
        ),
        ({"options": ["red", "blue"]}, ["red it is"], ["green", "red or blue"]),
    ],
    "detectable_format:number_highlighted_sections": [
        (
            {"num_highlights": 2},
            ["*a* and **b c**", "***a*** *b*", "* item *x* *y*"],
            ["*a*", "* a\n* b", "** ** * *", "**a\nb**", "2 * 3 * 4"],
        ),
    ],
    "detectable_format:multiple_sections": [
        (
            {"section_spliter": "Section", "num_sections": 2},
            ["Section 1\na\nSection 2\nb", "## Section I\n\n**Section 2** x\nSection3"],
            ["Section 1 and Section 2", "Section 1", "SECTION 1\nSECTION 2", "Section one\nSection two"],
        ),
    ],
    "detectable_format:json_format": [
        (
            {},
            ['{"a": 1}', "[1, 2]", '```json\n{"a": [1]}\n```', "```\n[]\n```", " {}\n", '```{"a": 1}```'],
            ["1", '"text"', "null", "{'a': 1}", '{"a": NaN}', '{"a": 1} done', "```json", "{", "[" * 100_000],
        ),
    ],
    "combination:repeat_prompt": [
        (
            {"prompt_to_repeat": "Name a fish."},
            ["Name a fish. Cod", "name a fish.\n\nCod"],
            ["Name a fish.", "Cod", "Name a fish. !"],
        ),
    ],
    "combination:two_responses": [
        (
            {},
            ["a\n******\nb", "a ****** b ******"],
            ["a", "a\n******\na", "a\n***\nb", "a\n******\nb\n******\nc", "a ****** ****** b"],
        ),
    ],
    "change_case:english_capital": [({}, [EN.upper()], [EN, EN.lower(), DE.upper(), "123"])],
    "change_case:english_lowercase": [({}, [EN.lower()], [EN, EN.upper(), DE.lower(), "..."])],
    "change_case:capital_word_frequency": [
        (
            {"capital_frequency": 2, "capital_relation": "at least"},
            ["NASA and ESA", "I SAW it"],
            ["NASA", "Nasa Esa", "P.S. a"],
        ),
        ({"capital_frequency": 2, "capital_relation": "less than"}, ["NASA", "none"], ["A B"]),
    ],
    "startend:end_checker": [
        (
            {"end_phrase": "Any questions?"},
            ["x Any questions?", 'x "any QUESTIONS?"\n'],
            ["Any questions? No", "Any questions"],
        ),
        ({"end_phrase": "x"}, ["abx", "x"], ["xa", "a"]),
    ],
    "startend:quotation": [({}, ['"a b"', ' "a"\n', "“a”"], ['"a', "a", '""', "'a'", 'say "a"', '"'])],
    "punctuation:no_comma": [({}, ["a; b.", "3.5"], ["a, b", "3,5", "你，我"])],
}

HOSTILE = [
    "[" * 60_000,
    "[a" * 30_000,
    "*" * 60_000,
    "*a " * 20_000,
    "<<" * 30_000,
    "<<a" * 20_000,
    "a" * 60_000,
    "Section " * 8_000,
    "p.s" * 20_000,
    "p.s " * 20_000,
    "```" * 20_000,
    "```a" * 15_000,
    "\n" * 60_000,
    "- " * 30_000,
    "-\n" * 30_000,
    "A. " * 20_000,
    "'a" * 30_000,
    "\u0301" * 60_000,
    " " * 60_000 + "x",
    '{"a":' * 12_000,
    "P.S." + " " * 60_000,
    "9" * 60_000,
    "Any" * 20_000,
]


def ids_of(module: str) -> list[str]:
    """Ids of the kinds that a module of rlcore.rewards.constraints defines."""
    return [id for id in CASES if KINDS.get(id).__module__ == module]


def flat(module: str) -> list[Any]:
    """(id, kwargs, text, whether the text fulfils the constraint), one per text of these kinds."""
    return [
        pytest.param(id, kwargs, text, wanted, id=f"{id}-{i}-{wanted}-{j}")
        for id in ids_of(module)
        for i, (kwargs, good, bad) in enumerate(CASES[id])
        for wanted, texts in ((True, good), (False, bad))
        for j, text in enumerate(texts)
    ]


def fulfils(id: str, kwargs: dict, text: str) -> bool:
    if id.startswith("language") or "english" in id:
        pytest.importorskip("py3langid")
    return read_constraint(id, kwargs).holds(text)


def assert_empty_fails(id: str) -> None:
    """Otherwise silence would be paid: it holds no comma and fewer than any number of words."""
    for kwargs, _, _ in CASES[id]:
        assert not read_constraint(id, kwargs).holds("")
        assert not read_constraint(id, kwargs).holds(" \n\t ")


def assert_linear(id: str) -> None:
    if id.startswith("language") or "english" in id:
        pytest.skip("the detector's time is not ours")
    checks = [read_constraint(id, kwargs) for kwargs, _, _ in CASES[id]]
    start = time.process_time()
    for text in HOSTILE:
        for check in checks:
            check.holds(text)
    assert time.process_time() - start < 20  # under 1 on an idle core; quadratic ones take minutes
