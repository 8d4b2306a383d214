r"""Answers that are more than one formula: lists, sets, tuples, intervals, matrices, equations, inequalities.

`read` parses a cleaned text into one of the records below; `same` compares two of them. Both return None for texts
outside of this grammar, which other comparisons may handle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise, product

from rlcore.rewards.math.grammar import formula, spelling
from rlcore.rewards.math.grammar.formula import Node, Unreadable
from rlcore.rewards.math.grammar.tokens import CLOSING, OPENING, PIECE, split
from rlcore.rewards.math.values import exact, naming, regions
from rlcore.rewards.math.values.regions import EVERYTHING, Piece, Region

MAX_ITEMS = 60


@dataclass(frozen=True, slots=True)
class Value:
    node: Node


@dataclass(frozen=True, slots=True)
class Index:
    r"""`k \in \mathbb{Z}`, beside a formula in k."""

    name: str
    domain: str


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers. `brackets`: "" as listed, "{}" a set, else in order: "()", "[)", a ratio ":", a time "am"."""

    items: tuple[Answer, ...]
    brackets: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Named:
    """`x = value`, `f(x) = value`."""

    name: str
    value: Answer


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that is no mere name, as it stands: `left op right`."""

    left: Node
    op: str
    right: Node


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the real line; `name` of the variable, "" when none was written."""

    region: Region
    name: str = ""


Answer = Value | Index | Items | Matrix | Named | Relation | Span

_MATRIX = re.compile(
    r"((?:[^\\,&]|\\(?!begin|\\)){0,60}?)[\[(]?\s*\\begin\s*\{((?:p|b|v|B|V|small)?matrix|array)\}(?:\s*\{[clr| ]*\})?"
    r"(.*)\\end\s*\{\2\}\s*[\])]?",
    re.DOTALL,
)
_CLOCK = re.compile(  # 9:30 a.m., 14:05; 3:10 alone may be a ratio
    r"(\d{1,2}):(\d\d)\s*(?:\\(?:text|mathrm|mbox|textrm)\s*\{)?\s*([ap])\.?\s?m\.?\s*\}?|(\d{1,2}):(0\d)",
    re.IGNORECASE,
)
_DOMAIN = re.compile(r"\\mathbb\{?([ZN])\}?(?:_?\^?\{?[+*>0≥]*\}?)?")
_SINGLE = r"(?:\\[a-zA-Z]+|[a-zA-Z])'*(?:_(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}))?'*"
_NAME = re.compile(
    rf"(?:{_SINGLE}|\\(?:angle|triangle|measuredangle)\s*[A-Za-z]+|m\s*\\angle\s*[A-Za-z]+"
    r"|\\(?:text|mathrm|overline|vec|mathbf|hat|bar)"
    r"\s*\{[^{}]*\}|\\frac\s*\{\s*\\?(?:mathrm)?\s*d\^?\d?\s*\w\s*\}\s*\{\s*d\s*\w\^?\d?\s*\}"
    r"|[A-Z]{2,4}|[A-Za-z]{4,20}(?: [A-Za-z]+){0,4})"
    r"(?:\^\s*\{\s*-1\s*\})?\s*(?:\(\s*[a-zA-Z0-9\\{}|, ]*\))?"
)
_TEXT = re.compile(r"^\\(?:text|mathrm|mbox|textrm|textbf|mathbf)\s*\{([^{}]*)\}$")
# ]0, 1[ of French schools
_OUTWARD = re.compile(r"(?:(\])(?=[^][]*[][])|(\[)(?=[^][]*\[))([^][∪∩,;]+[,;][^][∪∩,;]+)([][])")
_EVENT = re.compile(r"[A-Z](?:'|\^\{?c\}?)?|\\(?:overline|bar)\{?[A-Z]\}?")  # A, its complement A'
_TRANSPOSED = re.compile(r"(?<=[)\]}])\s*\^\s*\{?\s*(?:\\(?:math(?:rm|sf|bf)|text)\s*)?\{?(?:T|\\top|\\intercal)\}*$")
_POINT = re.compile(r"[A-Z]'?\s*(?=\(.*,.*\)$)")  # A(3, 4)


@lru_cache(maxsize=2048)
def read(text: str) -> Answer | None:
    """The answer in a cleaned text; None if it is outside of this grammar."""
    try:
        return _answer(spelling.signs(text))
    except (Unreadable, RecursionError):
        return None


