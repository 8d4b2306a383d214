"""Values of formulas, within bounds."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.rewards.math.grammar.formula import parse
from rlcore.rewards.math.values import numeric
from rlcore.rewards.math.values.numeric import OutOfBounds, Undefined, evaluate

VALUES = [
    ("2+3*4", 14), ("2-3-4", -5), ("12/3/2", 2), ("-2^2", -4), ("2^3^2", 512), ("2^-3", Fraction(1, 8)), ("--3", 3),
    (r"\frac12", Fraction(1, 2)), (r"\frac{1}{2}\cdot 3", Fraction(3, 2)), (r"2\frac{1}{3}", Fraction(7, 3)),
    (r"-2\frac{1}{3}", Fraction(-7, 3)), (r"2\frac{4}{3}", Fraction(8, 3)), ("1.25", Fraction(5, 4)), (".5", 0.5),
    ("3e-2", Fraction(3, 100)), ("5!", 120), ("3!!", 720), (r"\binom{5}{2}", 10), ("|2-5|", 3), ("|2-|3||", 1),
    (r"\sqrt{16}", 4), (r"\sqrt[3]{-27}", -3), ("sqrt(9)", 3), (r"\lfloor -3.5\rfloor", -4), (r"\lceil 3.2\rceil", 4),
    (r"\log_2 32", 5), (r"\ln e", 1), (r"\log_{10}{1000}", 3), (r"\sin 30^\circ", 0.5), (r"\cos\pi", -1),
    (r"\tan^{-1}(1)", math.pi / 4), (r"\sin^2 1 + \cos^2 1", 1), (r"\sin\pi/6", 0.5), (r"\sin(\pi)/6 + 1", 1),
    (r"4 \bmod 3", 1), (r"\sum_{k=1}^{10} k^2", 385), (r"\prod_{i=1}^{4} i", 24), (r"\gcd(12, 18)", 6), ("50%", 0.5),
    (r"{7 \over 2}", 3.5), (r"2\pi", 2 * math.pi), (r"\max\{2, 7, 5\}", 7), ("2(3)(4)", 24), (r"\exp(0)", 1),
    (r"30^\circ 30'", 30.5), (r"\cosh 0", 1), ("0^0", 1), (r"(1+i)^4", -4), (r"\operatorname{lcm}(4, 6)", 12),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[t for t, _ in VALUES])
def test_values(text, value):
    found = numeric.floating(evaluate(parse(text), {}, False))
    assert abs(complex(found) - complex(value)) < 1e-12 * max(1, abs(value))


@pytest.mark.parametrize(
    "text", ["10^{10^{10}}", "99999!", r"\binom{10^9}{5*10^8}", r"\sin(10^{400})", "e^{e^{e^{10}}}"]
)
def test_what_is_too_large_is_out_of_bounds(text):
    with pytest.raises(OutOfBounds):
        evaluate(parse(text), {}, False)


@pytest.mark.parametrize("text", ["1/0", r"\ln 0", "0^{-1}", r"\infty", r"(-3)!", r"\tan\frac{\pi}{2}", r"\log_1 5"])
def test_what_has_no_value_is_undefined(text):
    with pytest.raises(Undefined):
        evaluate(parse(text), {}, False)


@given(st.recursive(st.integers(0, 20).map(str), lambda e: st.one_of(
    st.tuples(e, st.sampled_from("+-*"), e).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    st.tuples(e, e).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}+21^2}}"),
    e.map(lambda t: f"{{{t}}}^{{2}}"),
), max_leaves=8))  # fmt: skip
@settings(deadline=None)
def test_arithmetic_is_that_of_python(text):
    python = text.replace(r"\frac", "").replace("}{", ")/(").replace("{", "(").replace("}", ")").replace("^", "**")

    expected = eval(re.sub(r"\d+", lambda m: f"F({m[0]})", python), {"F": Fraction})
    assert evaluate(parse(text), {}, False) == expected
