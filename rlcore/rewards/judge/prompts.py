"""What a judge is asked: templates, filled without touching braces in the texts of users and models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlcore.rewards.judge.config import JudgeConfig, JudgeReading, RubricConfig
from rlcore.types import REFERENCES, Prompt, Status

Messages = list[dict[str, str]]
_PLACE = re.compile(r"\{(prompt|response|reference|response_a|response_b|rubric|low|high)\}")

_SCORE_QUESTION = """Rate the response to the prompt below. What counts: {rubric}

[Prompt]
{prompt}
[End of prompt]

[Response]
{response}
[End of response]

"""
_PAIR_QUESTION = """Two assistants answered the prompt below. Decide which response is better: more helpful, correct, \
relevant and clear. Neither their order nor their length must matter.

[Prompt]
{prompt}
[End of prompt]

[Response A]
{response_a}
[End of response A]

[Response B]
{response_b}
[End of response B]

"""
DEFAULTS = {
    ("pointwise", JudgeReading.text): _SCORE_QUESTION
    + "Explain in a few sentences. Then write, as the last line, your rating from {low} to {high} in double brackets, "
    "in the form [[rating]].",
    ("pointwise", JudgeReading.choice): _SCORE_QUESTION
    + "Answer with a whole number from {low} to {high} and nothing else.",
    ("pairwise", JudgeReading.text): _PAIR_QUESTION
    + "Explain in a few sentences. Then write, as the last line, your verdict: [[A]] if response A is better, [[B]] if "
    "response B is better, [[C]] if they are equally good.",
    ("pairwise", JudgeReading.choice): _PAIR_QUESTION + "Answer with A or B, the better response, and nothing else.",
}
REFERENCE = "[Reference answer, known to be good]\n{reference}\n[End of reference answer]\n\n"
REMINDERS = {
    "pointwise": "That holds no rating. Write one line: your rating from {low} to {high} in double brackets.",
    "pairwise": "That holds no verdict. Write one line: [[A]], [[B]] or [[C]].",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said, or why it said nothing."""

    text: str = ""
    status: Status = Status.OK
    error: str = ""  # where the status is not OK
    finish_reason: str = "stop"  # "stop" | "length"
    logprobs: tuple[float, ...] = ()  # of the choices, in their order; -inf: unlikelier than all that was reported


class Completer(Protocol):
    """Anything that goes on from prompts: an engine, an endpoint. May be called from several threads."""

    def complete(
        self,
        prompts: Sequence[str | Messages],
        max_tokens: int,
        temperature: float = 0.0,
        choices: Sequence[str] = (),
    ) -> list[Reply]:
        """A reply to every prompt, in order; a prompt that could not be answered has a status, and raises nothing.

        Args:
            choices: answers of one token each. If given, one token is generated and `Reply.logprobs` are those of the
                choices; `Reply.text` is the likeliest.
        """
        ...

    def limit_s(self, num_prompts: int) -> float:
        """Seconds in which `complete` on so many prompts must have ended."""
        ...


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Puts values in place of `{name}`, in one pass: braces inside the values, and other braces, stay.

    >>> fill("{prompt} {x} {response}", {"prompt": "{response}", "response": "{}"})
    '{response} {x} {}'
    """
    return _PLACE.sub(lambda m: str(values[m[1]]) if m[1] in values else m[0], template)


@dataclass(frozen=True, slots=True)
class Question:
    """One response to be rated."""

    prompt: str
    response: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to be compared."""

    prompt: str
    response_a: str
    response_b: str
    reference: str | None = None

    @property
    def swapped(self) -> Comparison:
        return Comparison(self.prompt, self.response_b, self.response_a, self.reference)


def question_of(prompt: Prompt, config: JudgeConfig) -> str:
    """The prompt as the judge is shown it: the row's column `prompts.column`, else as the policy sees it."""
    found = prompt.metadata.get(config.prompts.column) if config.prompts.column else None
    return prompt.text if found is None else str(found)


def reference_of(prompt: Prompt) -> str | None:
    """The reference as the judge is shown it: all acceptable answers, where there are several."""
    accepted = prompt.metadata.get(REFERENCES)
    several = isinstance(accepted, list) and prompt.reference in accepted
    return "\nor\n".join(map(str, accepted)) if several and accepted else prompt.reference


def ask_score(question: Question, rubric: RubricConfig, config: JudgeConfig) -> Messages:
    template = config.prompts.pointwise or DEFAULTS["pointwise", config.reading.how]
    values = {"prompt": question.prompt, "response": question.response, "rubric": rubric.text}
    return _asked(template, values, question.reference, config)


def ask_pair(pair: Comparison, config: JudgeConfig) -> Messages:
    template = config.prompts.pairwise or DEFAULTS["pairwise", config.reading.how]
    values = {"prompt": pair.prompt, "response_a": pair.response_a, "response_b": pair.response_b}
    return _asked(template, values | {"rubric": " ".join(r.text for r in config.rubrics)}, pair.reference, config)


def remind(asked: Messages, reply: str, mode: str, config: JudgeConfig) -> Messages:
    """The conversation that goes on after an answer without verdict."""
    text = fill(config.prompts.reminder or REMINDERS[mode], _scale(config))
    return [*asked, {"role": "assistant", "content": reply}, {"role": "user", "content": text}]


def _asked(template: str, values: dict[str, str], reference: str | None, config: JudgeConfig) -> Messages:
    if reference is not None and "{reference}" not in template:
        template = (config.prompts.reference or REFERENCE) + template
    text = fill(template, {**values, "reference": reference or "", **_scale(config)})
    system = [{"role": "system", "content": config.prompts.system}] if config.prompts.system else []
    return [*system, {"role": "user", "content": text}]


def _scale(config: JudgeConfig) -> dict[str, int]:
    return {"low": config.scale.low, "high": config.scale.high}


def plain(prompt: str | Messages) -> str:
    """Messages for a model without chat template: their texts, a blank line apart and one at the end."""
    return prompt if isinstance(prompt, str) else "".join(f"{m['content']}\n\n" for m in prompt)
