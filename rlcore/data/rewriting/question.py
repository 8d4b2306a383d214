"""Scores responses by the probabilities that a model gives to a few answers to a question about them.

Constitutional AI (arXiv 2212.08073, section 4.1) reads AI feedback from answer probabilities instead of sampled text.
The paper's question compares two responses; this one is about a single response, so that any number of responses to a
prompt get a score, and `rlcore.data.selection.pairing` makes pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlcore.data.sources.render import raw_text
from rlcore.problems import Problem, bounded, check_settings
from rlcore.templates import render, template_problems
from rlcore.types import Prompt, Sample

Render = Callable[[str], tuple[str, Sequence[int]]]  # question -> (rendered question, its token ids)
Encode = Callable[[str], Sequence[int]]  # token ids of an answer, without end token

TEMPLATE = "Request:\n{prompt}\n\nResponse:\n{response}\n\nIs this a good response? Answer with yes or no.\n"


@dataclass
class QuestionConfig:
    template: str = TEMPLATE
    # answer -> value; the score is the expectation under the answer probabilities
    answers: dict[str, float] = bounded(default_factory=lambda: {"yes": 1.0, "no": 0.0})

    def problems(self, key: str) -> Iterator[Problem]:
        seen = ("prompt", "response")
        yield from template_problems(f"{key}.template", self.template, seen, seen)
        if len(self.answers) < 2 or "" in self.answers:
            yield Problem(f"{key}.answers", self.answers, "no choice", "give at least two, none empty")


def questions(samples: Sequence[Sample], config: QuestionConfig, ask: Render, encode: Encode) -> list[Sample]:
    """K samples for each given sample, one per answer in order: the question as prompt, the answer as response.

    Raises:
        ValueError: invalid settings.
    """
    check_settings(config, "question")
    answers = {answer: tuple(encode(answer)) for answer in config.answers}
    made = []
    for sample in samples:
        text, ids = ask(render(config.template, prompt=raw_text(sample.prompt), response=sample.text))
        prompt = Prompt(sample.prompt.uid, tuple(ids), text)
        made += [Sample(prompt, f"{sample.sample_id}?{answer}", answer, told) for answer, told in answers.items()]
    return made
