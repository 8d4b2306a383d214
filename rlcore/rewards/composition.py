"""Combines several rewards of one sample: a weighted sum with named parts and the worst status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.types import RewardInput, RewardResult, Status

SEVERITY = (Status.OK, Status.UNPARSABLE, Status.TIMEOUT, Status.ERROR)


@dataclass(frozen=True, slots=True)
class Term:
    """One summand: a reward by registered name, or by path when `fn` is given, with weight and keyword options."""

    name: str
    fn: str | None = None  # "path/to/file.py:function" or "package.module:function"
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """A sample and its terms."""

    terms: tuple[Term, ...]
    input: RewardInput


def compose(terms: Sequence[Term], results: Sequence[RewardResult]) -> RewardResult:
    """`score = sum(weight * score)`; `parts` holds each term's unweighted score, and its own parts as `term/part`.

    The status is the worst of all terms; a failed term adds nothing to the score. `info` has the info of each term
    under its name; a single term's info is passed on unchanged. `info["error"]` joins the errors.

    >>> compose([Term("math"), Term("length", weight=-0.5)], [RewardResult(1.0), RewardResult(0.5)]).score
    0.75
    """
    if len(terms) != len(results):
        raise ValueError(f"{len(terms)} terms but {len(results)} results")
    parts: dict[str, float] = {}
    info: dict[str, Any] = {}
    for term, result in zip(terms, results, strict=True):
        if result.ok:
            parts[term.name] = result.score
            parts |= {f"{term.name}/{name}": value for name, value in result.parts.items()}
        if result.info:
            info[term.name] = dict(result.info)
    errors = [f"{t.name}: {r.info['error']}" for t, r in zip(terms, results, strict=True) if "error" in r.info]
    if len(terms) == 1:
        info = dict(results[0].info)
    elif errors:
        info["error"] = "; ".join(errors)
    return RewardResult(
        score=float(sum(t.weight * r.score for t, r in zip(terms, results, strict=True) if r.ok)),
        status=max((r.status for r in results), key=SEVERITY.index, default=Status.OK),
        parts=parts,
        info=info,
    )
