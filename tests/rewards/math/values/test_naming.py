"""Units behind formulas, and names of values."""

import pytest

from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.grammar.tokens import Unreadable
from rlcore.rewards.math.values import naming


def test_the_unit_behind_a_formula():
    assert naming.unit(r"2\sqrt{3}\text{ cm}") == units.read("cm")
    assert naming.unit(r"2\pi \text{ red apples}") == units.counted(["red", "apples"])
    assert naming.unit(r"2\sqrt{3}") is None
    assert naming.without_unit(r"2\sqrt{3}\text{ cm}^2") == r"2\sqrt{3}"


@pytest.mark.parametrize("tail", ["or 7", "dozen", "hundredths", "k", "not", "if lucky"])
def test_what_is_no_unit(tail):
    with pytest.raises(Unreadable, match="another value"):
        naming.without_unit(rf"2\sqrt{{3}}\text{{ {tail}}}")


@pytest.mark.parametrize(
    ("text", "word"),
    [("score = 5", True), (r"\text{is right} = 5", True), ("5 = reward", True), (r"score \approx 5", True),
     ("x = 5", False), (r"v_{\text{max}} = 5", False), (r"P(\text{heads}) = 5", False), (r"\sin x = 5", False),
     ("5", False), (r"\angle ABC = 5", False),
     ("x = 5 and y = 6", False), ("? = 5", True), (r"x = 5 \text{ apples}", False)],
)  # fmt: skip
def test_a_word_is_no_name_of_a_value(text, word):
    assert naming.assigned_to_word(text) is word
