"""Numbers in English words."""

from fractions import Fraction

import pytest

from rlcore.rewards.math.grammar.numerals import spelt_number


@pytest.mark.parametrize(
    ("words", "number"),
    [("seven", 7), ("forty-two", 42), ("three hundred and five", 305), ("one million", 10**6), ("half", Fraction(1, 2)),
     ("two and a half", Fraction(5, 2)), ("three quarters", Fraction(3, 4)), ("two thousand and ten", 2010),
     ("third", None), ("forty fifty", None), ("apple", None), ("", None)],
)  # fmt: skip
def test_numbers_in_words(words, number):
    assert spelt_number(words) == number
