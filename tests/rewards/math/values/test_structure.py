"""Answers that are more than one formula."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.rewards import math as math_reward
from rlcore.rewards.math.values import exact, structure, verdict


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
