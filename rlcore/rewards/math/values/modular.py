r"""Exact equality of rational functions by values at random points modulo large primes.

A difference of degree d that is not 0 vanishes at a random point modulo p with probability at most d / p (Schwartz
1980, Zippel 1979): below 2^-90 for what is accepted here. No value grows beyond the prime, so `(a+b)^{1000}` costs what
`(a+b)^2` does, and a term of 10^{-400} counts as much as any other.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction

from rlcore.rewards.math.grammar.formula import Node, symbols
from rlcore.rewards.math.values.numeric import MAX_FACTORIAL, OutOfBounds, Undefined, evaluate

PRIMES = (2**127 - 1, 2**107 - 1, 2**89 - 1)
MAX_DEGREE = 1 << 32
_POINTS = random.Random(20261128)
_SAMPLES = tuple(tuple(_POINTS.randrange(2, prime) for _ in range(64)) for prime in PRIMES)


class NotRational(Exception):
    """The formula is not a quotient of polynomials."""


def same(a: Node, b: Node) -> bool | None:
    """True if two rational functions are equal; None if one is not rational, or undefined at the points."""
    names = sorted(symbols(a) | symbols(b))
    verdicts = []
    for prime, sample in zip(PRIMES, _SAMPLES, strict=True):
        env = dict(zip(names, sample, strict=False))
        if len(env) < len(names):
            return None
        try:
            verdicts.append(_value(a, env, prime) == _value(b, env, prime))
        except ZeroDivisionError:
            return None
        except (NotRational, OutOfBounds, Undefined, OverflowError, RecursionError):
            return None
    return all(verdicts)


def _value(node: Node, env: dict[str, int], prime: int) -> int:
    kind = node[0]
    if kind in ("num", "dec"):
        return _fraction(node[1], prime)
    if kind == "sym":
        return env[node[1]]
    if kind == "neg":
        return -_value(node[1], env, prime) % prime
    if kind in ("add", "mul", "div"):
        x, y = _value(node[1], env, prime), _value(node[2], env, prime)
        if kind == "div":
            return x * _inverse(y, prime) % prime
        return (x + y if kind == "add" else x * y) % prime
    if kind == "pow":
        exponent = _whole(node[2])
        if abs(exponent) > MAX_DEGREE and symbols(node[1]):
            raise NotRational
        base = _value(node[1], env, prime)
        if not base and exponent <= 0:
            raise ZeroDivisionError
        return pow(base, exponent, prime)
    if kind == "factorial" and 0 <= (n := _whole(node[1])) <= MAX_FACTORIAL:
        return math.factorial(n) % prime
    if kind == "binomial" and not symbols(node):
        return _fraction(Fraction(_whole(node)), prime)
    raise NotRational


def _whole(node: Node) -> int:
    """A whole number without variables."""
    if symbols(node):
        raise NotRational
    value = evaluate(node, {}, True)
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise NotRational
    return value.numerator


def _fraction(value: Fraction, prime: int) -> int:
    return value.numerator * _inverse(value.denominator, prime) % prime


def _inverse(value: int, prime: int) -> int:
    if not value % prime:
        raise ZeroDivisionError
    return pow(value, -1, prime)
