"""The grammar of formulas, their values, and the comparison of structures."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.rewards import math as math_reward
from rlcore.rewards.math.grammar import formula, units
from rlcore.rewards.math.grammar.formula import Unreadable, parse
from rlcore.rewards.math.values import exact, numeric, regions, structure, symbolic, verdict
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


def test_variables():
    assert formula.symbols(parse(r"a_1 x^2 + \alpha e^{i} \sin y")) == {"a_1", "x", "alpha", "y"}
    assert formula.symbols(parse(r"\sum_{k=1}^{n} k x")) == {"n", "x"}
    x = {"x": Fraction(3), "y": Fraction(2)}
    assert evaluate(parse("2xy^2 - x/y"), x, True) == Fraction(45, 2)


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


@given(st.text(alphabet="0123456789xyie+-*/^(){}[]|!%,=<> .\\fracsqrtpibnomlgdet_", max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(text):
    answer = structure.read(exact.clean(text))
    other = structure.read(r"\Omega + 977")  # which no text of this alphabet states
    if answer is None:
        assert math_reward.score(rf"\boxed{{{text}}}", r"\Omega + 977").score == 0.0
    else:
        assert verdict.same(answer, answer) is not False
        assert not verdict.same(answer, other)
        assert not verdict.same(other, answer)


@pytest.mark.parametrize(("text", "read"), [
    ("x^2+1", True), ("(1,2]", True), ("{1,2}", True), ("x=1", True), ("1/0", True), ("1<x", True), ("0.5%", True),
    ("x^", False), ("(1", False), ("1 2", False), ("\\frac", False), ("||", False), ("*", False),
])  # fmt: skip
def test_the_alphabet_of_any_text_holds_both(text, read):
    assert (structure.read(exact.clean(text)) is not None) is read


@pytest.mark.parametrize(("a", "b", "equal"), [
    ("4:35 PM", r"4:35\text{ p.m.}", True), ("4:35 PM", "4:35 AM", False), ("4:35 PM", "4:35", True),
    ("12:00", "1:00", False), ("3:10", "6:20", True), ("|x| < 2", "(-2,2)", True), ("|x| < 2", "|x| \\le 2", False),
    ("|2x-1| \\ge 3", r"(-\infty,-1]\cup[2,\infty)", True), ("|2x-1| \\ge 3", "[-1,2]", False),
    ("3 > |x|", "(-3,3)", True),
    (r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}", True),
    (r"-\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", True), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1,2]", False), (r"k\pi, k \in \mathbb{Z}", r"n\pi (n\in\mathbb{Z})", True),
    (r"k\pi, k \in \mathbb{Z}", r"n\pi, n\in\mathbb{N}", False),
    (r"k\pi, k \in \mathbb{Z}", r"2n\pi, n\in\mathbb{Z}", False),
    ("x^2+C", "x^2+c", True), ("2C", "2c", False), ("x_1=2, x_2=-5", "x=2 or x=-5", True),
    ("x_1=2, x_2=-5", "x=2", False),
    ("x_1=2, x_2=-5", "x_1=-5, x_2=2", False), ("1,2,3,...", "1,2,3", False), (r"1,2,\ldots,n", r"1,3,\ldots,n", False),
    ("f(x)=x+1", "y=x+1", True), ("f(t)=t+1", "y=t+1", False), (r"{7 \choose 3}", r"\binom{7}{4}", True),
    ("C_7^3", "35", True),
    ("_7C_3", "35", True), ("C_7^3", "343", False), (r"x \in \mathbb{Z}", r"x \in \mathbb{N}", False),
])  # fmt: skip
def test_what_the_blind_sets_found(a, b, equal):
    assert bool(verdict.same(structure.read(exact.clean(a)), structure.read(exact.clean(b)))) is equal


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("1 < x \\le 3", [(1, False, 3, True)]),
        ("3 \\ge x > 1", [(1, False, 3, True)]),
        ("x \\ne 2", [(-math.inf, False, 2, False), (2, False, math.inf, False)]),
        ("2x + 1 \\ge 5", [(2, True, math.inf, False)]),
        ("-x > 1", [(-math.inf, False, -1, False)]),
        (r"[0,1] \cup (1,2)", [(0, True, 2, False)]),
        (r"(0,3) \setminus \{1\}", [(0, False, 1, False), (1, False, 3, False)]),
        (r"[0,2] \cap (1,5)", [(1, False, 2, True)]),
        (r"x < 0 \text{ or } x > 1", [(-math.inf, False, 0, False), (1, False, math.inf, False)]),
        (r"x > 0 \text{ and } x \ne 1", [(0, False, 1, False), (1, False, math.inf, False)]),
        (r"\{x \mid 0 \le x\}", [(0, True, math.inf, False)]),
        (r"\mathbb{R}", [(-math.inf, False, math.inf, False)]),
    ],
)
def test_regions(text, pieces):
    answer = structure.read(exact.clean(text))
    region = structure.region_of(answer)
    assert [(float(p.low.value), p.low_closed, float(p.high.value), p.high_closed) for p in region] == pieces


def test_complement_and_intersection():
    zero, one, three = (regions.end(("num", Fraction(n))) for n in (0, 1, 3))
    region = regions.region([regions.Piece(zero, True, one, False), regions.Piece(three, True, three, True)])
    assert regions.complement(regions.complement(region)) == region
    assert regions.intersection(region, regions.complement(region)) == ()


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        ("2^{2024}-1", "2^{2024}+1", False),
        (r"10^{-40}\pi", r"2\cdot10^{-40}\pi", False),
        (r"\sqrt{3+2\sqrt{2}}-1-\sqrt{2}", "0", True),
        (r"\sqrt{x^2}", "|x|", True),
        ("|x|", "x", False),
        (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}", True),
        ("(-1)^n", r"\cos(n\pi)", True),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        ("x+y=3", "2x+2y=6", True),
        ("x+y<3", "2x+2y<6", True),
        ("x+y<3", "-x-y>-3", True),
        ("x+y<3", "-x-y<-3", False),
        ("xy=1", r"y=\frac1x", True),
        ("xy=1", r"y=\frac1{x^2}", False),
        ("x^2=1", "x=1", False),
    ],
)  # fmt: skip
def test_agreement_of_what_is_easily_confused(a, b, equal):
    assert bool(verdict.same(structure.read(exact.clean(a)), structure.read(exact.clean(b)))) is equal


def test_units():
    assert units.read("cm^2") == units.read("square centimeters") == units.read("sq cm")
    assert units.read("km/h") == units.read("kilometers per hour")
    assert units.read("m").dimension != units.read("m^2").dimension != units.read("kg").dimension
    assert units.read("apples") is None
    assert units.read("m/s/s") is None
    assert exact.same(exact.number("100 cm"), exact.number("1 m"))
    assert exact.same(exact.number("36 km/h"), exact.number("10 m/s"))
    assert exact.same(exact.number("5 cm"), exact.number("5"))
    assert not exact.same(exact.number("5 cm"), exact.number("5 kg"))


def test_an_infinity_is_no_number_whatever_sympy_says(monkeypatch):
    monkeypatch.setattr(symbolic, "verify", lambda *_, **__: True)  # as it says for some orders of its hashes
    assert not symbolic.equal(symbolic.parse(r"\sqrt{5}"), symbolic.parse(r"0^0 \cdot \infty"))
    assert symbolic.equal(symbolic.parse("1"), symbolic.parse(r"\sum_{n=1}^{\infty} \frac{1}{2^n}"))


def test_a_product_of_hundreds_of_factors_is_no_answer():
    assert math_reward.score(rf"\boxed{{{'(x+1)' * 190}}}", r"\sqrt{5}").score == 0.0
    assert math_reward.score(rf"\boxed{{{'-' * 900}x}}", r"\sqrt{5}").score == 0.0
