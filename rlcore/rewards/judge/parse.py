"""Parses verdicts from the text of a judge or from the log-probs of its labels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlcore.rewards.judge.prompts import Reply
from rlcore.types import Status

MAX_SHOWN = 300  # characters of an answer in `info`
PREFERENCE = {"A": 1.0, "B": 0.0, "C": 0.5}  # preference for the first response
LABELS = ("A", "B")


@dataclass(frozen=True, slots=True)
class Read:
    """A number parsed from a reply; 0.0 if the status is not OK."""

    value: float
    status: Status = Status.OK
    error: str = ""
    said: str = ""  # end of the judge's text

    @property
    def ok(self) -> bool:
        return self.status is Status.OK


def find(pattern: str, reply: Reply) -> str | None:
    """The group of `pattern` in the last line with a match, after `</think>`; None without a match, with several
    different ones in that line, or if the answer was truncated.
    """
    if reply.finish_reason == "length":  # a truncated answer has no verdict
        return None
    for line in reversed(reply.text.rpartition("</think>")[2].splitlines()):
        found = {m[1] for m in re.finditer(pattern, line)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def read_verdict(reply: Reply, pattern: str) -> Read:
    """Preference for the first response of a comparison: 1, 0, or 0.5 for a tie."""
    return _read(reply, pattern, lambda text: PREFERENCE[text.strip().upper()], "verdict")


def read_score(reply: Reply, pattern: str, low: float, high: float) -> Read:
    """A rating scaled to [0, 1]; ratings outside of the scale are unparsable."""

    def scaled(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"{text} is outside of {low:g} to {high:g}")
        return (value - low) / (high - low)

    return _read(reply, pattern, scaled, "rating")


def read_choice(reply: Reply, values: Sequence[float]) -> Read:
    """Expectation of `values` under the renormalised probabilities of the choices.

    For two labels with values 1 and 0 this is p(A) / (p(A) + p(B)); for ratings, the weighted score of G-Eval (Liu et
    al. 2023, arXiv 2303.16634, equation 1).
    """
    said = reply.text[-MAX_SHOWN:]
    if reply.status is not Status.OK:
        return Read(0.0, reply.status, reply.error, said)
    if len(reply.logprobs) != len(values) or any(math.isnan(x) for x in reply.logprobs):
        return Read(0.0, Status.ERROR, f"{len(values)} choices, log-probs {list(reply.logprobs)}", said)
    top = max(reply.logprobs)
    if not math.isfinite(top):
        return Read(0.0, Status.UNPARSABLE, "none of the choices is among the judge's likeliest tokens", said)
    chances = [math.exp(x - top) for x in reply.logprobs]
    return Read(sum(c * v for c, v in zip(chances, values, strict=True)) / sum(chances), said=said)


def _read(reply: Reply, pattern: str, convert: Callable[[str], float], what: str) -> Read:
    said = reply.text[-MAX_SHOWN:]
    if reply.status is not Status.OK:
        return Read(0.0, reply.status, reply.error, said)
    if (found := find(pattern, reply)) is None:
        cut = " and was cut off: raise reward.judge.max_new_tokens" if reply.finish_reason == "length" else ""
        return Read(0.0, Status.UNPARSABLE, f"the judge's answer ends without a {what}{cut}", said)
    try:
        return Read(convert(found), said=said)
    except (KeyError, ValueError) as error:
        return Read(0.0, Status.UNPARSABLE, f"the judge's {what} {found!r} cannot be read: {error}", said)
