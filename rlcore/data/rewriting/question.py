"""A model's own word on a response: which of a few answers to a question about it the model holds likeliest.

Constitutional AI (arXiv 2212.08073, section 4.1) reads AI feedback from the chances of the answers, not from text that
was sampled. There the question sets two responses side by side; here it is about one, so that any number of responses
to a prompt get a score, and `rlcore.data.selection.pairing` makes pairs of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rlcore.data.sources.render import raw_text
from rlcore.templates import render, template_problems
from rlcore.types import Prompt, Sample

Render = Callable[[str], tuple[str, Sequence[int]]]  # a question to (as the model is asked it, its token ids)
Encode = Callable[[str], Sequence[int]]  # an answer's token ids, no end token

TEMPLATE = "Request:\n{prompt}\n\nResponse:\n{response}\n\nIs this a good response? Answer with yes or no.\n"


@dataclass
class QuestionConfig:
    template: str = TEMPLATE
    # answers and what each is worth; the score is the expectation under their chances
    answers: dict[str, float] = field(default_factory=lambda: {"yes": 1.0, "no": 0.0})

    def problems(self) -> list[str]:
        """What cannot work, each as `key: why`."""
        seen = ("prompt", "response")
        found = template_problems("template", self.template, seen, seen)
        if len(self.answers) < 2 or "" in self.answers:
            found.append(f"answers={self.answers}: at least two, none of them empty")
        if not all(math.isfinite(value) for value in self.answers.values()):
            found.append(f"answers={self.answers}: each is worth a finite number")
        return found


def questions(samples: Sequence[Sample], config: QuestionConfig, ask: Render, encode: Encode) -> list[Sample]:
    """K samples for each of the given ones, K answers in their order: the question as prompt, the answer as response.

    Raises:
        ValueError: settings that cannot work.
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
