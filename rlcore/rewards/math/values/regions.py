"""Regions of the real line: intervals, their unions, and what a linear inequality says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Any

from rlcore.rewards.math.grammar.formula import Node, symbols
from rlcore.rewards.math.values.agreement import FLIPPED, close, constant, difference, replaced, same_value
from rlcore.rewards.math.values.numeric import mp

NEAR = 1e-20  # relative difference below which two ends are compared as formulas


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class End:
    """An end of an interval: its value, and the formula that states it; equal ends are equal as formulas."""

    value: Any
    node: Node | None = None  # None: infinite

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, End):
            return NotImplemented
        if self.node is None or other.node is None:
            return bool(self.value == other.value)
        return close(self.value, other.value, NEAR) and same_value(self.node, other.node) is True

    def __lt__(self, other: End) -> bool:
        return bool(self.value < other.value) and self != other

    def __hash__(self) -> int:
        return hash(round(float(self.value), 6)) if self.finite else hash(self.value > 0)

    @property
    def finite(self) -> bool:
        return bool(mp.isfinite(self.value))


def end(node: Node) -> End | None:
    """The end that a formula without variables states; None when it states no real number."""
    value = constant(node)
    return None if value is None else End(value, node if mp.isfinite(value) else None)


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval; infinite ends are open."""

    low: End
    low_closed: bool
    high: End
    high_closed: bool


Region = tuple[Piece, ...]
LOWEST, HIGHEST = End(-mp.inf), End(mp.inf)
EVERYTHING: Region = (Piece(LOWEST, False, HIGHEST, False),)


def region(pieces: Sequence[Piece]) -> Region:
    """Sorted, empty pieces dropped, touching ones joined."""
    kept = [p for p in pieces if p.low < p.high or (p.low == p.high and p.low_closed and p.high_closed)]
    kept.sort(key=lambda p: (p.low, not p.low_closed))
    joined: list[Piece] = []
    for p in kept:
        last = joined[-1] if joined else p
        if joined and (p.low < last.high or (p.low == last.high and (p.low_closed or last.high_closed))):
            if p.high > last.high or (p.high == last.high and p.high_closed):
                joined[-1] = Piece(last.low, last.low_closed, p.high, p.high_closed)
        else:
            joined.append(p)
    return tuple(joined)


def intersection(a: Region, b: Region) -> Region:
    found = []
    for p in a:
        for q in b:
            low, low_closed = max((p.low, not p.low_closed), (q.low, not q.low_closed))
            high, high_closed = min((p.high, p.high_closed), (q.high, q.high_closed))
            found.append(Piece(low, not low_closed, high, high_closed))
    return region(found)


def complement(a: Region) -> Region:
    low, low_closed, found = LOWEST, False, []
    for p in a:
        found.append(Piece(low, low_closed, p.low, not p.low_closed))
        low, low_closed = p.high, not p.high_closed
    return region([*found, Piece(low, low_closed, HIGHEST, False)])


def same_region(a: Region, b: Region) -> bool:
    return len(a) == len(b) and all(
        p.low == q.low
        and p.high == q.high
        and (p.low_closed, p.high_closed) == (q.low_closed, q.high_closed)
        for p, q in zip(a, b, strict=True)
    )


def solve_absolute(left: Node, op: str, right: Node) -> Region | None:
    """The numbers that fulfil `|f| op c`, f linear in one variable, c a number that is positive."""
    if left[0] != "abs" and right[0] == "abs":
        left, op, right = right, FLIPPED[op], left
    if left[0] != "abs" or op in ("=", "≠") or symbols(right) or (bound := constant(right)) is None or bound <= 0:
        return None
    f = left[1]
    below, above = solve_linear(f, op, right), solve_linear(f, FLIPPED[op], ("neg", right))
    if below is None or above is None:
        return None
    return intersection(below, above) if op in ("<", "≤") else region([*below, *above])


def solve_linear(left: Node, op: str, right: Node) -> Region | None:
    """The numbers that fulfil `left op right` in its one variable, when that is linear."""
    names = symbols(left) | symbols(right)
    if len(names) != 1:
        return None
    for side, other, sign in ((right, left, op), (left, right, FLIPPED[op])):
        if not symbols(side) and (bound := constant(side)) is not None and mp.isinf(bound):  # x < infinity
            return EVERYTHING if other[0] == "sym" and sign in (("<", "≤") if bound > 0 else (">", "≥")) else None
    (name,) = names
    f, unknown = difference(left, right), ("sym", name)
    at_zero, at_one = (replaced(f, {unknown: ("num", Fraction(n))}) for n in (0, 1))
    rise: Node = ("add", at_one, ("neg", at_zero))
    slope = constant(rise)
    if not slope or same_value(f, ("add", at_zero, ("mul", rise, unknown))) is not True:
        return None
    if (root := end(("neg", ("div", at_zero, rise)))) is None:
        return None
    if slope < 0:
        op = FLIPPED[op]
    at = (Piece(root, True, root, True),)
    if op in ("=", "≠"):
        return at if op == "=" else complement(at)
    closed = op in ("≤", "≥")
    if op in ("<", "≤"):
        return (Piece(LOWEST, False, root, closed),)
    return (Piece(root, closed, HIGHEST, False),)
