"""What a text without a marked answer concludes."""

import pytest

from rlcore.rewards.math.reading import conclusion


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She has 33 stamps.\n\nI hope this helps! Ask about question 5 as well.", "33"),
        ("So x is 33.\n\nCheck: 33 * 2 = 66 and 66 + 4 = 70.", "33"),
        ("First double it to get 8. Then we need to subtract the", None),
        ("The first part is 60. In the second part it covers", None),
        ("The sides are 3 and 5. I do not know.", None),
        ("I do not know for sure. So I guess 5.", "5"),
        ("The speed is 60; now we only need to multiply.", None),
    ],
)
def test_conclusion(text, value):
    assert conclusion.final(text) == value
