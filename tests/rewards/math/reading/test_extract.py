"""Finding the answer in prose, piece by piece: values of a text, the claim of a sentence, statements, conclusions."""

import time

import pytest

from rlcore.rewards.math.reading import claim, conclusion, extract, quantities, statement


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It leaves at 3:30 PM for $1,250.50.", ["3:30 PM", "$1,250.50"]),
        ("The profit is $200 - $130 = $70.", ["$200", "$130", "$70"]),
        (r"Thus $x = 3$ and \(y = 4\).", ["x = 3", "y = 4"]),
        ("the points (2, 5) and (0, -1)", ["(2, 5)", "(0, -1)"]),
        ("1 500 of 12,000, or 25π, or 2√3", ["1 500", "12,000", "25π", "2√3"]),
        ("3,5 Stunden, 2 1/2 cups, 6 x 10^4 J", ["3,5", "2 1/2", "6 x 10^4"]),
        ("the 23rd of a 6-sided die in CO2", []),
        ("12x and 5 cm", ["5"]),
        ("一共有14本书", ["14"]),
    ],
)
def test_values(text, found):
    assert [value.inner for value in quantities.values(text)] == found


@pytest.mark.parametrize(
    ("words", "number"),
    [
        *[("twelve ways", "12"), ("one third of it", "1/3"), ("two-thirds", "2/3"), ("minus five", "-5")],
        *[("twenty-one", "21"), ("infinity", r"\infty"), ("half", "1/2"), ("forty percent", "40%"), ("a dog", None)],
    ],
)
def test_numbers_in_words(words, number):
    assert quantities.spelt(words) == number


@pytest.mark.parametrize(
    ("formula", "side"),
    [
        *[("1 + 2 = 3", "3"), ("x = 3", "x = 3"), ("y^2 = 4x", "y^2 = 4x"), ("3*5 = 15, 15 + 2 = 17", "17")],
        *[(r"2x = 10 \Rightarrow x = 5", "x = 5"), (r"a &= 4 + 7 \\ &= 11", "11"), (r"(1+1/n)^n \to e", "e")],
        *[(r"x &= 2 \\ y &= 3", "x = 2, y = 3"), (r"\lim_{x \to 0} x", r"\lim_{x \to 0} x")],
    ],
)
def test_last_side(formula, side):
    assert quantities.last_side(formula).replace("  ", " ") == side


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
        ("It is not 77.", None),
        ("7 is not the answer.", None),
        ("It is greater than 4.", None),
    ],
)
def test_main_value_of_a_sentence(sentence, value):
    assert claim.main(sentence) == value


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("The answer is 12.", "12"), ("**Answer:** 12 apples", "12 apples"), ("<answer>12</answer>", "12")],
        *[("答案：24", "24"), ("La réponse est 3,5.", "3,5"), ("Die Antwort lautet 20.", "20"), ("Ответ: 31", "31")],
        *[("The correct answer is (B) 12.", "(B) 12"), ("The answer is B because 3 > 2.", "B")],
        *[("Answer: 2 bags hold 6. He has 5 bags. So he has 15.", "15"), ("Answer:\n$$\nx = 3\n$$", "x = 3")],
        *[("The answer is 14% of 50, which is 7.", "7"), ("<answer>4!</answer>", "4!"), ("The answer is 84!", "84")],
    ],
)
def test_statement(text, value):
    said = statement.last(text)
    assert said is not None
    assert said.value == value


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("The answer is 12. Wait, that is wrong. So there are 14 of them.", "14"),
        ("The answer is 12. Wait, let me check: 3 * 4 = 12. Yes, so 12 it is; not 13.", "12"),
        ("The answer is 12. Oops, that is wrong.", None),
        ("You might think the answer is 5. It is actually 6.", "6"),
        (r"\boxed{12}. Hmm, I made a mistake: it should be 14.", "14"),
        ("#### 3\n\nQuestion: A farmer has 12 cows.\nAnswer: 8\n#### 8", "3"),
        ("The answer is 4.\n\nHuman: And 2 + 3?\nAssistant: The answer is 5.", "4"),
        ("#### Step 1: add 3 and 4\nSo it is 7.", "7"),
        ("```python\nprint(5)\n```", None),
        ("```python\nprint(4 + 1)\n```\nOutput:\n```\n5\n```", "5"),
        (r"\boxed{1} \boxed{2}", "1, 2"),
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
