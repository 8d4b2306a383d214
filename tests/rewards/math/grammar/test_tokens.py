"""Tokens of the formula grammar."""

from fractions import Fraction

import pytest

from rlcore.rewards.math.grammar.tokens import MAX_TEN, Unreadable, decimal, split, tokens


def test_tokens():
    assert [value for _, value in tokens(r"2 \, \pi x**2")] == ["2", r"\pi", "x", "^", "2"]
    assert tokens("sin x oo") == [("cmd", r"\sin"), ("letter", "x"), ("cmd", r"\infty")]
    with pytest.raises(Unreadable, match="no token at"):
        tokens("2 € 3")


def test_decimals_are_marked():
    assert decimal("1.50") == ("dec", Fraction(3, 2))
    assert decimal("2.0") == ("num", Fraction(2))
    assert decimal("25e-1") == ("num", Fraction(5, 2))
    with pytest.raises(Unreadable, match="out of bounds"):
        decimal(f"1e{MAX_TEN + 1}")


@pytest.mark.parametrize(
    ("text", "signs", "parts"),
    [("1, (2, 3), 4", ",", ["1", ",", "(2, 3)", ",", "4"]), ("a = b", "=", ["a", "=", "b"]), (" a ", "=", ["a"]),
     (r"\{1, 2\}; 3", ",;", [r"\{1, 2\}", ";", "3"])],
)  # fmt: skip
def test_split_outside_brackets(text, signs, parts):
    assert split(text, signs) == parts
