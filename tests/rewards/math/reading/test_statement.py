"""What a text says its answer is."""

import pytest

from rlcore.rewards.math.reading import statement


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("The answer is 12.", "12"), ("**Answer:** 12 apples", "12 apples"), ("<answer>12</answer>", "12")],
        *[("答案：24", "24"), ("La réponse est 3,5.", "3,5"), ("Die Antwort lautet 20.", "20"), ("Ответ: 31", "31")],
        *[("The correct answer is (B) 12.", "(B) 12"), ("The answer is B because 3 > 2.", "B")],
        *[("Answer: 2 bags hold 6. He has 5 bags. So he has 15.", "15"), ("Answer:\n$$\nx = 3\n$$", "x = 3")],
        *[("The answer is 14% of 50, which is 7.", "7"), ("The answer is 84!", "84")],
    ],
)
def test_statement(text, value):
    said = statement.last(text)
    assert said is not None
    assert said.value == value
