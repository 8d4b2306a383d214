"""Whether two formulas, equations or regions of the real line are the same, by their values at several points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlcore.rewards.formula import Node, contains, symbols
from rlcore.rewards.numeric import DIGITS, OutOfBounds, Undefined, Value, evaluate, floating, mp

EXACT = 10.0 ** -(DIGITS // 2)  # relative difference below which computed values are equal
ROUNDED = 1e-6  # the same where one side is a decimal
MAX_VARIABLES = 20
_POSITIVE = ((17, 7), (5, 13), (29, 11), (7, 19), (23, 9), (11, 17), (31, 13), (3, 11), (37, 15), (13, 23))
Env = dict[str, Fraction]
FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠"}


def points(names: set[str]) -> Iterator[Env]:
    """Three positive points, two of mixed signs."""
    ordered = sorted(names)
    for j in range(5):
        env = {}
        for k, name in enumerate(ordered):
            top, bottom = _POSITIVE[(3 * j + k) % len(_POSITIVE)]
            shifted = Fraction(top, bottom) + Fraction(k // len(_POSITIVE))
            env[name] = -shifted if j > 2 and (j + k) % 2 else shifted
        yield env


def whole_points(names: set[str]) -> Iterator[Env]:
    """For formulas that make sense at whole numbers only, such as `(-1)^n`."""
    for j in range(3):
        yield {name: Fraction(5 + 3 * k + j) for k, name in enumerate(sorted(names))}


def close(a: Value, b: Value, tolerance: float = EXACT) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b or (tolerance > EXACT and abs(a - b) <= Fraction(tolerance) * max(abs(a), abs(b)))
    x, y = floating(a), floating(b)
    return bool(abs(x - y) <= tolerance * max(abs(x), abs(y)))


def same_value(a: Node, b: Node) -> bool | None:
    """Whether two formulas are equal wherever both are defined; None when no point says so.

    A decimal on one side alone may be the rounded form of the other, to a relative millionth. Under an even root or a
    logarithm variables are taken for positive, as exercises do: `sqrt(a^2 b)` is `a sqrt(b)`.
    """
    if a == b:
        return True
    if contains(a, "pm") or contains(b, "pm"):
        return None
    names = symbols(a) | symbols(b)
    if len(names) > MAX_VARIABLES:
        return None
    tolerance = ROUNDED if contains(a, "dec") != contains(b, "dec") else EXACT
    if not names:
        verdict = _same_at(a, b, {}, False, tolerance)
        return _same_text(a, b) if verdict is None else verdict
    real = not any(contains(n, "const") and _imaginary(n) for n in (a, b))
    positive = any(contains(n, "root", "ln", "log", "lg", "pow") and _rooted(n) for n in (a, b))
    positive &= not (contains(a, "abs") or contains(b, "abs"))
    agreed = 0
    for j, env in enumerate(points(names)):
        if j > 2 and positive:
            break
        verdict = _same_at(a, b, env, real, tolerance)
        if verdict is False:
            return False
        agreed += verdict is True
    if agreed >= 2:
        return True
    verdicts = [_same_at(a, b, env, real, tolerance) for env in whole_points(names)]
    if False in verdicts:
        return False
    return True if verdicts.count(True) + agreed >= 2 else None


def _same_text(a: Node, b: Node) -> bool | None:
    """Infinity is itself and no number; what is too large to compute is nothing else than itself."""
    signs = [_infinity(n) for n in (a, b)]
    if any(signs):
        return signs[0] == signs[1]
    return None


def _infinity(node: Node) -> int:
    if node == ("const", "inf"):
        return 1
    return -_infinity(node[1]) if node[0] == "neg" else 0


def _imaginary(node: Node) -> bool:
    return node == ("const", "i") or any(_imaginary(child) for child in node[1:] if isinstance(child, tuple))


def _rooted(node: Node) -> bool:
    """Whether signs of variables matter: an even root, a logarithm, an exponent that is no whole number."""
    if node[0] in ("ln", "log", "lg", "root"):
        return True
    if node[0] == "pow" and not (node[2][0] == "num" and node[2][1].denominator == 1):
        return True
    return any(_rooted(child) for child in node[1:] if isinstance(child, tuple))


def _same_at(a: Node, b: Node, env: Env, real: bool, tolerance: float) -> bool | None:
    """None when neither is defined here; a side out of bounds differs from one that is not."""
    x, y = _value(a, env, real), _value(b, env, real)
    if x is None or y is None:
        return None
    if isinstance(x, str) or isinstance(y, str):
        return None if x == y else False
    if close(x, y, tolerance):
        return True
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return False
    difference = abs(floating(x) - floating(y))
    if difference > mp.mpf(10) ** (-DIGITS // 2):
        return False
    with mp.workdps(3 * DIGITS):  # cancellation leaves noise, which more digits make smaller
        x, y = _value(a, env, real), _value(b, env, real)
        if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
            return False
        if not floating(x) or not floating(y) or min(abs(floating(x)), abs(floating(y))) < mp.mpf(10) ** (-2 * DIGITS):
            return bool(abs(floating(x) - floating(y)) < mp.mpf(10) ** (-2 * DIGITS))
        return close(x, y, tolerance)


def _value(node: Node, env: Env, real: bool) -> Value | None:
    try:
        return evaluate(node, env, real)
    except (Undefined, ZeroDivisionError, ValueError, mp.NoConvergence):
        return None
    except (OutOfBounds, OverflowError):
        return "out of bounds"


def constant(node: Node) -> Any:
    """The real number a formula without variables states, signed infinity included; None when it states none."""
    if sign := _infinity(node):
        return sign * mp.inf
    if symbols(node):
        return None
    value = _value(node, {}, False)
    if value is None or isinstance(value, str | mp.mpc):
        return None
    return floating(value)


def difference(left: Node, right: Node) -> Node:
    return ("add", left, ("neg", right))


def _sign_of_ratio(f: Node, g: Node) -> int | None:
    """Of `f / g` when it is one constant at all points: 1 or -1; 0 when it is none; None when nothing is defined."""
    names = symbols(f) | symbols(g)
    if len(names) > MAX_VARIABLES:
        return None
    ratio = None
    defined = 0
    for env in points(names):
        x, y = _value(f, env, False), _value(g, env, False)
        if x is None or y is None or isinstance(x, str) or isinstance(y, str) or (not x and not y):
            continue
        if not x or not y:
            return 0
        r = x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else floating(x) / floating(y)
        defined += 1
        if ratio is None:
            ratio = r
        elif not close(ratio, r):
            return 0
    if defined < 2 or ratio is None or isinstance(ratio, mp.mpc):
        return None
    return 1 if ratio > 0 else -1


def same_relation(f: Node, op: str, g: Node, other: str) -> bool | None:
    """`f op 0` against `g other 0`: proportional sides, or, for equations, the same zeros."""
    if symbols(f) != symbols(g):
        return False
    sign = _sign_of_ratio(f, g)
    if sign is None:
        return None
    if sign:
        return other == (op if sign > 0 else FLIPPED[op])
    if op == other == "=":
        return _zeros_within(f, g) and _zeros_within(g, f)
    return False


def _zeros_within(f: Node, g: Node) -> bool:
    """Whether zeros of f, in one variable at some values of the others, are zeros of g."""
    names = sorted(symbols(f))
    found = 0
    for j, env in enumerate(points(set(names))):
        name = names[j % len(names)]
        root = _zero(f, env, name, mp.mpc((-1) ** j * (0.7 + j), 0.3))
        if root is None:
            continue
        here, near = (_value(g, env | {name: z}, False) for z in (root, root + mp.mpf("0.1")))
        if here is None or near is None or isinstance(here, str) or isinstance(near, str):
            continue
        if abs(floating(here)) > 1e-12 * (1 + abs(floating(near))):
            return False
        found += 1
    return found >= 2


def _zero(f: Node, env: Env, name: str, start: Any) -> Any:
    def at(z: Any) -> Any:
        return floating(evaluate(f, env | {name: z}, False))

    try:
        return mp.findroot(at, (start, start + 0.3, start - 0.2), solver="muller", tol=1e-30, maxsteps=40)
    except (ValueError, ZeroDivisionError, ArithmeticError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval; ends are floating-point numbers, infinite ones are open."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


Region = tuple[Piece, ...]
EVERYTHING: Region = (Piece(-mp.inf, False, mp.inf, False),)


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
    low, low_closed, found = -mp.inf, False, []
    for p in a:
        found.append(Piece(low, low_closed, p.low, not p.low_closed))
        low, low_closed = p.high, not p.high_closed
    return region([*found, Piece(low, low_closed, mp.inf, False)])


def same_region(a: Region, b: Region) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return bool(x == y) or (mp.isfinite(x) and mp.isfinite(y) and close(x, y, 1e-12))

    return len(a) == len(b) and all(
        equal(p.low, q.low)
        and equal(p.high, q.high)
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
        if not symbols(side) and (end := constant(side)) is not None and mp.isinf(end):  # x < infinity
            return EVERYTHING if other[0] == "sym" and sign in (("<", "≤") if end > 0 else (">", "≥")) else None
    (name,) = names
    f = difference(left, right)
    values = [_value(f, {name: Fraction(n)}, True) for n in (0, 1, 2, 5)]
    if any(v is None or isinstance(v, str | mp.mpc) for v in values):
        return None
    c, v1, v2, v5 = (floating(v) for v in values)
    slope = v1 - c
    if not slope or not close(v2 - c, 2 * slope, 1e-20) or not close(v5 - c, 5 * slope, 1e-20):
        return None
    root = -c / slope
    if slope < 0:
        op = FLIPPED[op]
    at = (Piece(root, True, root, True),)
    if op in ("=", "≠"):
        return at if op == "=" else complement(at)
    closed = op in ("≤", "≥")
    if op in ("<", "≤"):
        return (Piece(-mp.inf, False, root, closed),)
    return (Piece(root, closed, mp.inf, False),)