def is_name(text: str) -> bool:
    """Whether it is what a formula may be the value of: `x`, `f(x)`, `AB`."""
    return _NAME.fullmatch(text) is not None


def _turned(match: re.Match[str]) -> str:
    return f"{'[' if match[2] else '('}{match[3]}{']' if match[4] == ']' else ')'}"


def _answer(text: str) -> Answer:
    text = text.strip().strip(",;").strip()
    if not text:
        raise Unreadable("nothing there")
    if text[0] == "\\":
        text = _TEXT.sub(r"\1", text)
    if "]" in text or "[" in text:
        text = _OUTWARD.sub(_turned, text)
    if (parts := split(text, "∨"))[1:]:
        return _joined([_answer(part) for part in parts[::2] if part], "∨")
    if (parts := split(text, ",;∧"))[1:]:
        return _joined(_named_alike([_answer(part) for part in parts[::2] if part]), ",")
    sides = split(text, "≤≥<>≠=∈")
    if len(sides) > 1:
        return _relation(sides[::2], sides[1::2])
    if (parts := split(text, "∪∩∖"))[1:]:
        return _set_operation(parts)
    if "^" in text and (match := _TRANSPOSED.search(text)):
        turned = _answer(text[: match.start()])
        return Matrix(tuple(zip(*turned.rows, strict=True))) if isinstance(turned, Matrix) else turned
    if r"\begin" in text and (match := _MATRIX.fullmatch(text)):
        return _matrix(match[2], match[3], match[1])
    if (found := _bracketed(_POINT.sub("", text, count=1) if _POINT.match(text) else text)) is not None:
        return found
    if text in (r"\emptyset", "Ø"):
        return Items((), "{}")
    if text in (r"\ldots", r"\cdots", "..."):
        return Value(("sym", "..."))
    if re.fullmatch(r"\\mathbb\s*\{?\s*R\s*\}?", text):
        return Span(EVERYTHING)
    if ":" in text and (match := _CLOCK.fullmatch(text)):
        hours, minutes, half = match[1] or match[4], match[2] or match[5], (match[3] or "").lower()
        return Items(tuple(Value(("num", Fraction(part))) for part in (hours, minutes)), f"{half}m")
    text = naming.without_unit(text) if ":" in text else text
    if len(parts := split(text, ":")) in (3, 5) and all(parts[::2]):
        values = tuple(Value(formula.parse(part)) for part in parts[::2])
        if len(values) == 2:
            return Value(("div", values[0].node, values[1].node))
        return Items(values, ":")
    return _value(text)


def _value(text: str) -> Answer:
    if (number := exact.number(text)) is not None:
        return Value(("dec" if (number.decimals or 0) > 0 else "num", number.value))
    node = formula.parse(naming.without_unit(text))
    signs = _count(node, "pm")
    if not signs:
        return Value(node)
    if signs > 3:
        raise Unreadable("too many signs")
    return Items(tuple(Value(_chosen(node, list(choice))) for choice in product((1, -1), repeat=signs)))


def _count(node: Node, operator: str) -> int:
    return int(node[0] == operator) + sum(_count(child, operator) for child in node[1:] if isinstance(child, tuple))


def _chosen(node: Node, signs: list[int]) -> Node:
    operands = tuple(_chosen(child, signs) if isinstance(child, tuple) else child for child in node[1:])
    if node[0] != "pm":
        return (node[0], *operands)
    return ("add", operands[0], operands[1] if signs.pop(0) > 0 else ("neg", operands[1]))


def _joined(parts: list[Answer], sign: str) -> Answer:
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if len(parts) == 1:
        return parts[0]
    spans = [p for p in parts if isinstance(p, Span)]
    if len(spans) == len(parts) and any(p.name for p in spans) and len({p.name for p in spans}) == 1:
        pieces = regions.region([piece for span in spans for piece in span.region])
        common = spans[0].region
        for span in spans[1:]:
            common = regions.intersection(common, span.region)
        return Span(pieces if sign == "∨" or not common else common, spans[0].name)
    flat: list[Answer] = []
    for part in parts:
        flat += part.items if isinstance(part, Items) and part.brackets == "" else [part]
    return Items(tuple(flat))


