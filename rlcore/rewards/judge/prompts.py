"""Prompts for judges: templates, filled without changing braces in texts of users and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlcore.rewards.judge.config import JudgeConfig, JudgeReading, RubricConfig
from rlcore.templates import render
from rlcore.types import REFERENCES, Prompt, Status

Messages = list[dict[str, str]]

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
    """The reply of a judge, or the reason why there is none."""

    text: str = ""
    status: Status = Status.OK
    error: str = ""  # if the status is not OK
    finish_reason: str = "stop"  # "stop" | "length"
    logprobs: tuple[float, ...] = ()  # log-probs of the choices, in order; -inf: not among the reported tokens


class Completer(Protocol):
    """Completes prompts: an engine or an endpoint. Must be thread-safe."""

    def complete(
        self,
        prompts: Sequence[str | Messages],
        max_tokens: int,
        temperature: float = 0.0,
        choices: Sequence[str] = (),
    ) -> list[Reply]:
        """A reply to every prompt, in order; failed prompts get a status and never raise.

        Args:
            choices: answers of one token each. If given, one token is generated, `Reply.logprobs` has the log-probs of
                the choices and `Reply.text` is the most likely one.
        """
        ...

    def limit_s(self, num_prompts: int) -> float:
        """Time limit of `complete` on this number of prompts, in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A response to rate."""

    prompt: str
    response: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to compare."""

    prompt: str
    response_a: str
    response_b: str
    reference: str | None = None

    @property
    def swapped(self) -> Comparison:
        return Comparison(self.prompt, self.response_b, self.response_a, self.reference)


def question_of(prompt: Prompt, config: JudgeConfig) -> str:
    """The prompt for the judge: the row's column `prompts.column`, otherwise the prompt of the policy."""
    found = prompt.metadata.get(config.prompts.column) if config.prompts.column else None
    return prompt.text if found is None else str(found)


def reference_of(prompt: Prompt) -> str | None:
    """The reference for the judge, with all acceptable answers if there are several."""
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
    """The conversation after an answer without verdict."""
    text = render(config.prompts.reminder or REMINDERS[mode], **_scale(config))
    return [*asked, {"role": "assistant", "content": reply}, {"role": "user", "content": text}]


def _asked(template: str, values: dict[str, str], reference: str | None, config: JudgeConfig) -> Messages:
    if reference is not None and "{reference}" not in template:
        template = (config.prompts.reference or REFERENCE) + template
    text = render(template, **values, reference=reference or "", **_scale(config))
    system = [{"role": "system", "content": config.prompts.system}] if config.prompts.system else []
    return [*system, {"role": "user", "content": text}]


def _scale(config: JudgeConfig) -> dict[str, int]:
    return {"low": config.scale.low, "high": config.scale.high}


def plain(prompt: str | Messages) -> str:
    """Messages for a model without chat template: their texts, each followed by a blank line."""
    return prompt if isinstance(prompt, str) else "".join(f"{m['content']}\n\n" for m in prompt)
