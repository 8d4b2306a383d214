"""Compares answers with expected values, outside the sandbox, on plain values, with bounded work."""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FLOAT = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?:\.\d*)?[eE][+-]?\d+|\.\d+[eE][+-]?\d+)")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
MAX_DIGITS = 400  # longer numbers are not parsed


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerance of decimals: `|a - b| <= max(absolute, relative * |expected|)`, or half a unit of the last printed
    place.
    """

    relative: float = 1e-6
    absolute: float = 1e-9
    late_place: int = 6  # expected values with at least this many decimal places count as rounded


def same_output(expected: str, given: str, whitespace: str = "lines", tolerance: Tolerance | None = None) -> bool:
    """True if two texts are the same answer.

    Args:
        whitespace: `lines` (runs of blanks within a line are one, blank lines do not count), `tokens` (line breaks are
            blanks too), or `exact`.
        tolerance: for numeric tokens, if the expected text has a decimal; None: characters must be equal.

    >>> same_output("1 2\\n0.5\\n", "1  2 \\r\\n\\n0.49999999999", tolerance=Tolerance())
    True
    """
    if whitespace == "exact" or expected == given:
        return expected == given
    if whitespace == "tokens":
        wanted, found = [expected.split()], [given.split()]
    else:
        wanted, found = _lines(expected), _lines(given)
    if wanted == found:
        return True
    if tolerance is None or [len(line) for line in wanted] != [len(line) for line in found]:
        return False
    tokens = [token for line in wanted for token in line]
    if not any(_FLOAT.fullmatch(token) for token in tokens):
        return False
    pairs = zip(tokens, (token for line in found for token in line), strict=True)
    return all(a == b or same_number(a, b, tolerance) for a, b in pairs)


def _lines(text: str) -> list[list[str]]:
    return [tokens for line in text.splitlines() if (tokens := line.split())]


def same_number(expected: str, given: str, tolerance: Tolerance) -> bool:
    """True if two tokens are the same number; printed integers must be equal."""
    if max(len(expected), len(given)) > MAX_DIGITS or not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(given)):
        return False
    a, b = decimal.Decimal(expected), decimal.Decimal(given)
    if a == b:
        return True
    decimals = _FLOAT.fullmatch(expected) is not None or _FLOAT.fullmatch(given) is not None
    if not decimals or not (math.isfinite(float(a)) and math.isfinite(float(b))):
        return False
    place = -int(a.as_tuple().exponent)
    late = 0.5001 * 10.0**-place if place >= tolerance.late_place and "e" not in expected.lower() else 0.0
    return abs(float(a) - float(b)) <= max(tolerance.absolute, tolerance.relative * abs(float(a)), late)


def same_value(expected: Any, given: Any, tolerance: Tolerance | None, depth: int = 0) -> bool:
    """True if a returned value equals the expected one. Like Python's equality, but

    a tuple equals a list of the same items, as JSON has no tuples; a dict's keys may be text in JSON; numbers
    of which one is a float are compared with `tolerance`. `given` is made of plain types; anything else equals nothing.
    """
    if depth > 250:
        return False
    if isinstance(expected, list | tuple):
        if type(given) not in (list, tuple) or len(given) != len(expected):
            return False
        return all(same_value(a, b, tolerance, depth + 1) for a, b in zip(expected, given, strict=True))
    if isinstance(expected, Mapping):
        return type(given) is dict and _same_dict(expected, given, tolerance, depth)
    if isinstance(expected, set | frozenset):
        return type(given) in (set, frozenset) and equal(expected, given)
    if isinstance(expected, float) or type(given) is float:
        return _same_float(expected, given, tolerance)
    if expected is None or isinstance(expected, str | bytes):
        return type(given) is type(expected) and bool(expected == given)
    if isinstance(expected, bool) or type(given) is bool:
        return type(given) in (bool, int) and bool(expected == given)
    return type(given) in (int, complex, decimal.Decimal) and equal(expected, given)


def equal(expected: Any, given: Any) -> bool:
    """Python's `==` of plain values; False if the comparison raises (for example of a signalling Decimal)."""
    try:
        return bool(given == expected)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return False


def _same_float(expected: Any, given: Any, tolerance: Tolerance | None) -> bool:
    if type(given) not in (float, int) or not isinstance(expected, float | int):
        return False
    if expected == given or (expected != expected and given != given):
        return True
    if tolerance is None or isinstance(expected, bool) or type(given) is bool:
        return False
    try:
        return math.isclose(expected, given, rel_tol=tolerance.relative, abs_tol=tolerance.absolute)
    except OverflowError:
        return False


def _same_dict(expected: Mapping[Any, Any], given: dict[Any, Any], tolerance: Tolerance | None, depth: int) -> bool:
    if len(given) != len(expected):
        return False
    if any(key not in given for key in expected):
        given = {key if isinstance(key, str) else _key(key): value for key, value in given.items()}
    return all(key in given and same_value(value, given[key], tolerance, depth + 1) for key, value in expected.items())


def _key(key: Any) -> str:
    """A key as `json.dumps` writes it."""
    if key is True or key is False or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return repr(key)[:1000] if type(key) in (int, float) and abs(key) < 1e300 else ""
