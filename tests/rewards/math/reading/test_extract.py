"""Finding the answer in prose."""

import time

import pytest

from rlcore.rewards.math.reading import extract


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("The answer is 12. Wait, that is wrong. So there are 14 of them.", "14"),
        ("The answer is 12. Wait, let me check: 3 * 4 = 12. Yes, so 12 it is; not 13.", "12"),
        ("The answer is 12. Oops, that is wrong.", None),
        ("You might think the answer is 5. It is actually 6.", "6"),
        ("The answer is 4.\n\nHuman: And 2 + 3?\nAssistant: The answer is 5.", "4"),
        ("#### Step 1: add 3 and 4\nSo it is 7.", "7"),
        ("```python\nprint(5)\n```", None),
        ("```python\nprint(4 + 1)\n```\nOutput:\n```\n5\n```", "5"),
        ("250 grams.\n\nThe recipe for 4 needs 1000 grams.", "250 grams"),
    ],
)
def test_answer(response, found):
    assert extract.answer(response) == found


def test_phrases_only_where_nothing_is_stated():
    assert "Tuesday" in extract.phrases("So it will be a Tuesday.")
    assert "Maria" in extract.phrases("Therefore, Maria finished first.")
    assert extract.phrases("The answer is Tuesday.") == []
    assert "Tuesday" not in extract.phrases("So it is a Wednesday, not a Tuesday.")


@pytest.mark.parametrize(
    "piece",
    ["\nquestion: ", "```", "```py\n", r"\begin{align}", "(1,2", "1:1", "one hundred ", "x = 1 and ", "so 5 but not ",
     "**5** ", "wait, that is wrong. so 5. ", "答案是", "1 000 ", "= ", "in the first ", "let me check ", "5 (is it ",
     "14% of 5 which is ", "1 or ", "2x = 10 \\to ", "answer: (B) 5 ", "____", "is the ", "no. ",
     "the ratio is 1 to ", "a 1 to "],
)  # fmt: skip
def test_the_search_costs_its_length(piece):
    text = piece * (100_000 // len(piece))
    for response in (text, f"The answer is 5. {text}", f"{text} So it is 5."):
        begun = time.process_time()
        extract.answer(response)
        assert time.process_time() - begun < 2.0
