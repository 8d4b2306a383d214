r"""Tokens and names of the formula grammar, and queries on parsed formulas."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]

MAX_TEN = 2000  # largest exponent of ten of a decimal as written
SERIES = ("sum", "prod")  # (operator, name of the index, from, to, term)
OF_SEVERAL = ("gcd", "lcm", "max", "min")
TRIG = ("sin", "cos", "tan", "cot", "sec", "csc")
FUNCTIONS = {
    *TRIG, *(f"{name}h" for name in TRIG), *(f"arc{name}" for name in TRIG), "ln", "log", "lg", "exp", "arcsinh",
    "arccosh", "arctanh",
}  # fmt: skip
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "ctg": "cot", "tg": "tan", "cosec": "csc"}
GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|"
    "upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega|ell|hbar|partial"
)
PLAIN = {*FUNCTIONS, *ALIASES, "sqrt", "cbrt", "pi", "infinity", "infty", "inf", "abs"}  # without a backslash too
WORDS = "|".join(sorted(PLAIN, key=len, reverse=True))
TOKEN = re.compile(
    r"\s*(?:(?P<num>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    rf"|(?P<cmd>\\[a-zA-Z]+|\\.)|(?P<word>(?:{WORDS})(?![a-zA-Z])|oo(?![a-zA-Z]))|(?P<letter>[^\W\d_])"
    r"|(?P<op>\*\*|[-+*/^_(){}\[\]|!%'=<>,;:&]))"
)
OPEN = {
    "(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\langle": r"\rangle",
}  # fmt: skip
BARS = {"|": "|", r"\|": r"\|", r"\lvert": r"\rvert", r"\vert": r"\vert", r"\lVert": r"\rVert"}
TIMES = {"*", r"\cdot", r"\times", r"\ast"}
STYLES = {
    r"\mathbf", r"\mathrm", r"\mathit", r"\mathsf", r"\text", r"\textbf", r"\textit", r"\textrm", r"\mbox", r"\bm",
    r"\boldsymbol", r"\vec", r"\overrightarrow", r"\overline", r"\bar", r"\hat", r"\widehat", r"\tilde", r"\mathcal",
    r"\mathbb", r"\operatorname", r"\underline",
}  # fmt: skip
ENDS = {
    r"\over", r"\choose",
    ")", "]", "}", r"\}", ",", ";", ":", "&", "=", "<", ">", "+", "-", "|", r"\pm", r"\mp", r"\bmod", r"\mod",
    r"\pmod",
}  # fmt: skip
ENDS |= {*OPEN.values(), *BARS.values()}

PIECE = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
OPENING = {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"}
CLOSING = {")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\end"}


class Unreadable(ValueError):
    """Not a formula of this grammar."""


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and text of each token; spacing commands dropped.

    Raises:
        Unreadable: a character that cannot be in a formula.
    """
    found, position, text = [], 0, text.rstrip()
    while position < len(text):
        if (match := TOKEN.match(text, position)) is None:
            raise Unreadable(f"no token at {text[position : position + 10]!r}")
        position, kind = match.end(), str(match.lastgroup)
        value = match[kind]
        if kind == "word":
            kind, value = "cmd", "\\" + {"oo": "infty", "infinity": "infty", "inf": "infty"}.get(value, value)
        if value not in (r"\ ", r"\,", r"\;", r"\:", r"\!"):
            found.append((kind, "*" if value == r"\ast" else "^" if value == "**" else value))
    return found


def decimal(text: str) -> Node:
    """A number token: exact, and marked when it was written as a decimal."""
    digits, _, power = text.lower().partition("e")
    if len(power) > 6 or abs(int(power or 0)) > MAX_TEN:
        raise Unreadable("the exponent is out of bounds")
    whole, point, after = digits.partition(".")
    value = Fraction(int((whole + after) or "0"), 10 ** len(after)) * Fraction(10) ** int(power or 0)
    return ("dec" if point and after.strip("0") else "num", value)


def split(text: str, separators: str) -> list[str]:
    """Parts between separators outside all brackets; every second one is the separator."""
    if not any(sign in text for sign in separators):
        return [text.strip()]
    depth, parts, held = 0, [], ""
    for match in PIECE.finditer(text):
        piece = match[0]
        depth += (piece in OPENING) - (piece in CLOSING)
        if depth == 0 and piece in separators:
            parts += [held.strip(), piece]
            held = ""
        else:
            held += piece
    return [*parts, held.strip()]


def symbols(node: Node) -> set[str]:
    """Names of the variables in a formula."""
    found: set[str] = set()
    left = [node]
    while left:
        operator, *operands = left.pop()
        if operator == "sym":
            found.add(operands[0])
        elif operator in SERIES:
            index, *bounds, term = operands
            found |= symbols(term) - {index}
            left += bounds
        elif operator not in ("num", "dec"):
            left += [child for child in operands if child.__class__ is tuple]
    return found


def contains(node: Node, *operators: str) -> bool:
    """True if any of the operators occurs."""
    left = [node]
    while left:
        operator, *operands = left.pop()
        if operator in operators:
            return True
        left += [child for child in operands if child.__class__ is tuple]
    return False