def _named_alike(parts: list[Answer]) -> list[Answer]:
    """`x = 1, 2` names both."""
    if parts and isinstance(parts[0], Named) and all(isinstance(p, Value) for p in parts[1:]):
        return [parts[0], *(Named(parts[0].name, p) for p in parts[1:])]
    return parts


def _relation(sides: list[str], ops: list[str]) -> Answer:
    if not all(sides):
        raise Unreadable("a side is missing")
    if ops[0] == "∈":
        if (domain := _DOMAIN.fullmatch("".join(sides[1].split()))) and len(ops) == 1 and sides[0].isalpha():
            return Index(sides[0], domain[1])
        inner = _answer(sides[1])
        if len(ops) > 1:
            raise Unreadable("a chain of memberships")
        if isinstance(inner, Items) and inner.brackets in ("()", "[]", "(]", "[)"):
            inner = interval(inner) or inner
        return Span(inner.region, _plain_name(sides[0])) if isinstance(inner, Span) else inner
    if all(op == "=" for op in ops):
        if is_name(sides[0]):
            return Named(_plain_name(sides[0]), _answer(sides[-1]))
        if sides[0][:1] == "(" and isinstance(names := _answer(sides[0]), Items):
            return _tuple_of_names(names, _answer(sides[-1]))
        if len(sides) == 2 and is_name(sides[1]) and not formula.symbols(formula.parse(sides[0])):
            return Named(_plain_name(sides[1]), _answer(sides[0]))
        if len(sides) > 2:
            return _answer(sides[-1])
        if not _readable(sides[0]) or not _readable(sides[1]):
            return Named("".join(sides[0].split()), _answer(sides[1]))  # `A \cap B = ...`
    nodes = [formula.parse(side) for side in sides]
    if set(ops) == {"="} and not any(formula.symbols(node) for node in nodes):
        return _answer(sides[-1])  # 3! = 6
    variables = set[str]().union(*map(formula.symbols, nodes))
    if len(ops) == 1 and len(variables) == 1 and (span := regions.solve_absolute(nodes[0], ops[0], nodes[1])):
        return Span(span, variables.pop())
    if "=" not in ops and len(variables) == 1:
        common: Region | None = EVERYTHING
        for (left, right), op in zip(pairwise(nodes), ops, strict=True):
            part = regions.solve_linear(left, op, right)
            common = None if part is None or common is None else regions.intersection(common, part)
        if common is not None:
            return Span(common, variables.pop())
    if len(ops) > 1:
        return Items(tuple(Relation(a, op, b) for (a, b), op in zip(pairwise(nodes), ops, strict=True)))
    return Relation(nodes[0], ops[0], nodes[1])


def _readable(text: str) -> bool:
    try:
        formula.parse(text)
    except Unreadable:
        return False
    return True


def _plain_name(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|overline|vec|mathbf|hat|bar)(?![a-zA-Z])|[\s{}\\]|m(?=\\angle)", "", text)


def _tuple_of_names(names: Items, value: Answer) -> Answer:
    plain = [n.node[1] if isinstance(n, Value) and n.node[0] == "sym" else None for n in names.items]
    if None in plain:
        raise Unreadable("a tuple equation")
    if isinstance(value, Items) and len(value.items) == len(plain) and value.brackets == "()":
        return Items(tuple(Named(str(n), v) for n, v in zip(plain, value.items, strict=True)))
    return value


def _bracketed(text: str) -> Answer | None:
    if not text or text[0] not in "([{\\" or text[-1] not in ")]}elr":  # the last letters of \rangle and its like
        return None
    pieces = [m[0] for m in PIECE.finditer(text)]
    first, last = pieces[0], pieces[-1]
    if len(pieces) < 2 or first not in OPENING or last not in CLOSING or first == r"\begin":
        return None
    depth = 0
    for i, piece in enumerate(pieces):
        depth += (piece in OPENING) - (piece in CLOSING)
        if depth == 0 and i < len(pieces) - 1:
            return None
    inner = "".join(pieces[1:-1]).strip()
    kind = {r"\{\}": "{}", r"\langle\rangle": "<>"}.get(first + last, first + last)
    if kind == "{}" and first == r"\{":
        return _set(inner)
    parts = [part for part in split(inner, ",;")[::2] if part]
    if len(parts) > 1 and first == "{" == kind[:1]:
        return _set(inner)
    if len(parts) < 2:
        if first == "{" or (first == "(" and split(inner, "≤≥<>≠=∈∪∨∧")[1:]):
            return _answer(inner)
        return None
    if kind not in ("()", "[]", "(]", "[)", "<>"):
        return None
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    return Items(tuple(_answer(part) for part in parts), "()" if kind == "<>" else kind)


