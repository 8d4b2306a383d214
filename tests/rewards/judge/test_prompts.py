"""Templates and questions for judges."""

from rlcore.rewards.judge.config import (
    JudgeConfig,
    RubricConfig,
)  # fmt: skip
from rlcore.rewards.judge.prompts import Comparison, Question, ask_pair, ask_score, question_of
from rlcore.templates import render
from rlcore.types import Prompt
from tests.rewards.judge.cases import config


def test_braces_of_users_survive_and_are_not_filled_again():
    asked = ask_score(Question("{response} {}", r"\boxed{1} {prompt} {x:1}"), RubricConfig(text="{low}"), JudgeConfig())
    assert "[Prompt]\n{response} {}\n[End of prompt]" in asked[0]["content"]
    assert "[Response]\n\\boxed{1} {prompt} {x:1}\n[End" in asked[0]["content"]
    assert "What counts: {low}\n" in asked[0]["content"]
    assert "from 1 to 10" in asked[0]["content"]
    assert render("{a} {prompt}", prompt="{a}") == "{a} {a}"


def test_the_reference_is_shown_where_there_is_one_and_where_the_template_says():
    own = config()
    assert "known to be good" not in ask_pair(Comparison("p", "a", "b"), own)[0]["content"]
    assert "known to be good]\n{r}\n" in ask_pair(Comparison("p", "a", "b", "{r}"), own)[0]["content"]
    own.prompts.pairwise, own.prompts.system = "{response_b}|{reference}|{response_a}", "You judge."
    system, user = ask_pair(Comparison("p", "a", "b", "r"), own)
    assert (system["content"], user["content"]) == ("You judge.", "b|r|a")


def test_the_bare_question_comes_from_a_column():
    own = config()
    prompt = Prompt("u", (1,), "<user>q<end>", metadata={"question": "q"})
    assert question_of(prompt, own) == "<user>q<end>"
    own.prompts.column = "question"
    assert question_of(prompt, own) == "q"
