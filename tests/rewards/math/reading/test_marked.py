"""Answers at a marked place, and what may stand before and behind it."""

import pytest

from rlcore.rewards.config import MathAnswer
from rlcore.rewards.math.reading import marked
from rlcore.rewards.math.values import exact

# (response, what is found)
EXTRACTED = [
    ("42", "42"), (" 42 \n", "42"), ("-3/4", "-3/4"), (r"\boxed{7}", "7"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"first \boxed{1}, but wait: \boxed{2}", "2"), (r"\boxed{1}, \boxed{2}", "1, 2"), (r"\boxed 5", "5"),
    (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"), (r"\boxed{2}, \boxed{2}", "2"), (r"\fbox{3}", "3"),
    (r"\boxed{\boxed{5}}", "5"), (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{1}. Let y = \boxed{2", None), ("<answer>4!</answer>", "4!"), ("Some steps.\n#### 72", "72"),
    ("#### 1,000\n", "1,000"), ("#### $18", "$18"),
    ("The answer is 12.", "12"), ("The answer is: 12", "12"), ("The final answer is $\\frac{3}{4}$.", r"\frac{3}{4}"),
    ("Answer: C", "C"), ("**Answer:** 42", "42"), ("**Answer: 42**", "42"), ("The answer is (B).", "B"),
    ("The correct answer is B) because 3 > 2", "B"), ("Final Answer: 3.5", "3.5"), ("Answer:\n17", "17"),
    ("The answer is 3. Let me check 4.", "3"), ("The answer is 5 apples", "5 apples"),
    ("so the answer is x = 5", "x = 5"),
    ("The answers are $1$ and $2$.", "1, 2"), ("<answer>8</answer>", "8"), ("I add 3 and 4 to get 7", "7"),
    ("2 + 3 = 5", "5"), ("She pays $1,250.50 in all.", "$1,250.50"), ("I get $x^2+1$ then.", "x^2+1"),
    ("Hence $a = b = 12$.", "12"), ("It is 3/4 of it", "3/4"), ("about 25% more", "25%"),
    ("it costs 2 1/2 pounds", "2 1/2"),
    ("<think>maybe 41</think>42", "42"), ("<think>\\boxed{41}</think> The answer is 42", "42"),
    ("so 41</think>42", "42"),
    ("<think>no end \\boxed{42}", None), ("<think>a</think><think>42", None), ("", None), ("   ", None),
    ("no idea at all", None), ("y^2 = 4x", "y^2 = 4x"), (r"\[ \frac{7}{2} \]", r"\frac{7}{2}"),
    ("the answer is 4\nNo: the answer is 5", "5"), ("74+85=501", "501"), ("It weighs 5 x 10^-2 kg", "5 x 10^-2"),
    ("in total 6.02e23 of them", "6.02e23"), ("a half, that is ½", "½"), ("**42**", "42"),
]  # fmt: skip


@pytest.mark.parametrize(("response", "found"), EXTRACTED, ids=lambda x: repr(x)[:40])
def test_extraction(response, found):
    answer, _ = marked.freely(response)
    assert (None if answer is None else exact.clean(answer)) == (None if found is None else exact.clean(found))


def strictly(response, where="boxed"):
    return marked.read(response, MathAnswer(where))


@pytest.mark.parametrize(
    "before",
    ["-", "1", "2^", r"$\sqrt{", r"3 \cdot ", r"x \ne ", "$x < ", "$9 = ", "~~", "half of ", "or ",
     "It is not ",
     "Never write ", "at most ", "close to ", "Maybe it is ", "The wrong answer is ", "9, ", "9 or "],
)  # fmt: skip
def test_what_changes_an_answer_before_its_mark(before):
    assert strictly(before + r"\boxed{8}") is None
    assert marked.freely(before + r"\boxed{8}")[0] in (None, "9, 8")


@pytest.mark.parametrize(
    "before",
    ["Since x is not 9, it is ", "It is not 9 but ", r"$2^3 = ", r"$x = ", "- ", "**Answer:** ", r"\$",
     r"$\implies x = ",
     "A value between 5 and 9: ", "At least one of them is ", "The number of primes less than 20 is ", "> $"],
)  # fmt: skip
def test_what_does_not(before):
    assert strictly(before + r"\boxed{8}") == "8"


@pytest.mark.parametrize(
    "after",
    [" + 1", "^2", "/7", r" \times 10", " dozen", " hundred", r" \ne x", "? I doubt it.", " or 9", " is wrong.",
     " fails.",
     ". No, 9.", ". Strike that.", "⏎The opposite holds.", " at most", " plus one", ". It is 9.", ", 9", "0", ".5",
     "-9"],
)  # fmt: skip
def test_what_changes_or_takes_back_an_answer_behind_its_mark(after):
    after = after.replace("⏎", "\n")
    assert strictly(rf"\boxed{{8}}{after}") is None
    assert strictly(f"<answer>8</answer>{after}", "tagged") is None
    assert marked.freely(rf"\boxed{{8}}{after}")[0] is None


@pytest.mark.parametrize(
    "after",
    ["$.", r"\]", "**", " cm", r"\text{ cm}^2", r"^\circ", r"\%", " ways", " apples left over", " rolls are left.",
     " a day",
     " is the only solution.", ", as required.", " because 2 + 6 is that many.", r", where $C$ is a constant.",
     " = 8.0",
     "⏎⏎I hope this helps!", "⏎So the answer is 8.", ". Let me check: 2 + 6 = 8.", ", or 16/2.", "<|im_end|>"],
)  # fmt: skip
def test_what_may_follow_an_answer(after):
    assert strictly(rf"So there are \boxed{{8}}{after}".replace("⏎", "\n")) == "8"


def test_remarks_with_numbers_may_follow_when_it_is_read_freely():
    for after in (" Note that 11 would be large.", " There are 24 hours in a day.", ", and $6$ is its root."):
        assert strictly(rf"\boxed{{8}}{after}") is None
        assert marked.freely(rf"\boxed{{8}}{after}") == ("8", False)


def test_a_mark_that_is_corrected_once_counts_when_it_is_read_freely():
    text = r"I say \boxed{7}. Wait, that is wrong: \boxed{8}."
    assert strictly(text) is None
    assert marked.freely(text) == ("8", False)
    assert marked.freely(text + r" No, \boxed{7}.") == (None, True)


def test_thoughts_and_code_hold_no_answer():
    assert marked.read("<think>\\boxed{1}</think>\\boxed{2}", MathAnswer.boxed) == "2"
    assert marked.read("<think>\\boxed{1}", MathAnswer.boxed) is None
    assert marked.read("```\n\\boxed{1}\n```", MathAnswer.boxed) is None
    assert marked.read("```\n\\boxed{1}\n```\n\\boxed{2}", MathAnswer.boxed) is None
    assert marked.read("<think><answer>1</answer></think><answer>2</answer>", MathAnswer.tagged) == "2"
    assert marked.read("<answer>1</answer><answer>", MathAnswer.tagged) is None
    assert marked.read("<think>#### 1</think>\n#### 2", MathAnswer.hashes) == "2"


REMARKS = [
    ("1210", "Check: $11^2 \\cdot 10 = 1210$. ✓"),
    ("1210", "As a test, with $n = 3$ the formula gives 27, as it should."),
    (r"\frac{1}{4}", "In other words, one in four."),
    (r"\sqrt{5}", r"This is about $2.236$."),
    ("3x + 1", r"Its graph meets the axis at $-1/3$ and rises by 3 for each unit."),
    ("12", "The first 5 go to Ann and the remaining 7 to Ben."),
    ("Ann", "Ben came second and Carl third."),
    ("8", "For example $n = 1$ gives 2 and $n = 2$ gives 4, which follows the pattern."),
    ("8", "The left side is not larger than the right side at any of these points."),
    (r"\sin^2 x", "Both follow by the Pythagorean identity."),
    ("17", "The key idea was that the remainders repeat with period 4."),
    ("2500", "If you want it in hectares, divide by 10,000."),
    ("[-2, 7]", "This interval has both of its ends because the inequality is not strict."),
]
REVISIONS = [
    "It is 9.", "So 9 it is.", "Hence 9.", "9", "$9$", "My own result is 9.", "The key has 9.", "Others get 9.",
    "If $x < 0$ the value is 9.", "Another reading gives 9.", "Some would give 9.", "Or 9.", "It is 8 or 9.",
    "Perhaps 9.",
    "The true value is 9.", "That is false.", "This cannot be right.", "I am not certain.", "However, 9 works as well.",
    "The answer is 9.", "Final: 9", r"\boxed{9", "No, 9.", "Then again, it might be 9.",
]  # fmt: skip


@pytest.mark.parametrize(("content", "remark"), REMARKS)
def test_later_sentences_that_leave_the_answer_alone(content, remark):
    """Half of all models go on to check or restate what they have found."""
    assert marked.read(f"$\\boxed{{{content}}}$\n\n{remark}", MathAnswer.boxed) == content
    assert marked.read(f"<answer>{content}</answer>\n{remark}", MathAnswer.tagged) == content


def test_a_rounded_value_may_follow_in_the_same_sentence():
    assert marked.read(r"so it is $\boxed{\sqrt{13}}$, about $3.606$.", MathAnswer.boxed) == r"\sqrt{13}"
    assert marked.read(r"so it is $\boxed{\sqrt{13}}$, about $3.9$.", MathAnswer.boxed) is None


@pytest.mark.parametrize("remark", REVISIONS)
def test_later_sentences_that_revise_it(remark):
    assert marked.read(f"$\\boxed{{8}}$\n\n{remark}", MathAnswer.boxed) is None
    assert marked.read(f"<answer>8</answer>\n{remark}", MathAnswer.tagged) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [("8", "8"), (r"\boxed{8}", "8"), ("Answer: 8", "8"), ("The final answer is 8", "8"), (r"\boxed{8} or 9", None)],
)
def test_a_hash_line_may_hold_a_label_or_a_box(line, found):
    assert marked.read(f"2 + 6 = 8\n#### {line}", MathAnswer.hashes) == found


@pytest.mark.parametrize("line", ["8 is too small", "I doubt that it is 8", "8 is what Ann paid, Ben paid less"])
def test_a_marked_sentence_about_the_answer_is_hedged_in_prose_too(line):
    assert marked.freely(f"2 + 6 = 8\n#### {line}")[1]
    assert marked.freely(f"<answer>{line}</answer>")[1]