def _set(inner: str) -> Answer:
    if not inner:
        return Items((), "{}")
    for bar in ("|", ":"):
        if len(parts := split(inner, bar)) == 3 and re.match(r"[a-zA-Z]\s*(?:∈|$)", parts[0]):
            try:
                return _answer(parts[2])
            except Unreadable:  # n is even
                return Value(("sym", "".join(parts[2].split())))
    parts = [part for part in split(inner, ",;")[::2] if part]
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    flat: list[Answer] = []
    for part in map(_answer, parts):
        flat += part.items if isinstance(part, Items) and part.brackets == "" else [part]
    return Items(tuple(flat), "{}")


def _matrix(kind: str, body: str, factor: str) -> Answer:
    rows = [row.strip() for row in re.split(r"\\\\|\\cr(?![a-zA-Z])", body)]
    table = tuple(tuple(formula.parse(cell) for cell in row.split("&")) for row in rows if row and row != r"\hline")
    if not table or len({len(row) for row in table}) > 1:
        raise Unreadable("no matrix")
    if factor := re.sub(r"(?:\\cdot|\\times|\*)\s*$", "", factor).strip():
        scale = formula.parse("-1" if factor == "-" else factor)
        table = tuple(tuple(("mul", scale, cell) for cell in row) for row in table)
    if kind != "vmatrix":
        return Matrix(table)
    if len(table) != len(table[0]) or len(table) > 4:
        raise Unreadable("no determinant")
    return Value(_determinant(table))


def _determinant(rows: tuple[tuple[Node, ...], ...]) -> Node:
    if len(rows) == 1:
        return rows[0][0]
    total: Node = ("num", Fraction(0))
    for j, entry in enumerate(rows[0]):
        minor = tuple((*row[:j], *row[j + 1 :]) for row in rows[1:])
        term = ("mul", entry, _determinant(minor))
        total = ("add", total, ("neg", term) if j % 2 else term)
    return total


def _set_operation(parts: list[str]) -> Answer:
    operands, operations = ["".join(part.split()) for part in parts[::2]], parts[1::2]
    if all(map(_EVENT.fullmatch, operands)):  # letters: sets of which nothing is known
        commutes = len(set(operations)) == 1 and operations[0] != "∖"
        return Value(("sym", operations[0].join(sorted(operands)) if commutes else "".join(parts)))
    answers = [_answer(part) for part in parts[::2]]
    if all(isinstance(a, Items) and a.brackets == "{}" for a in answers) and set(operations) == {"∪"}:
        return Items(tuple(dict.fromkeys(i for a in answers if isinstance(a, Items) for i in a.items)), "{}")
    whole = region_of(answers[0])
    for op, other in zip(operations, map(region_of, answers[1:]), strict=True):
        if whole is None or other is None:
            raise Unreadable("a set that is no part of the real line")
        if op == "∪":
            whole = regions.region([*whole, *other])
        else:
            whole = regions.intersection(whole, other if op == "∩" else regions.complement(other))
    if whole is None:
        raise Unreadable("a set that is no part of the real line")
    return Span(whole)


def region_of(answer: Answer) -> Region | None:
    if isinstance(answer, Span):
        return answer.region
    if isinstance(answer, Items) and answer.brackets == "{}":
        ends = [regions.end(item.node) if isinstance(item, Value) else None for item in answer.items]
        points = [Piece(e, True, e, True) for e in ends if e is not None]
        return regions.region(points) if len(points) == len(ends) else None
    span = interval(answer) if isinstance(answer, Items) else None
    return None if span is None else span.region


def interval(answer: Items) -> Span | None:
    if len(answer.items) != 2 or answer.brackets not in ("()", "[]", "(]", "[)"):
        return None
    low, high = (regions.end(item.node) if isinstance(item, Value) else None for item in answer.items)
    if low is None or high is None or not low <= high:
        return None
    closed = (answer.brackets[0] == "[" and low.finite, answer.brackets[1] == "]" and high.finite)
    return Span(regions.region([Piece(low, closed[0], high, closed[1])]))
