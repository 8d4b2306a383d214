"""Equality of formulas and equations: exact for rational functions, otherwise by digits at several points."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rlcore.rewards.math.grammar.formula import Node, contains, symbols
from rlcore.rewards.math.values import modular
from rlcore.rewards.math.values.numeric import DIGITS, OutOfBounds, Undefined, Value, evaluate, floating, measured, mp

EXACT = 10.0 ** -(DIGITS // 2)  # relative difference below which computed values are equal
GUARD = 20  # digits that rounding errors of a whole formula stay within
CONFIRMED = 200  # further digits that equal values must share
MAX_DIGITS = 12_000  # of a computed value
LOG10_2 = 0.30103
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
    """True if two formulas are equal wherever both are defined; None without a usable point.

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
    exactly = modular.same(a, b)
    if exactly is not None and (exactly or tolerance == EXACT):
        return exactly
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
        verdict = _same_at(a, b, env, real, tolerance, confirm=j < 2)
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
    """Infinity equals only itself; a value too large to compute equals only itself."""
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
    """True if the signs of variables matter: an even root, a logarithm, a non-integer exponent."""
    if node[0] in ("ln", "log", "lg", "root"):
        return True
    if node[0] == "pow" and not (node[2][0] == "num" and node[2][1].denominator == 1):
        return True
    return any(_rooted(child) for child in node[1:] if isinstance(child, tuple))


def _same_at(a: Node, b: Node, env: Env, real: bool, tolerance: float, confirm: bool = True) -> bool | None:
    """Whether two values agree to so many digits that no term on the way is lost in them; False where that would take
    more than `MAX_DIGITS`; only to `DIGITS` without `confirm`, as after others at which they were. None when one is
    not defined here; a side out of bounds differs from one that is not."""
    digits = DIGITS
    for _ in range(3):
        with mp.workdps(digits):
            (x, one), (y, other) = _measured(a, env, real), _measured(b, env, real)
            if x is None or y is None:
                return None
            if isinstance(x, str) or isinstance(y, str):
                return None if x == y else False
            if tolerance > EXACT and close(x, y, tolerance):
                return True
            if isinstance(x, Fraction) and isinstance(y, Fraction):
                return x == y
            bits = max(one, other)
            if abs(floating(x) - floating(y)) > mp.mpf(2) ** bits * mp.mpf(10) ** (GUARD - digits):
                return False
        needed = int(2 * bits * LOG10_2) + 3 * GUARD + CONFIRMED
        if digits >= needed or not confirm:
            return True
        if needed > MAX_DIGITS:
            return False
        digits = needed
    return True


def _measured(node: Node, env: Env, real: bool) -> tuple[Value | None, int]:
    try:
        return measured(node, env, real)
    except (Undefined, ZeroDivisionError, ValueError, mp.NoConvergence):
        return None, 0
    except (OutOfBounds, OverflowError):
        return "out of bounds", 0


def _value(node: Node, env: Env, real: bool) -> Value | None:
    return _measured(node, env, real)[0]


def constant(node: Node) -> Any:
    """The real number a formula without variables states, signed infinity included; None when it states none."""
    if sign := _infinity(node):
        return sign * mp.inf
    if symbols(node):
        return None
    value, bits = _measured(node, {}, False)
    digits = DIGITS + int(2 * bits * LOG10_2)
    if DIGITS < digits <= MAX_DIGITS and not isinstance(value, str):
        with mp.workdps(digits):
            value = _value(node, {}, False)
            return None if value is None or isinstance(value, str | mp.mpc) else floating(value)
    return None if value is None or isinstance(value, str | mp.mpc) else floating(value)


def difference(left: Node, right: Node) -> Node:
    return ("add", left, ("neg", right))


def _sign_of_ratio(f: Node, g: Node) -> int | None:
    """Of `f / g` when it seems to be one constant, to a millionth, at all points: 1 or -1; 0 when it is none; None when
    nothing is defined."""
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
        elif not close(ratio, r, ROUNDED):
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
        return _proportional(f, g) and other == (op if sign > 0 else FLIPPED[op])
    if op == other == "=":
        return _zeros_within(f, g) and _zeros_within(g, f)
    return False


def _proportional(f: Node, g: Node) -> bool:
    """Whether the ratio of two formulas, which seems to be one number, is so to all digits."""
    for env in points(symbols(f)):
        at = {("sym", name): ("num", value) for name, value in env.items()}
        here, there = replaced(f, at), replaced(g, at)
        if same_value(here, ("num", Fraction(0))) is False:
            return same_value(("mul", f, there), ("mul", g, here)) is True
    return False


def replaced(node: Node, by: dict[Node, Node]) -> Node:
    """The formula with other nodes in the place of some of its leaves."""
    if node in by:
        return by[node]
    return (node[0], *(replaced(child, by) if isinstance(child, tuple) else child for child in node[1:]))


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
