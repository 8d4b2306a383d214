"""Scores responses by the probabilities that a model gives to a few answers to a question about them.

Constitutional AI (arXiv 2212.08073, section 4.1) reads AI feedback from answer probabilities instead of sampled text.
The paper's question compares two responses; this one is about a single response, so that any number of responses to a
prompt get a score, and `rlcore.data.selection.pairing` makes pairs of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rlcore.data.sources.render import raw_text
from rlcore.templates import render, template_problems
from rlcore.types import Prompt, Sample

Render = Callable[[str], tuple[str, Sequence[int]]]  # question -> (rendered question, its token ids)
Encode = Callable[[str], Sequence[int]]  # token ids of an answer, without end token

TEMPLATE = "Request:\n{prompt}\n\nResponse:\n{response}\n\nIs this a good response? Answer with yes or no.\n"


@dataclass
class QuestionConfig:
    template: str = TEMPLATE
    # answer -> value; the score is the expectation under the answer probabilities
    answers: dict[str, float] = field(default_factory=lambda: {"yes": 1.0, "no": 0.0})

    def problems(self) -> list[str]:
        """Invalid settings, each as `key: reason`."""
        seen = ("prompt", "response")
        found = template_problems("template", self.template, seen, seen)
        if len(self.answers) < 2 or "" in self.answers:
            found.append(f"answers={self.answers}: at least two answers, none empty")
        if not all(math.isfinite(value) for value in self.answers.values()):
            found.append(f"answers={self.answers}: values must be finite numbers")
        return found


def questions(samples: Sequence[Sample], config: QuestionConfig, ask: Render, encode: Encode) -> list[Sample]:
    """K samples for each given sample, one per answer in order: the question as prompt, the answer as response.

    Raises:
        ValueError: invalid settings.
    """
    if found := config.problems():
        raise ValueError("question: " + "; ".join(found))
    answers = {answer: tuple(encode(answer)) for answer in config.answers}
    made = []
    for sample in samples:
        text, ids = ask(render(config.template, prompt=raw_text(sample.prompt), response=sample.text))
        prompt = Prompt(sample.prompt.uid, tuple(ids), text)
        made += [Sample(prompt, f"{sample.sample_id}?{answer}", answer, told) for answer, told in answers.items()]
    return made
