"""Answers that are words or letters."""

import pytest

from rlcore.rewards.math.reading import prose


@pytest.mark.parametrize(
    ("text", "found"),
    [(r"\text{Evelyn}", "evelyn"), ("July 14th", "july 14"), ("14 July", None), ("the red one", "red one"),
     ("2x + 1", None),
     ("no real solutions", "no solution"), ("sin x", None), ("xy", None), (r"\text{no}", "no")],
)  # fmt: skip
def test_words(text, found):
    assert prose.words(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("C", ("c", "")), ("(C) 42", ("c", "42")), ("option C", ("c", "")), ("C. 42", ("c", "42")), ("(A) or (B)", None),
     ("Cat", None), ("A. 5 B. 7", None)],
)  # fmt: skip
def test_letter(text, found):
    assert prose.letter(text) == found


def test_several_letters():
    assert prose.letters("A, C and D") == prose.run_of_letters("ACD") == {"A", "C", "D"}
    assert prose.letters("A") is None
    assert prose.run_of_letters("CAD") is None


def test_conflict():
    assert prose.conflict(["yes", "No."])
    assert prose.conflict(["(A)", "option B"])
    assert not prose.conflict(["yes", "Tuesday", "Monday"])
