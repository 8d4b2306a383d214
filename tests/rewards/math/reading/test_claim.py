"""The value that one sentence states."""

import pytest

from rlcore.rewards.math.reading import claim


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("So Priya has 64 stickers left out of the original 128.", "64"),
        ("It takes the pump 9 hours to fill the tank of 450 litres.", "9"),
        ("The value of the expression is 14 when x = 2.", "14"),
        ("They sell 18 and 20, for a total of 38.", "38"),
        ("The price dropped from $50 to $40, a decrease of 20%.", "20%"),
        ("The roots are 2 and -3.", "2, -3"),
        ("So x = 1 and y = 2.", "x = 1 and y = 2"),
        ("The answer is 24 rather than 42.", "24"),
        ("It is not 18 but 20.", "20"),
        ("The speed is 72 km/h (that is 20 m/s).", "72 km/h"),
        ("The hall has **42 seats** in 7 rows.", "42"),
        ("The line is y = 3x - 2.", "y = 3x - 2"),
        ("The side is 5√3 cm, or roughly 8.66 cm.", r"5√3 cm \approx 8.66 cm"),
        ("So there are twelve such ways.", "12"),
        ("See step 3.", None),
    ],
)
def test_main_value_of_a_sentence(sentence, value):
    assert claim.main(sentence) == value
