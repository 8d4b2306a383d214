"""Values of formulas: exact fractions if possible, otherwise complex numbers with many digits, within fixed bounds.

Two formulas are taken for equal when they agree at several points. For polynomials over the rationals this is exact
(Schwartz 1980: a difference that is not 0 vanishes at few points); for the rest, to the digits of `DIGITS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from mpmath import MPContext  # type: ignore[import-untyped]

from rlcore.rewards.math.grammar.formula import OF_SEVERAL, SERIES, Node

DIGITS = 50
MAX_BITS = 60_000  # of an exact numerator or denominator; beyond, floating point
MAX_FACTORIAL = 5000
MAX_TERMS = 1000  # of a sum
MAX_MAGNITUDE = 10**7  # binary exponent of a floating-point value
MAX_ANGLE = 200  # binary exponent of the argument of sin and cos
Value = Any  # Fraction, mpf or mpc
mp = MPContext()  # of our own: sympy changes the precision of the common one
mp.dps = DIGITS


class Undefined(ArithmeticError):
    """The formula has no value: a division by zero, or a root of a negative number in real arithmetic."""


class OutOfBounds(ArithmeticError):
    """The value is too large or too small to compute."""


class _Scale:
    """Binary exponent of the largest or smallest value met: what may be lost when such values are added."""

    bits = 0


_scale = _Scale()


def measured(node: Node, env: Mapping[str, Fraction], real: bool) -> tuple[Value, int]:
    """The value, and the bits by which values on the way to it were larger or smaller than 1."""
    _scale.bits = 0
    return evaluate(node, env, real), _scale.bits


def _met(value: Value) -> None:
    if isinstance(value, Fraction):
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    else:
        bits = abs(mp.mag(value)) if value else 0
    if bits > _scale.bits:
        _scale.bits = bits


def floating(value: Value) -> Any:
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def evaluate(node: Node, env: Mapping[str, Fraction], real: bool) -> Value:
    """The value at a point.

    Args:
        env: values of the variables.
        real: treats non-real values as undefined, as in formulas with variables.

    Raises:
        Undefined: no value at this point.
        OutOfBounds: beyond what is computed.
    """
    kind = node[0]
    if kind in ("num", "dec"):
        _met(node[1])
        return node[1]
    if kind == "sym":
        return env[node[1]]
    if kind == "const":
        return _constant(node[1])
    if kind in SERIES:
        return _series(node, env, real)
    values = [evaluate(child, env, real) for child in node[1:]]
    if (operation := _OPERATIONS.get(kind)) is not None:
        return _bounded(operation(*values))
    if kind in OF_SEVERAL:
        return _several(kind, values)
    if kind in ("pow", "root"):
        return _bounded((_power if kind == "pow" else _root)(values[0], values[1], real))
    return _bounded(_function(kind, values, real))


def _series(node: Node, env: Mapping[str, Fraction], real: bool) -> Value:
    kind, index, *bounds, term = node
    low, high = (evaluate(bound, env, real) for bound in bounds)
    if not all(isinstance(b, Fraction) and b.denominator == 1 for b in (low, high)):
        raise Undefined("a sum between what are no whole numbers")
    if high - low > MAX_TERMS:
        raise OutOfBounds
    operation = _OPERATIONS["add" if kind == "sum" else "mul"]
    total: Value = Fraction(kind == "prod")
    for n in range(low.numerator, high.numerator + 1):
        total = _bounded(operation(total, evaluate(term, {**env, index: Fraction(n)}, real)))
    return total


def _several(kind: str, values: list[Value]) -> Value:
    if not all(isinstance(v, Fraction) for v in values):
        raise Undefined(f"{kind} of what is not exact")
    if kind in ("max", "min"):
        return max(values) if kind == "max" else min(values)
    if any(v.denominator != 1 for v in values):
        raise Undefined(f"{kind} of what are no whole numbers")
    return Fraction((math.gcd if kind == "gcd" else math.lcm)(*(v.numerator for v in values)))


def _constant(name: str) -> Value:
    if name == "inf":
        raise Undefined("infinity is no number")
    return +mp.pi if name == "pi" else +mp.e if name == "e" else mp.mpc(0, 1)


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        big = value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS
        _met(value)
        return floating(value) if big else value
    if not mp.isfinite(value):
        raise OutOfBounds
    if value and abs(mp.mag(value)) > MAX_MAGNITUDE:
        raise OutOfBounds
    _met(value)
    if isinstance(value, mp.mpc) and not value.imag:
        return value.real
    return value


def _pair(operation: Callable[[Any, Any], Any]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return operation(a, b)
        return operation(floating(a), floating(b))

    return apply


def _divide(a: Value, b: Value) -> Value:
    if not b:
        raise Undefined("division by zero")
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else floating(a) / floating(b)


def _power(base: Value, exponent: Value, real: bool) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        n = exponent.numerator
        if not base:
            if n < 0:
                raise Undefined("division by zero")
            return Fraction(n == 0)
        if isinstance(base, Fraction):
            if base in (1, -1):
                return base ** (n % 2)
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(n) * bits <= MAX_BITS:
                return base**n
        if abs(n) * max(1, abs(mp.mag(floating(base)))) > MAX_MAGNITUDE:
            raise OutOfBounds
        return mp.power(floating(base), n)
    if not base:
        raise Undefined("zero to a power that is no whole number")
    if isinstance(exponent, Fraction) and isinstance(base, Fraction) and base > 0:
        rooted = _exact_root(base, exponent.denominator)
        if rooted is not None:
            return _power(rooted, Fraction(exponent.numerator), real)
    a, b = floating(base), floating(exponent)
    if real and not (isinstance(a, mp.mpf) and a > 0):
        raise Undefined("a power of a negative number")
    if mp.mag(b) + mp.mag(abs(mp.log(a)) + 1) > 24:
        raise OutOfBounds
    return mp.exp(b * mp.log(a))


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if degree > 64 or max(value.numerator.bit_length(), value.denominator.bit_length()) > 2000:
        return None
    parts = [_integer_root(n, degree) for n in (value.numerator, value.denominator)]
    return None if None in parts else Fraction(parts[0], parts[1])  # type: ignore[arg-type]


def _integer_root(n: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(n)
    else:
        root = int(mp.nint(mp.root(n, degree))) if n else 0
    return root if root**degree == n else None


def _root(value: Value, degree: Value, real: bool) -> Value:
    if not (isinstance(degree, Fraction) and degree.denominator == 1 and degree >= 1):
        if not degree:
            raise Undefined("a root of degree zero")
        return _power(value, _divide(Fraction(1), degree), real)
    n = degree.numerator
    if n > 1000:
        raise OutOfBounds
    if not value:
        return Fraction(0)
    negative = not isinstance(value, mp.mpc) and value < 0
    if negative and n % 2:
        return -_root(-value, degree, real)
    if negative and real:
        raise Undefined("an even root of a negative number")
    if isinstance(value, Fraction):
        exact = _exact_root(abs(value), n)
        if exact is not None and not negative:
            return exact
    elif real and isinstance(value, mp.mpc):
        raise Undefined("a root of a complex number")
    return mp.root(floating(value), n)


def _factorial(value: Value) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined("factorial of a negative number")
        if value > MAX_FACTORIAL:
            raise OutOfBounds
        return Fraction(math.factorial(value.numerator))
    return _gamma(floating(value) + 1)


def _gamma(x: Any) -> Any:
    if mp.mag(x) > 16:
        raise OutOfBounds
    return mp.gamma(x)


def _binomial(n: Value, k: Value) -> Value:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1:
        if n < 0 or k < 0:
            raise Undefined("a binomial of negative numbers")
        if min(k, n - k) > MAX_FACTORIAL or n > 10**9:
            raise OutOfBounds
        return Fraction(math.comb(n.numerator, k.numerator))
    if isinstance(k, Fraction) and k.denominator == 1 and 0 <= k <= 50:
        product: Value = Fraction(1)
        for j in range(k.numerator):
            product = product * (n - j) / (j + 1)
        return product
    a, b = floating(n), floating(k)
    return _gamma(a + 1) / (_gamma(b + 1) * _gamma(a - b + 1))


def _modulo(a: Value, b: Value) -> Value:
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)) or not b:
        raise Undefined("a remainder of what is not exact")
    return a % b


def _rounded(value: Value, way: Callable[[Any], int], at: Callable[[Any], Any]) -> Value:
    if isinstance(value, Fraction):
        return Fraction(way(value))
    if isinstance(value, mp.mpc) or mp.mag(value) > 120:
        raise OutOfBounds
    return Fraction(int(at(value)))


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _pair(lambda a, b: a + b),
    "mul": _pair(lambda a, b: a * b),
    "div": _divide,
    "neg": lambda a: -a,
    "mod": _modulo,
    "abs": abs,
    "factorial": _factorial,
    "binomial": _binomial,
    "floor": lambda a: _rounded(a, math.floor, mp.floor),
    "ceil": lambda a: _rounded(a, math.ceil, mp.ceil),
}
_SIMPLE = {
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin,
    "arccos": mp.acos, "arctan": mp.atan, "arccot": mp.acot, "arcsec": mp.asec, "arccsc": mp.acsc, "sinh": mp.sinh,
    "cosh": mp.cosh, "tanh": mp.tanh, "coth": mp.coth, "sech": mp.sech, "csch": mp.csch, "arcsinh": mp.asinh,
    "arccosh": mp.acosh, "arctanh": mp.atanh,
}  # fmt: skip


def _function(name: str, values: list[Value], real: bool) -> Value:
    x = floating(values[0])
    if name in ("ln", "log", "lg"):
        return _logarithm(name, values, real)
    if name == "exp":
        return _power(mp.e, values[0], real=False)
    if name not in _SIMPLE:
        raise Undefined(f"{name} has no value")
    if x and mp.mag(x) > (20 if name.endswith("h") else MAX_ANGLE):
        raise OutOfBounds
    try:
        value = _SIMPLE[name](x)
    except (ZeroDivisionError, ValueError) as error:
        raise Undefined(name) from error
    if real and isinstance(value, mp.mpc) and isinstance(x, mp.mpf):
        raise Undefined(f"{name} outside its domain")
    if isinstance(value, mp.mpf) and mp.mag(value) > 3 * mp.dps:
        raise Undefined("a pole")
    return value


def _logarithm(name: str, values: list[Value], real: bool) -> Value:
    x = floating(values[0])
    if not x or (real and not (isinstance(x, mp.mpf) and x > 0)):
        raise Undefined("a logarithm outside its domain")
    if name == "lg":
        return mp.log(x) / mp.log(10)
    if len(values) == 1:
        return mp.log(x)
    base = floating(values[1])
    if not base or base == 1 or (real and not (isinstance(base, mp.mpf) and base > 0)):
        raise Undefined("a logarithm without a base")
    return mp.log(x) / mp.log(base)
