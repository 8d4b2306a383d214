"""Which of two responses is better, asked in both orders; and the win rates that make a reward of it.

Zheng et al. 2023, arXiv 2306.05685, section 3.4: judges favour a position, so each pair is asked twice with the
responses swapped; a win counts when both answers agree, otherwise it is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.metrics import Mean, Metrics
from rlcore.rewards.composition import SEVERITY
from rlcore.rewards.judge.ask import ask
from rlcore.rewards.judge.config import JudgeConfig, JudgeReading
from rlcore.rewards.judge.parse import LABELS, Read, read_verdict
from rlcore.rewards.judge.prompts import Comparison, Completer, ask_pair, question_of, reference_of
from rlcore.types import Pair, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one comparison.

    With the reading `text`, `preference` is 1.0 or 0.0 where both orders agree and 0.5 otherwise; with `choice` it is
    the mean over both orders of the chance of the first response.
    """

    preference: float | None  # for the first response, in [0, 1]; None: not judged
    flipped: bool = False  # the two orders name different winners
    asked: tuple[float, ...] = ()  # what was read in each order, for the first response
    status: Status = Status.OK
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.preference is not None


SAME = Verdict(0.5)  # of two equal responses: nobody was asked


class PairwiseJudge:
    """Compares responses through a completer."""

    def __init__(self, completer: Completer, config: JudgeConfig) -> None:
        self.completer, self.config = completer, config

    def compare(self, pairs: Sequence[Comparison]) -> list[Verdict]:
        """A verdict for each, in order. Two equal responses tie without being asked about."""
        todo = [i for i, pair in enumerate(pairs) if pair.response_a != pair.response_b]
        asked = [ask_pair(side, self.config) for i in todo for side in (pairs[i], pairs[i].swapped)]
        reads = ask(
            self.completer, asked, self.config, "pairwise",
            lambda reply: read_verdict(reply, self.config.reading.verdict), LABELS, (1.0, 0.0),
        )  # fmt: skip
        soft = self.config.reading.how is JudgeReading.choice
        verdicts = [SAME] * len(pairs)
        for k, i in enumerate(todo):
            verdicts[i] = combine(reads[2 * k], reads[2 * k + 1], soft)
        return verdicts

    def preferences(self, pairs: Sequence[Pair]) -> list[float | None]:
        """For `pair.chosen`, in [0, 1]; None where the judge could not be read."""
        return [v.preference for v in self.compare([comparison_of(pair, self.config) for pair in pairs])]


def combine(first: Read, swapped: Read, soft: bool) -> Verdict:
    """One verdict out of two; `swapped` was asked with the responses the other way round.

    >>> combine(Read(1.0), Read(0.0), False).preference, combine(Read(1.0), Read(1.0), False).preference
    (1.0, 0.5)
    """
    said = {"said": [first.said, swapped.said]}
    if not (first.ok and swapped.ok):
        worst = max((first, swapped), key=lambda r: SEVERITY.index(r.status))
        return Verdict(None, status=worst.status, error=worst.error, info=said)
    a, b = first.value, 1.0 - swapped.value
    flipped = (a - 0.5) * (b - 0.5) < 0
    preference = (a + b) / 2 if soft else (a if a == b else 0.5)
    return Verdict(preference, flipped, (a, b), info=said)


def comparison_of(pair: Pair, config: JudgeConfig) -> Comparison:
    prompt, reference = question_of(pair.prompt, config), reference_of(pair.prompt)
    return Comparison(prompt, pair.chosen.text, pair.rejected.text, reference)


def pairs_of(count: int, most: int) -> list[tuple[int, int]]:
    """At most `most` of the pairs of `count` samples, such that each sample is in about as many as any other.

    Neighbours on a ring first, then those two apart, and so on.

    >>> pairs_of(4, 6)
    [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    """
    pairs: list[tuple[int, int]] = []
    for distance in range(1, count // 2 + 1):
        starts = count // 2 if 2 * distance == count else count
        pairs += [(i, (i + distance) % count) for i in range(starts)]
    return pairs[:most]


def win_rates(count: int, pairs: Sequence[tuple[int, int]], verdicts: Sequence[Verdict]) -> list[list[float]]:
    """Per sample, its shares of the comparisons that were judged; empty where none was."""
    shares: list[list[float]] = [[] for _ in range(count)]
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        if verdict.preference is not None:
            shares[i].append(verdict.preference)
            shares[j].append(1.0 - verdict.preference)
    return shares


def position_bias(verdicts: Sequence[Verdict]) -> Metrics:
    """`judge/flip_share` and `judge/tie_share` of the pairs that were asked and read; `judge/first_share`, the mean
    preference for whatever stands first (0.5: no bias); `judge/failed_share` of all pairs.
    """
    asked = [v for v in verdicts if v.asked]
    first = [x for v in asked for x in (v.asked[0], 1.0 - v.asked[1])]
    return {
        "judge/flip_share": Mean(sum(v.flipped for v in asked), len(asked)),
        "judge/tie_share": Mean(sum(v.preference == 0.5 for v in asked), len(asked)),
        "judge/first_share": Mean(sum(first), len(first)),
        "judge/failed_share": Mean(sum(not v.ok for v in verdicts), len(verdicts)),
    }
