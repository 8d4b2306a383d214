import math

import pytest

from rlcore.data.rewriting.question import QuestionConfig, questions
from rlcore.problems import setting_problems
from rlcore.types import Prompt, Sample

ASKED = QuestionConfig("{prompt}{response}?", {"y": 1.0, "n": 0.0})


def tokens(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def ask(text: str) -> tuple[str, tuple[int, ...]]:
    return f"<{text}>", tokens(f"<{text}>")


def test_one_record_per_answer() -> None:
    plain = Sample(Prompt("p", (1,), "1+1="), "p#0", "2", (2, 0))
    templated = Sample(Prompt("q", (1,), "<user>1+2=<end>", metadata={"raw_prompt": "1+2="}), "q#0", "{prompt}", (2,))
    made = questions([plain, templated], ASKED, ask, tokens)
    assert [s.sample_id for s in made] == ["p#0?y", "p#0?n", "q#0?y", "q#0?n"]
    assert [s.text for s in made] == ["y", "n", "y", "n"]
    assert [s.token_ids for s in made] == [(121,), (110,)] * 2
    assert [s.prompt.text for s in made] == ["<1+1=2?>"] * 2 + ["<1+2={prompt}?>"] * 2  # braces of a response stay
    assert made[2].prompt.token_ids == tokens("<1+2={prompt}?>")
    assert [s.prompt.uid for s in made] == ["p", "p", "q", "q"]


def test_the_default_works() -> None:
    assert not list(setting_problems(QuestionConfig()))
    (yes, no) = questions([Sample(Prompt("p", (1,), "Say hi."), "p#0", "Hi!", (2,))], QuestionConfig(), ask, tokens)
    assert "Say hi." in yes.prompt.text
    assert "Hi!" in yes.prompt.text
    assert (yes.text, no.text) == ("yes", "no")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (QuestionConfig("{prompt}?"), "lacks {response}"),
        (QuestionConfig("{prompt}{response}{critique}"), "{critique} has no value"),
        (QuestionConfig(answers={"y": 1.0}), "at least two"),
        (QuestionConfig(answers={"y": 1.0, "": 0.0}), "none empty"),
        (QuestionConfig(answers={"y": 1.0, "n": math.nan}), "must be a finite number"),
    ],
)
def test_what_cannot_work(config: QuestionConfig, said: str) -> None:
    (found,) = setting_problems(config)
    assert said in str(found)
    with pytest.raises(ValueError, match="question\\."):
        questions([], config, ask, tokens)
