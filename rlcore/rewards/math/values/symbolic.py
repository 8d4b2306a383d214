r"""Equality of formulas through latex2sympy and math-verify. Importing this module imports sympy (half a second).

Text is parsed only by latex2sympy's grammar, never by `sympify`, `parse_expr` or `eval`, which run Python found in
their input (this rules out math-verify's own `parse`, whose plain-expression branch calls `parse_expr`). Time limits
inside sympy rest on SIGALRM, fail outside the main thread and never interrupt C code, so they are off: the caller must
be a process that can be killed, as `VerifierPool`'s are.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import verify

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
)
_BARE_COMMAND = re.compile(
    r"(?<![\\a-zA-Z])(pi|sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|infty|theta|alpha|beta)(?![a-zA-Z])"
)
_COMPLEX = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])|\\i(?:math)?(?![a-zA-Z])|\\(?:text|mathrm)\{i\}|\d+i(?![a-zA-Z])")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_DIGITS = 80  # of the numeric comparison

for _name in ("math_verify", "latex2sympy2_extended"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they warn that time limits are off, and of each odd answer


def prepare(text: str) -> str:
    """Cleaned text in the dialect of the grammar: `pi` and `sqrt` as commands, `**` as a power, `and` as a comma."""
    text = re.sub(r"\\?sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = _BARE_COMMAND.sub(r"\\\1", text).replace("**", "^")
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    if text.count(r"\pm") == 1 and "," not in text:
        before, after = text.split(r"\pm")
        text = f"{before}{'+' * bool(before.strip())}{after}, {before}-{after}"
    return re.sub(r"\\text\s*\{\s*(and|or)\s*\}|(?<=[\d\s}])(?:and|or)(?=\s)", ",", text)


class _Reader(_Latex2Sympy):  # type: ignore[misc]
    """latex2sympy with numbers read here: its own way gives each number token to sympify, that is, to eval."""

    def parse_number(self, text: str) -> Any:
        digits = text.replace(",", "").strip()
        if digits.isdigit():
            return sympy.Integer(int(digits))
        if not _DECIMAL.fullmatch(digits):
            raise ValueError("not a number")
        return sympy.Float(digits, max(15, len(digits)))


@lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """A sympy object of a cleaned text, or None when the grammar cannot read it.

    Raises nothing but MemoryError and what kills a process.
    """
    try:
        latex = normalize_latex(prepare(text), _NORMALIZATION)
        imaginary = bool(_COMPLEX.search(latex))
        parsed = _Reader(is_real=not imaginary).parse(latex)
        return _constants(parsed) if imaginary or "e" in latex else parsed
    except MemoryError:
        raise
    except Exception:  # model output may cause any exception; it means "cannot be read"
        return None


def _constants(parsed: Any) -> Any:
    """Free `i` is the imaginary unit, free `e` Euler's number; an index `i` of a sum is bound and stays."""
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        return parsed
    known = {"i": sympy.I, "e": sympy.E}
    return parsed.subs({s: known[s.name] for s in parsed.free_symbols if getattr(s, "name", "") in known})


def equal(gold: Any, given: Any) -> bool:
    """True if two parsed objects are equal.

    math-verify decides, with two corrections: numbers it takes for equal must agree to a relative 2e-6 (it rounds to
    six places, so 1/2004! would be 1/2006! and 1e-7 be 2e-7), and exact numbers that agree to 70 digits are equal
    though no simplification showed it (`e^{i pi}` and -1).
    """
    if gold is None or given is None:
        return False
    a, b = _scalar(gold), _scalar(given)
    if (a is None) != (b is None) and (_unbounded(gold) or _unbounded(given)):
        return False  # sympy's say on `0**0*oo - sqrt(5)` depends on the order of its hashes: now and then it is 0
    both = a is not None and b is not None
    try:
        if both and sympy.count_ops(a) + sympy.count_ops(b) <= 200:
            agree = _relative(a, b)
            if agree is not None and agree < sympy.Float("1e-70"):
                return True
            if agree is not None and agree > sympy.Float("2e-6"):
                return False
        return bool(verify([gold], [given], float_rounding=6, strict=True, timeout_seconds=None))
    except MemoryError:
        raise
    except Exception:
        return False


def _scalar(parsed: Any) -> Any:
    """A number without variables, of `x = number` its right side; else None."""
    if isinstance(parsed, sympy.Eq) and isinstance(parsed.lhs, sympy.Symbol):
        return None
    if isinstance(parsed, sympy.Expr) and not parsed.free_symbols and not parsed.has(sympy.oo, sympy.zoo, sympy.nan):
        return None if "%" in str(type(parsed)) or parsed.has(sympy.UnevaluatedExpr) else parsed
    return None


def _unbounded(parsed: Any) -> bool:
    """Whether it is a constant with an infinity in it that is no end of a sum or an integral."""
    if not isinstance(parsed, sympy.Expr) or parsed.free_symbols:
        return False
    limits = parsed.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
    return parsed.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) and not limits


def _relative(a: Any, b: Any) -> Any:
    """`|a - b| / max(|a|, |b|)` at 80 digits, 0 when both are 0; None when sympy finds no number."""
    x, y = sympy.N(a, _DIGITS, maxn=400), sympy.N(b, _DIGITS, maxn=400)
    if not (x.is_number and y.is_number and x.is_comparable is not None):
        return None
    scale = max(abs(x), abs(y), key=lambda v: sympy.N(v, _DIGITS))
    if scale == 0:
        return sympy.Float(0)
    ratio = sympy.N(abs(x - y) / scale, _DIGITS)
    return ratio if ratio.is_Float or ratio.is_Rational else None


def _warm() -> None:
    """Pays once, while this module is imported, for what sympy and the grammar build at their first use: a worker
    forked later has it, and its first formula is not late."""
    for text, other in ((r"\int_0^1 x^2 dx", r"\frac{1}{3}"), (r"\sum_{n=1}^{\infty} \frac{1}{2^n}", "1"),
                        (r"\lim_{x \to 0} \frac{\sin x}{x}", "1"), ("x^2 = 2 - x", "x^2 + x - 2 = 0")):  # fmt: skip
        equal(parse(text), parse(other))


_warm()
