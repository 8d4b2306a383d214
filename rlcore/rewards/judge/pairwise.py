"""Pairwise comparisons in both orders, and win rates as rewards.

Zheng et al. 2023, arXiv 2306.05685, section 3.4: judges prefer a position, so each pair is judged twice with swapped
responses; a win counts if both answers agree, otherwise the pair is a tie.
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
    """The verdict of one comparison.

    With the reading `text`, `preference` is 1.0 or 0.0 if both orders agree and 0.5 otherwise; with `choice` it is the
    mean probability of the first response over both orders.
    """

    preference: float | None  # for the first response, in [0, 1]; None: not judged
    flipped: bool = False  # the two orders name different winners
    asked: tuple[float, ...] = ()  # preference for the first response in each order
    status: Status = Status.OK
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.preference is not None


SAME = Verdict(0.5)  # two equal responses, not judged


class PairwiseJudge:
    """Compares responses through a completer."""

    def __init__(self, completer: Completer, config: JudgeConfig) -> None:
        self.completer, self.config = completer, config

    def compare(self, pairs: Sequence[Comparison]) -> list[Verdict]:
        """A verdict per comparison, in order. Equal responses tie without a question."""
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
        """Preferences for `pair.chosen`, in [0, 1]; None if the judge gave no verdict."""
        return [v.preference for v in self.compare([comparison_of(pair, self.config) for pair in pairs])]


def combine(first: Read, swapped: Read, soft: bool) -> Verdict:
    """Combines two verdicts; `swapped` is the one with swapped responses.

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
    """At most `most` pairs of `count` samples, balanced over the samples.

    Neighbours on a ring first, then samples two apart, and so on.

    >>> pairs_of(4, 6)
    [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    """
    pairs: list[tuple[int, int]] = []
    for distance in range(1, count // 2 + 1):
        starts = count // 2 if 2 * distance == count else count
        pairs += [(i, (i + distance) % count) for i in range(starts)]
    return pairs[:most]


def win_rates(count: int, pairs: Sequence[tuple[int, int]], verdicts: Sequence[Verdict]) -> list[list[float]]:
    """Per sample, its preferences in the judged comparisons; empty without any."""
    shares: list[list[float]] = [[] for _ in range(count)]
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        if verdict.preference is not None:
            shares[i].append(verdict.preference)
            shares[j].append(1.0 - verdict.preference)
    return shares


def position_bias(verdicts: Sequence[Verdict]) -> Metrics:
    """`judge/flip_share` and `judge/tie_share` over the judged pairs; `judge/first_share`, the mean preference for the
    first position (0.5: no bias); `judge/failed_share` over all pairs.
    """
    asked = [v for v in verdicts if v.asked]
    first = [x for v in asked for x in (v.asked[0], 1.0 - v.asked[1])]
    return {
        "judge/flip_share": Mean(sum(v.flipped for v in asked), len(asked)),
        "judge/tie_share": Mean(sum(v.preference == 0.5 for v in asked), len(asked)),
        "judge/first_share": Mean(sum(first), len(first)),
        "judge/failed_share": Mean(sum(not v.ok for v in verdicts), len(verdicts)),
    }
