"""The grammar of formulas, their values, and the comparison of structures."""

from fractions import Fraction

import pytest

from rlcore.rewards.math.grammar import formula
from rlcore.rewards.math.grammar.formula import Unreadable, parse
from rlcore.rewards.math.values.numeric import evaluate


@pytest.mark.parametrize(
    "text",
    ["", "+", "1+", "(1", "1)", r"\frac{1}", r"\frac{1}{", r"\sqrt{", "1 2", "^2", "x^2^", "a,b", "x=1",
     r"\int_0^1 x dx",
     r"\sum_{n=1}^{\infty} n",
     r"\unheard{1}", "é$", "(" * 200 + "1" + ")" * 200, r"\text{", r"\begin{pmatrix}",
     "__import__('os')", "x.y", "1e99999", r"\sum_{a=1}^2 \sum_{b=1}^2 ab"],
)  # fmt: skip
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(Unreadable):
        parse(text)


def test_variables():
    assert formula.symbols(parse(r"a_1 x^2 + \alpha e^{i} \sin y")) == {"a_1", "x", "alpha", "y"}
    assert formula.symbols(parse(r"\sum_{k=1}^{n} k x")) == {"n", "x"}
    x = {"x": Fraction(3), "y": Fraction(2)}
    assert evaluate(parse("2xy^2 - x/y"), x, True) == Fraction(45, 2)
