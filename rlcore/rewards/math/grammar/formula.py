r"""Parses a formula, in LaTeX or plain text, into nested tuples with a purpose-built grammar; no text is run as Python.

A node is `(operator, operand, ...)`: `("num", Fraction)`, `("dec", Fraction)` for a number written as a decimal,
`("sym", name)`, `("const", "pi" | "e" | "i" | "inf")`, `("add" | "mul" | "div" | "pow" | "mod", a, b)`, `("neg", a)`,
`("pm", a, b)` for `a \pm b`, and `(function, argument, ...)`. Letters side by side are a product, as LaTeX sets them.

A recursive descent without backtracking: time and memory grow with the length of the text, which callers bound.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rlcore.rewards.math.grammar.tokens import (
    ALIASES,
    BARS,
    ENDS,
    FUNCTIONS,
    GREEK,
    OF_SEVERAL,
    OPEN,
    SERIES,
    STYLES,
    TIMES,
    TRIG,
    Node,
    Unreadable,
    contains,
    decimal,
    symbols,
    tokens,
)  # fmt: skip

__all__ = ["OF_SEVERAL", "SERIES", "Node", "Unreadable", "contains", "parse", "symbols"]

MAX_DEPTH = 60  # maximum nesting of brackets, roots and exponents


def parse(text: str) -> Node:
    """The formula a cleaned text states.

    Raises:
        Unreadable: not a formula, or outside of the grammar (integrals, limits).
    """
    reader = _Reader(tokens(text))
    node = reader.sum()
    if reader.peek() is not None:
        raise Unreadable(f"unexpected {reader.peek()!r}")
    return node


class _Reader:
    def __init__(self, read: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth, self.angle, self.bars = read, 0, 0, 0, 0
        self.index: str | None = None  # of the sum being read

    def peek(self, ahead: int = 0) -> str | None:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else None

    def take(self, expected: str | None = None) -> str:
        value = self.peek()
        if value is None or (expected is not None and value != expected):
            raise Unreadable(f"expected {expected or 'an operand'}, found {value or 'the end'}")
        self.at += 1
        return value

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        if (sign := self.peek()) in ("+", "-", r"\pm", r"\mp"):
            self.take()
            first = self.product()
            node: Node = ("neg", first) if sign == "-" else first
            if sign in (r"\pm", r"\mp"):
                node = ("pm", ("num", Fraction(0)), first)
        else:
            node = self.product()
        while (sign := self.peek()) in ("+", "-", r"\pm", r"\mp"):
            self.take()
            term = self.product()
            operator = "add" if sign in ("+", "-") else "pm"
            node = (operator, node, ("neg", term) if sign == "-" else term)
        if self.peek() in (r"\over", r"\choose"):
            node = ("div" if self.take() == r"\over" else "binomial", node, self.sum())
        while self.peek() in (r"\bmod", r"\mod"):
            self.take()
            node = ("mod", node, self.product())
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while (value := self.peek()) is not None:
            if value in TIMES:
                self.take()
                node = ("mul", node, self.signed())
            elif value in ("/", r"\div"):
                self.take()
                node = ("div", node, self.signed())
            elif value in ENDS and not self._opens_bar(value):
                break
            else:
                node = self._joined(node)
        return node

    def _joined(self, node: Node) -> Node:
        """`2x` is a product."""
        opening, right = self.peek(), self.power()
        if opening == "[" and node[0] in ("num", "dec") and right[0] in ("num", "dec"):
            raise Unreadable("a number in brackets after a number")
        if right[0] in ("num", "dec") and self.tokens[self.at - 1][0] == self.tokens[self.at - 2][0] == "num":
            raise Unreadable("two numbers side by side")
        return ("mul", node, right)

    def _opens_bar(self, value: str) -> bool:
        return value in BARS and self.bars == 0

    def signed(self) -> Node:
        negative = False
        while self.peek() in ("-", "+"):
            negative ^= self.take() == "-"
        node = self.power()
        if node[0] == "num" and self.tokens[self.at - 1][0] == "num" and self.peek() == r"\frac":
            node = self.mixed(node)
        return ("neg", node) if negative else node

    def mixed(self, whole: Node) -> Node:
        r"""`2\frac{1}{2}` is two and a half, `2\frac{x}{2}` a product."""
        part = self.power()
        proper = part[0] == "div" and part[1][0] == part[2][0] == "num" and 0 < part[1][1] < part[2][1]
        return ("add" if proper else "mul", whole, part)

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.peek() != "^":
            return node
        self.take()
        exponent = self.exponent()
        if exponent == ("degree",):
            node = self.degrees(node)
        else:
            node = ("pow", node, exponent)
        if self.peek() == "^":
            raise Unreadable("two exponents")
        return self.postfix(node)

    def postfix(self, node: Node) -> Node:
        while (value := self.peek()) in ("!", "%", "'", r"\%"):
            self.take()
            if value == "!":
                node = ("factorial", node)
            elif value == "'":
                if node[0] != "sym":
                    raise Unreadable("a prime after what is no name")
                node = ("sym", node[1] + "'")
            else:
                node = ("div", node, ("num", Fraction(100)))
        return node

    def degrees(self, node: Node) -> Node:
        """`30^\\circ 15'` too. An angle counts in radians inside a function; outside, the sign is a unit."""
        if self.peek() is not None and self.tokens[self.at][0] == "num" and self.peek(1) == "'":
            minutes = decimal(self.take())
            self.take("'")
            node = ("add", node, ("div", minutes, ("num", Fraction(60))))
        return ("div", ("mul", node, ("const", "pi")), ("num", Fraction(180))) if self.angle else node

    def exponent(self) -> Node:
        if self.peek() == "{":
            if self.peek(1) in (r"\circ", r"\degree") and self.peek(2) == "}":
                self.at += 3
                return ("degree",)
            node = self.group()
        elif self.peek() in (r"\circ", r"\degree"):
            self.take()
            return ("degree",)
        elif self.peek() in ("-", "+"):
            sign = self.take()
            node = self.postfix(self.atom())
            node = ("neg", node) if sign == "-" else node
        else:
            node = self.postfix(self.atom())
        if self.peek() == "^":  # 2^2^2 is 2^(2^2)
            self.take()
            node = ("pow", node, self.exponent())
        return node

    def group(self) -> Node:
        """`{...}`, or the one token that LaTeX takes in its place."""
        if self.peek() != "{":
            kind, value = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
            if kind == "num" and len(value) > 1 and value.isdigit():  # \frac12
                self.tokens[self.at : self.at + 1] = [("num", value[0]), ("num", value[1:])]
            return self.atom()
        self.take()
        node = self.sum()
        self.take("}")
        return node

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            raise Unreadable("ends too early")
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind == "num":
            return decimal(value)
        if kind == "letter":
            return self.symbol(value)
        if value in OPEN and value not in (r"\{", r"\langle"):
            return self.bracket(value)
        if value in BARS:
            return self.absolute(value)
        if kind == "cmd":
            return self.command(value[1:])
        raise Unreadable(f"unexpected {value!r}")

    def bracket(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.take(OPEN[opening])
        self.bars = bars
        return ("floor", node) if opening == r"\lfloor" else ("ceil", node) if opening == r"\lceil" else node

    def absolute(self, opening: str) -> Node:
        self.bars += 1
        node = self.sum()
        self.take(BARS[opening])
        self.bars -= 1
        return ("abs", node)

    def symbol(self, name: str) -> Node:
        if self.peek() == "_":
            self.take()
            name += "_" + self.subscript()
        elif name in ("e", "i") and name != self.index:
            return ("const", name)
        return ("sym", name)

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.take().strip("\\")
        return "".join(part for part in self.raw() if part not in ("{", "}", r"\text", r"\mathrm"))

    def raw(self) -> list[str]:
        """The unparsed tokens of a braced group."""
        self.take("{")
        depth, parts = 1, []
        while depth:
            part = self.take()
            depth += (part == "{") - (part == "}")
            parts.append(part)
        return parts[:-1]

    def command(self, name: str) -> Node:
        name = ALIASES.get(name, name)
        if name in FUNCTIONS:
            return self.function(name)
        if name == "frac":
            return ("div", self.group(), self.group())
        if name in ("sqrt", "cbrt"):
            return self.root(name)
        if name in SERIES:
            return self.series(name)
        if name in OF_SEVERAL:
            return self.several(name)
        if name in ("binom", "dbinom", "tbinom"):
            return ("binomial", self.group(), self.group())
        if name == "pi":
            return ("const", "pi")
        if name in ("infty", "infin"):
            return ("const", "inf")
        if name in ("imath", "jmath"):
            return ("const", "i")
        if "\\" + name in STYLES:
            inner = "".join(part.strip("\\") for part in self.raw()) if self.peek() == "{" else self.take()
            known = inner in FUNCTIONS or inner in OF_SEVERAL
            return self.named(inner) if known or name == "operatorname" else self.symbol(inner)
        if re.fullmatch(GREEK, name):
            return self.symbol(name)
        if name in ("angle", "triangle", "measuredangle"):
            return ("sym", name + "".join(self.name_letters()))
        if name == "abs":
            self.take("(")
            return ("abs", self.bracket("("))
        raise Unreadable(f"\\{name} is not of this grammar")

    def named(self, name: str) -> Node:
        name = ALIASES.get(name, name)
        if name in OF_SEVERAL:
            return self.several(name)
        if name not in FUNCTIONS:
            raise Unreadable(f"{name} is not of this grammar")
        return self.function(name)

    def series(self, name: str) -> Node:
        r"""`\sum_{k=1}^{n} k^2`; nested sums are not supported."""
        if self.index is not None:
            raise Unreadable("a sum in a sum")
        self.take("_")
        self.take("{")
        index = self.take()
        self.take("=")
        low = self.sum()
        self.take("}")
        self.take("^")
        high = self.exponent()
        if contains(high, "const"):
            raise Unreadable("an infinite sum")
        self.index = index
        term = self.product()
        self.index = None
        return (name, index, low, high, term)

    def several(self, name: str) -> Node:
        r"""`\gcd(a, b)`, `\max\{a, b\}`."""
        opening = self.take()
        if opening not in ("(", r"\{"):
            raise Unreadable(f"{name} of what is no list")
        items = [self.sum()]
        while self.peek() == ",":
            self.take()
            items.append(self.sum())
        self.take(OPEN[opening])
        return (name, *items)

    def name_letters(self) -> list[str]:
        letters = []
        while self.at < len(self.tokens) and self.tokens[self.at][0] == "letter":
            letters.append(self.take())
        return letters

    def root(self, name: str) -> Node:
        degree: Node = ("num", Fraction(3 if name == "cbrt" else 2))
        if self.peek() == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        return ("root", self.group(), degree)

    def function(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        for _ in range(2):
            if self.peek() == "_" and base is None:
                self.take()
                base = self.group()
            elif self.peek() == "^" and exponent is None:
                self.take()
                exponent = self.exponent()
        if exponent == ("neg", ("num", Fraction(1))) and name in TRIG:
            name, exponent = "arc" + name, None
        self.angle += name in TRIG
        argument = self.argument()
        self.angle -= name in TRIG
        if base is not None and name != "log":
            raise Unreadable(f"{name} with a base")
        node: Node = (name, argument) if base is None else ("log", argument, base)
        return node if exponent is None else ("pow", node, exponent)

    def argument(self) -> Node:
        r"""Of a function: a bracket, or a product up to the next sign or function: `\sin 2x \cos x` is two factors."""
        if self.peek() in ("(", "[", "{"):
            return self.bracket(self.take())
        node = self.signed()
        while (value := self.peek()) is not None:
            if value == "/":
                self.take()
                node = ("div", node, self.power())
            elif value in ENDS or value in TIMES or not self._factor(value):
                break
            else:
                node = ("mul", node, self.power())
        return node

    def _factor(self, value: str) -> bool:
        if self.tokens[self.at][0] != "cmd":
            return value not in ("(", "[", "!", "^")
        name = value[1:]
        return name in ("pi", "frac", "sqrt") or re.fullmatch(GREEK, name) is not None
