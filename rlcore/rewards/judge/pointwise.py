"""Rates single responses by one or several rubrics.

Zheng et al. 2023, arXiv 2306.05685, section 3.1 (single answer grading); with the reading `choice` the rating is the
expectation under the probabilities of the labels (G-Eval, arXiv 2303.16634).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.rewards.composition import SEVERITY
from rlcore.rewards.judge.ask import ask
from rlcore.rewards.judge.config import JudgeConfig
from rlcore.rewards.judge.parse import Read, read_score
from rlcore.rewards.judge.prompts import Completer, Question, ask_score
from rlcore.rewards.registry import failure
from rlcore.types import RewardResult


class PointwiseJudge:
    """Rates responses through a completer."""

    def __init__(self, completer: Completer, config: JudgeConfig) -> None:
        self.completer, self.config = completer, config

    def rate(self, questions: Sequence[Question]) -> list[RewardResult]:
        """Scores in [0, 1], in order: the mean over the rubrics by their weights; with several rubrics `parts` has
        each. A rubric without rating sets the status of the sample, and `info["said"]` has the text of the judge.
        """
        config, rubrics = self.config, self.config.rubrics
        low, high = config.scale.low, config.scale.high
        asked = [ask_score(question, rubric, config) for question in questions for rubric in rubrics]
        labels = range(low, high + 1)
        reads = ask(
            self.completer, asked, config, "pointwise",
            lambda reply: read_score(reply, config.reading.score, low, high),
            [str(n) for n in labels], [(n - low) / (high - low) for n in labels],
        )  # fmt: skip
        size = len(rubrics)
        return [self._result(reads[i * size : (i + 1) * size]) for i in range(len(questions))]

    def _result(self, reads: Sequence[Read]) -> RewardResult:
        rubrics = self.config.rubrics
        names = [rubric.name for rubric in rubrics]
        said = {"said": dict(zip(names, (r.said for r in reads), strict=True))}
        bad = [(name, read) for name, read in zip(names, reads, strict=True) if not read.ok]
        if bad:
            worst = max((read.status for _, read in bad), key=SEVERITY.index)
            return failure("; ".join(f"{name}: {read.error}" for name, read in bad), worst, **said)
        weights = [rubric.weight for rubric in rubrics]
        score = sum(w * read.value for w, read in zip(weights, reads, strict=True)) / sum(weights)
        parts = {} if len(reads) == 1 else {n: read.value for n, read in zip(names, reads, strict=True)}
        return RewardResult(score, parts=parts, info=said)
