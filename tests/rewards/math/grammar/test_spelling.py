"""One spelling for relations, sets and counts."""

import pytest

from rlcore.rewards.math.grammar import spelling


@pytest.mark.parametrize(
    ("text", "one"),
    [(r"x \leqslant 2", "x ≤ 2"), ("x >= 2", "x ≥ 2"), (r"1 \text{ or } 2", "1 ∨ 2"), ("1 and 2", "1 ∧ 2"),
     ("3 to 4", "3:4"),
     (r"C_{5}^{2}", r"\binom{5}{2}"), ("1,000", "1000"), ("1,2", "1,2"), (r"f^{\prime}", "f'"), (r"9 \pmod{7}", "9"),
     (r"\text{no solution}", r"\emptyset"), (r"\vec{0}", "0"), (r"\mathbb{R}^+", r"(0,\infty)"), ("C(5,2)", "C(5,2)")],
)  # fmt: skip
def test_signs(text, one):
    assert spelling.signs(text) == one


def test_phrases_that_state_a_formula():
    assert spelling.phrase("all real numbers except 2") == r"\mathbb{R} \setminus \{2\}"
    assert spelling.phrase(r"\text{no solution}") == r"\emptyset"
    assert spelling.phrase("Evelyn") is None


def test_a_count_is_no_point():
    assert spelling.counted("C(10, 3)") == r"\binom{10}{3}"
