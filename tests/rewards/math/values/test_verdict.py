"""Whether two structured answers are the same."""

import pytest

from rlcore.rewards import math as math_reward
from rlcore.rewards.math.values import exact, structure, verdict


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


def test_a_product_of_hundreds_of_factors_is_no_answer():
    assert math_reward.score(rf"\boxed{{{'(x+1)' * 190}}}", r"\sqrt{5}").score == 0.0
    assert math_reward.score(rf"\boxed{{{'-' * 900}x}}", r"\sqrt{5}").score == 0.0
