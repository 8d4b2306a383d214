"""Strings under constraints: `2a no c end x 5-7:` asks for 5 to 7 characters, at least two of them `a`, no `c`, the
last one `x`.

Many strings are right, and a program checks them. A model with half a million parameters and a character tokenizer can
learn this task for the reward `constraints`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcore.data.sources.readers import Place
from rlcore.data.sources.rows import Row

LETTERS = "abcdefx"
MAX_COUNT = 3
SHORTEST, LONGEST_START, WIDTH = 4, 7, 2  # lengths 4-6, 5-7, 6-8, 7-9


@dataclass(frozen=True, slots=True)
class Problem:
    """At least `count` of `letter`, no `banned`, `last` at the end, and `low` to `high` characters."""

    letter: str
    count: int
    banned: str
    last: str
    low: int
    high: int

    @property
    def prompt(self) -> str:
        """
        >>> Problem("a", 2, "c", "x", 5, 7).prompt
        '2a no c end x 5-7:'
        """
        return f"{self.count}{self.letter} no {self.banned} end {self.last} {self.low}-{self.high}:"

    @property
    def uid(self) -> str:
        return f"constraints-{self.count}{self.letter}-{self.banned}-{self.last}-{self.low}"

    def constraints(self) -> list[dict[str, Any]]:
        """The constraints in the format of the reward `constraints`."""
        letters = "keywords:letter_frequency"
        length = "length_constraints:number_characters"
        return [
            {"id": letters, "kwargs": _letters(self.letter, self.count, "at least")},
            {"id": letters, "kwargs": _letters(self.banned, 1, "less than")},
            {"id": "startend:end_checker", "kwargs": {"end_phrase": self.last}},
            {"id": length, "kwargs": {"num_characters": self.low, "relation": "at least"}},
            {"id": length, "kwargs": {"num_characters": self.high, "relation": "at most"}},
        ]

    def answer(self, rng: np.random.Generator) -> str:
        """A random right string."""
        size = int(rng.integers(self.low, self.high + 1))
        others = [c for c in LETTERS if c != self.banned]
        needed = max(self.count - (self.letter == self.last), 0)
        body = [self.letter] * needed + [others[i] for i in rng.integers(len(others), size=size - 1 - needed)]
        return "".join(body[i] for i in rng.permutation(len(body))) + self.last


def problems() -> list[Problem]:
    """All 3,024 problems in a fixed order."""
    return [
        Problem(letter, count, banned, last, low, low + WIDTH)
        for letter in LETTERS
        for count in range(1, MAX_COUNT + 1)
        for banned in LETTERS
        for last in LETTERS
        for low in range(SHORTEST, LONGEST_START + 1)
        if banned not in (letter, last)
    ]


def rows(num_eval: int, seed: int) -> tuple[list[Row], list[Row]]:
    """`split` as rows, with a right answer as reference and the column `constraints` for the reward."""
    train, held = (
        [
            Row(Place(i), p.uid, p.prompt, answer, (), {"constraints": p.constraints()})
            for i, (p, answer) in enumerate(side)
        ]
        for side in split(num_eval, seed)
    )
    return train, held


def split(num_eval: int, seed: int) -> tuple[list[tuple[Problem, str]], list[tuple[Problem, str]]]:
    """All problems with a right answer, as (train, held out).

    Problems that differ only in their lengths are on the same side, because they share many right answers. Up to three
    problems are dropped if `num_eval` is not a multiple of the four lengths.

    Raises:
        ValueError: `num_eval` is negative or leaves nothing to train on.
    """
    everything = problems()
    if not 0 <= num_eval < len(everything):
        raise ValueError(
            f"data.num_eval={num_eval}: there are {len(everything)} constraint problems, at least one to train on"
        )
    rng = np.random.default_rng([seed, 0xC057])
    lengths = LONGEST_START - SHORTEST + 1
    families = rng.permutation(len(everything) // lengths)
    num_families = -(-num_eval // lengths)
    held = {int(f) * lengths + i for f in families[:num_families] for i in range(lengths)}
    answered = [(p, p.answer(rng)) for p in everything]
    kept = [answered[i] for i in sorted(held)]
    return [pair for i, pair in enumerate(answered) if i not in held], kept[:num_eval]


def _letters(letter: str, count: int, relation: str) -> dict[str, Any]:
    return {"letter": letter, "let_frequency": count, "let_relation": relation}
