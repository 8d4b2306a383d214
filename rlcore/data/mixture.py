"""Several sources mixed by weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shares(weights: Mapping[str, float], num: int) -> dict[str, int]:
    """`num` split in proportion to the weights by largest remainder; of equal remainders the heavier source, then the
    alphabet, comes first. A source may get 0 when `num` is small.

    >>> shares({"code": 1, "math": 2, "chat": 2}, 8)
    {'chat': 3, 'code': 2, 'math': 3}

    Raises:
        ValueError: no sources, a weight that is not a number above 0, a negative `num`.
    """
    if num < 0:
        raise ValueError(f"cannot mix {num} records")
    if not weights:
        raise ValueError("no sources to mix")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not math.isfinite(weight) or weight <= 0:
            raise ValueError(f"the weight of source {name!r} is {weight!r}: it must be above 0; leave the source out")
    exact = {name: Fraction(weights[name]) for name in sorted(weights)}
    total = sum(exact.values())
    quotas = {name: num * weight / total for name, weight in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    order = sorted(quotas, key=lambda name: (counts[name] - quotas[name], -exact[name], name))
    for name in order[: num - sum(counts.values())]:
        counts[name] += 1
    return counts


def mix(sources: Mapping[str, Sequence[T]], weights: Mapping[str, float], num: int, seed: int) -> list[T]:
    """`num` records, of every source exactly its share, in an order drawn by seed.

    A source gives each of its records once before any of them again; every time round is in an order of its own. What
    a source gives depends on its name, its records, its count and the seed, not on the other sources or on the order
    of the mapping. Records are given as they are: their own `source` and uid stay.

    Raises:
        ValueError: weights and sources that are not of the same names, a weight that is not above 0, an empty source,
            a negative `num`.
    """
    unknown, without = sorted(weights.keys() - sources.keys()), sorted(sources.keys() - weights.keys())
    if unknown:
        raise ValueError(f"weights of unknown sources {', '.join(unknown)}; there are {', '.join(sorted(sources))}")
    if without:
        raise ValueError(f"sources without a weight: {', '.join(without)}")
    counts = shares(weights, num)
    for name, records in sources.items():
        if not len(records):
            raise ValueError(f"source {name!r} is empty: leave it out, or look at what its filters dropped")
    drawn: list[T] = []
    for name, count in counts.items():
        drawn += _draw(name, sources[name], count, seed)
    order = np.random.default_rng([seed, 0x4D49]).permutation(len(drawn))
    return [drawn[place] for place in order]


def _draw(name: str, records: Sequence[T], count: int, seed: int) -> list[T]:
    own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rows: list[int] = []
    for epoch in range(-(-count // len(records))):
        rows += np.random.default_rng([seed, own, epoch]).permutation(len(records)).tolist()
    return [records[row] for row in rows[:count]]
