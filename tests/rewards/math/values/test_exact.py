"""Answers that are numbers."""

import pytest

from rlcore.rewards.math.values import exact


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        *[("$5", "5", True), ("5", "$5", True), ("$5", "5 dollars", True), ("$5", "€5", False),
        ("€5", "5 euros", True)],
        *[("$5", "5 cents", False), ("$0.75", "75 cents", True), ("75 cents", "$75", False), ("£5", "5 pounds", True)],
        *[("5 cm", "5 kg", False), ("5 cm", "0.05 m", True), ("5 apples", "5 red apples", True),
        ("5 apples", "5 pears", False)],
        *[("5", "5 apples", True), ("5", "5 dozen", False), ("5", "5 hundred", False), ("5", "5%", False),
        ("5%", "5", True)],
        *[("5", "5 tenths", False), ("5", "5 pairs", False), ("5 units", "5 cm", True), ("5000", "5 thousand", True)],
        *[("$5000", "$5K", False), ("5", "$5K", False), ("98.6 degrees", "98.6 degrees F", True)],
    ],
)
def test_units_and_currencies(reference, answer, right):
    gold, given = exact.number(exact.clean(reference)), exact.number(exact.clean(answer))
    assert (given is not None and exact.same(gold, given)) is right


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [(r"\dfrac12", r"\frac12"), ("$x$.", "x"), ("½", "1/2"), (r"\$5", "¤5"), ("$5", "¤5"), (r"\$x + \$2", "x + 2"),
     (r"\approx 5", "5"), (r"\sim 5", r"\sim 5"), ("1{,}000", "1,000"), (r"\left(1\right)", "(1)"), ("−3", "-3")],
)  # fmt: skip
def test_clean(text, cleaned):
    assert exact.clean(text) == cleaned


def test_lists_of_numbers():
    assert exact.numbers("(1, 2)").brackets == "()"
    assert exact.numbers("1 and 2").brackets == ""
    assert exact.numbers("1 2") is None
    assert exact.same_numbers(exact.numbers("1, 2"), exact.numbers("2, 1"))
    assert not exact.same_numbers(exact.numbers("(1, 2)"), exact.numbers("(2, 1)"))
    assert exact.same_numbers(exact.numbers("(1, 2)"), exact.numbers("1, 2")) is None
    assert exact.decimal_comma("4,75").value == exact.number("4.75").value


def test_bounds_of_the_exact_path():
    assert exact.number("1E999999999") is None
    assert exact.number("1" * 1001) is None
    assert exact.number("9^{999}") is not None
    assert exact.number("99999999^{999}") is None
    assert exact.number("1/0") is None
    assert exact.number("") is None
