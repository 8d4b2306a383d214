"""Equality of formulas: small terms next to large ones, and equal values that look different."""

import pytest

from rlcore.rewards.math import score
from rlcore.rewards.math.values import exact, structure, verdict
from rlcore.types import Status

DIFFERENT = [
    ("(a+b+c+d+e+f+g+h)^{40}+1", "(a+b+c+d+e+f+g+h)^{40}"),
    (r"[2^{1/2^{1000}}, \infty)", r"[1, \infty)"),
    ("1/2006!", "1/2004!"),
    (r"\pi+10^{-400}", r"\pi"),
    ("1+e^{-1000}", "1"),
    (r"\sqrt{2}+10^{-100}", r"\sqrt{2}"),
    ("x+10^{-400}", "x"),
    (r"\sin x + 10^{-60}", r"\sin x"),
    ("2^{1/2^{4000}}", "1"),
    (r"[1+2^{-1000}, \infty)", r"[1, \infty)"),
    ("x^{1000}+x", "x^{1000}"),
    (
        r"\frac{31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679}{10^{100}}",
        r"\pi",
    ),
    (r"10^{30}+\pi-10^{30}", "3"),
    ("e^{x}+e^{-1000}", "e^{x}"),
    ("(x+y)^{500}+x", "(x+y)^{500}"),
    (r"\frac{x^{100}-1}{x-1}+10^{-300}", r"\frac{x^{100}-1}{x-1}"),
    ("10^{5000}+1", "10^{5000}"),
    ("1+10^{-5000}", "1"),
    ("(1,2+10^{-50})", "(1,2)"),
    ("x > 1+10^{-50}", "x>1"),
    ("x+y=1+10^{-60}", "x+y=1"),
    ("x^2+y^2=1+10^{-60}", "x^2+y^2=1"),
    (r"\{1, 2+e^{-300}\}", r"\{1,2\}"),
    (r"\frac{1}{\sqrt{2}}+\frac{1}{10^{40}}", r"\frac{\sqrt{2}}{2}"),
    (r"e^{\pi\sqrt{163}}", "262537412640768744"),
    ("1+e^{-100000}", "1"),
    ("1+e^{-10^6}", "1"),
    (r"\cos(10^{-30})", "1"),
    ("10^{20}x+1", "10^{20}x"),
    ("2^{10000}x+1", "2^{10000}x"),
    ("x^{10^{9}}+1", "x^{10^{9}}"),
    (r"\tanh(200)", "1"),
    (r"\sqrt{10^{100}+1}", "10^{50}"),
    (r"\begin{pmatrix}1\\10^{-99}\end{pmatrix}", r"\begin{pmatrix}1\\0\end{pmatrix}"),
    ("(0, 10^{-80})", "(0,0)"),
    ("|x|<1+10^{-70}", "-1<x<1"),
    ("y=10^{-50}x", "y=0"),
    (r"\sum_{k=1}^{\infty}\frac{1}{2^k}+10^{-60}", "1"),
]


EQUAL = [
    ("(a+b)^{40}(a+b)", "(a+b)^{41}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"\sqrt{5+2\sqrt{6}}", r"\sqrt2+\sqrt3"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"10^{30}+\pi-10^{30}", r"\pi"),
    (r"2\sin x\cos x", r"\sin 2x"),
    (r"\sqrt[3]{2+\sqrt5}-\sqrt[3]{\sqrt5-2}", "1"),
    (r"\frac{x^{100}-1}{x-1}(x-1)", "x^{100}-1"),
    (r"[\sqrt{4}, \infty)", r"[2, \infty)"),
    (r"[\frac{2}{\sqrt2},\infty)", r"[\sqrt2,\infty)"),
    (r"e^{i\pi}", "-1"),
    (r"\frac{1}{2004!}", "1/2004!"),
    (r"\tan\frac{\pi}{8}", r"\sqrt2-1"),
    (r"\frac{e^x+e^{-x}}{2}", r"\cosh x"),
    (r"\ln(x^2)", r"2\ln x"),
    ("(x+y)^{500}", "(y+x)^{500}"),
    ("2^{10000}", "4^{5000}"),
    (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}"),
    (r"\frac{\sqrt6}{2}", r"\sqrt{1.5}"),
    (r"x > \frac{1}{3}", "3x>1"),
    ("|x|<2", "-2<x<2"),
    (r"\arctan 1", r"\frac\pi4"),
    (r"\log_2 8", "3"),
    ("0.8660254", r"\frac{\sqrt3}{2}"),
    (r"\sqrt{x^2+2x+1}", "|x+1|"),
    ("e^{-1000}", r"\frac{1}{e^{1000}}"),
    ("e^{1000}+1", "1+e^{1000}"),
    (r"(1+\sqrt2)^{10}", r"3363+2378\sqrt2"),
    (r"\sinh(\ln 2)", r"\frac34"),
    (r"\frac{\pi^2}{6}", r"\sum_{n=1}^{\infty}\frac{1}{n^2}"),
    ("10^{-400}", r"\frac{1}{10^{400}}"),
    (r"\cos(\frac{\pi}{2})", "0"),
    ("2^{x}2^{y}", "2^{x+y}"),
    ("x^{1/2}", r"\sqrt{x}"),
    (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n}k"),
    (r"\frac{a^2-b^2}{a-b}", "a+b"), (r"\frac{1}{1-\frac{1}{x}}", r"\frac{x}{x-1}"), ("2x+2y=2", "x+y=1"),
    (r"(x-1)(x+1)=0", "x^2=1"), (r"\binom{100}{50}", r"\frac{100!}{50! 50!}"), ("3^{3^{7}}", "27^{3^{6}}"),
    (r"(-\infty, \frac{1}{3}) \cup (\frac{1}{3}, \infty)", r"\mathbb{R} \setminus \{\frac13\}"),
]  # fmt: skip


def show(pair):
    return f"{pair[0]} | {pair[1]}"[:60]


@pytest.mark.parametrize("pair", DIFFERENT, ids=show)
def test_different(pair):
    for answer, reference in (pair, pair[::-1]):
        result = score(rf"\boxed{{{answer}}}", reference, "boxed")
        assert (result.score, result.status) == (0.0, Status.OK), (answer, reference)


@pytest.mark.parametrize("pair", EQUAL, ids=show)
def test_equal(pair):
    for answer, reference in (pair, pair[::-1]):
        result = score(rf"\boxed{{{answer}}}", reference, "boxed")
        assert (result.score, result.status) == (1.0, Status.OK), (answer, reference)


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
