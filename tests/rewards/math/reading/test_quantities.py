"""Formulas and values in running text."""

import pytest

from rlcore.rewards.math.reading import quantities


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It leaves at 3:30 PM for $1,250.50.", ["3:30 PM", "$1,250.50"]),
        ("The profit is $200 - $130 = $70.", ["$200", "$130", "$70"]),
        (r"Thus $x = 3$ and \(y = 4\).", ["x = 3", "y = 4"]),
        ("the points (2, 5) and (0, -1)", ["(2, 5)", "(0, -1)"]),
        ("1 500 of 12,000, or 25π, or 2√3", ["1 500", "12,000", "25π", "2√3"]),
        ("3,5 Stunden, 2 1/2 cups, 6 x 10^4 J", ["3,5", "2 1/2", "6 x 10^4"]),
        ("the 23rd of a 6-sided die in CO2", []),
        ("12x and 5 cm", ["5"]),
        ("一共有14本书", ["14"]),
    ],
)
def test_values(text, found):
    assert [value.inner for value in quantities.values(text)] == found


@pytest.mark.parametrize(
    ("words", "number"),
    [
        *[("twelve ways", "12"), ("one third of it", "1/3"), ("two-thirds", "2/3"), ("minus five", "-5")],
        *[("twenty-one", "21"), ("infinity", r"\infty"), ("half", "1/2"), ("forty percent", "40%"), ("a dog", None)],
    ],
)
def test_numbers_in_words(words, number):
    assert quantities.spelt(words) == number


@pytest.mark.parametrize(
    ("formula", "side"),
    [
        *[("1 + 2 = 3", "3"), ("x = 3", "x = 3"), ("y^2 = 4x", "y^2 = 4x"), ("3*5 = 15, 15 + 2 = 17", "17")],
        *[(r"2x = 10 \Rightarrow x = 5", "x = 5"), (r"a &= 4 + 7 \\ &= 11", "11"), (r"(1+1/n)^n \to e", "e")],
        *[(r"x &= 2 \\ y &= 3", "x = 2, y = 3"), (r"\lim_{x \to 0} x", r"\lim_{x \to 0} x")],
    ],
)
def test_last_side(formula, side):
    assert quantities.last_side(formula).replace("  ", " ") == side
