r"""Checks that a text commits to one answer.

A reward for any right value among several would teach a model to list values. `readings` looks inside an
answer: all sides of `a = b \approx c` must agree, up to rounding. `unsettled` looks at the sentence around it: `5 or
7`, "about 5", "not 5".
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import combinations, pairwise

from rlcore.rewards.math.grammar import formula, spelling, units
from rlcore.rewards.math.grammar.numerals import COUNTS
from rlcore.rewards.math.grammar.tokens import split
from rlcore.rewards.math.reading.quantities import values
from rlcore.rewards.math.values import agreement, exact, numeric, structure, verdict

MAX_SIDES = 12
_APPROXIMATELY = re.compile(r"\\(?:approx(?:eq)?|simeq|sim|cong|doteq|asymp)(?![a-zA-Z])|[≈≃≅∼]")
_MODULO = re.compile(r"\\[bp]?mod(?![a-zA-Z])|\bmod\b")
NEGATION = r"\b(?:not|no|never|cannot|neither|nor|none|without|wrongly)\b|n['’]t\b"
BOUND = (
    r"\b(?:at least|at most|than|up to|over|under|above|below|beyond|exceeds?|between|anything but|except)\b"
)
ROUGH = "about|around|roughly|approximately|nearly|almost|close to"
DOUBT = (
    r"maybe|perhaps|possibly|probably|presumably|alternatively|might|could|guess\w*|suspect|something like|either"
)
GUESS = rf"\b(?:{DOUBT}|{ROUGH})\b"
_QUALIFIED = re.compile(
    rf"(?:(?:{NEGATION}|{BOUND})(?:\s+(?!(?:but|is|are|was|were|equals?|gets?|has|have)\b)[\w.$-]+){{0,2}}"
    rf"|(?:{GUESS}|\b(?:otherwise|else)\b)(?:\s+[\w.$-]+){{0,2}})[\s*$(\\[]*$|\b(?:somewhere|anywhere)\b",
    re.IGNORECASE,
)
_ROUGH = re.compile(rf"\b(?:{ROUGH})[\s*$(\\[]*$", re.IGNORECASE)
_OPTIONS = re.compile(r"(?:\b[Oo]ption\s+|[(\[])([A-J])\b")
_LATER = re.compile(
    rf"{GUESS}|^\W*or\s+(?:{COUNTS})\b"
    r"|\b(?:if|unless|else|otherwise|versus|vs|wrong|false|incorrect|excluded|give or take|or so)\b"
    r"|^\W*(?:is|was|are|can|would)\s*(?:not\b|n['’]t\b)|^(?:ish\b|\+)",
    re.IGNORECASE,
)
_JOINT = re.compile(r"[\s*$,;.()\\\]]*(?:or|/|and (?:it|the answer) is|no,? wait)\b", re.IGNORECASE)
MAX_CHAIN = 400  # characters at the end of a text in which a chain of equations is looked for
_SIDE = r"(?:[-+*/^()\[\]{}.\d \t%!|_√π×·÷−]|\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z]))"
_CHAIN = re.compile(rf"{_SIDE}+(?:[=≈]{_SIDE}+)+")


def readings(found: str) -> list[str]:
    r"""What an answer commits to, in one text: itself; of `2\sqrt{13} \approx 7.21` the side that the others round;
    nothing when its sides differ.

    >>> readings("5 = 7"), readings("5"), readings(r"2\sqrt{13} \approx 7.21")
    ([], ['5'], ['2\\sqrt{13}'])
    """
    text = _APPROXIMATELY.sub(" ≈ ", found)
    if ("=" not in text and "≈" not in text and r"\equiv" not in text) or _MODULO.search(text):
        return [found]
    text = spelling.signs(exact.clean(text))
    chains = [split(part, "=≈≤≥<>≠∈") for part in split(text, ",;∧∨")[::2]]
    committed = [_committed(chain[::2]) if {"=", "≈"}.issuperset(chain[1::2]) else "" for chain in chains]
    if None in committed:
        return []
    return [committed[0] or found] if len(chains) == 1 else [found]


def _committed(sides: list[str]) -> str | None:
    """Of a chain of equations the side that all others are equal to or round; "" when it has no second value, None when
    it has several that differ."""
    if len(sides) == 1:
        return ""
    if len(sides) > MAX_SIDES or not all(sides):
        return None
    constants = [side for side in sides if _is_constant(side)]
    others = [side for side in sides[1:] if side not in constants and not structure.is_name(side)]
    if not all(_agree(a, b) for a, b in pairwise(others)):
        return None
    if len(constants) < 2:
        return ""
    exact_one = (one for one in reversed(constants) if all(_stands_for(one, other) for other in constants))
    name = f"{sides[0]} = " if structure.is_name(sides[0]) and sides[0] not in constants else ""
    return next((name + one for one in exact_one), None)


def _is_constant(side: str) -> bool:
    """True if it states values without variables."""
    if exact.number(side) is not None:
        return True
    answer = structure.read(side)
    return answer is not None and _fixed(answer)


def _fixed(answer: structure.Answer) -> bool:
    if isinstance(answer, structure.Items):
        return bool(answer.items) and all(map(_fixed, answer.items))
    return isinstance(answer, structure.Value) and not formula.symbols(answer.node)


def _agree(a: str, b: str) -> bool:
    """Whether two sides may be one value: equal, the rounded form of the other, or beyond what can be decided."""
    return _stands_for(a, b) or _stands_for(b, a)


def _stands_for(exactly: str, written: str, *, whole: bool = True) -> bool:
    """Whether `written` is another form of `exactly`, or what it rounds to (an integer only with `whole`); true where
    that cannot be decided."""
    if exactly == written:
        return True
    one, other = exact.number(exactly), exact.number(written)
    rounding = other is not None and (whole or (other.decimals or 0) > 0)
    if one is not None and other is not None:
        return exact.same(other, one) or (rounding and _rounded(one, other))
    x, y = structure.read(exactly), structure.read(written)
    if x is None or y is None or verdict.same(x, y) is not False:
        return True
    value = agreement.constant(x.node) if isinstance(x, structure.Value) else None
    if other is None or not rounding or value is None or not numeric.mp.isfinite(value):
        return False
    return _rounds(Fraction(int(numeric.mp.nint(value * 10**40)), 10**40), other)


def _rounded(one: exact.Number, written: exact.Number) -> bool:
    a, b = one.unit, written.unit
    if a is None or b is None or a == b:
        return _rounds(one.value, written)
    return a.dimension == b.dimension and _rounds(one.value * a.factor / b.factor, written)


def _rounds(value: Fraction, written: exact.Number) -> bool:
    """Whether a number as written is `value` rounded to its last digit."""
    if written.decimals == -1:
        return False
    places = (written.decimals or 0) + 2 * written.percent
    step = Fraction(1, 10**places)
    return abs(value - written.value) * 2 <= step


def qualified(before: str, found: str) -> bool:
    """Whether words before an answer deny, bound or guess it; a decimal may be approximate."""
    if not _QUALIFIED.search(before):
        return False
    number = exact.number(exact.clean(found)) if _ROUGH.search(before) else None
    return number is None or number.decimals is None


def unsettled(sentence: str, found: str) -> bool:
    """Whether a sentence denies, bounds or guesses the value found in it, or joins another one to it."""
    if len(set(_OPTIONS.findall(re.split(r"\b(?:because|since|as|so)\b", sentence)[0]))) > 1:
        return True
    named, parts = values(sentence), [found, *found.split(", ")]
    places = [value for value in named if value.inner in parts or same(value.inner, found)]
    if not places:
        return False
    first, last = places[0], places[-1]
    after = sentence[last.end :]
    if qualified(sentence[max(0, last.start - 60) : last.start], found):
        return True
    if (word := re.match(r"[\s*$]*([a-z]+)", after)) and units.scales(word[1]):
        return True
    if _LATER.search(re.split(r"\b(?:because|since|as)\b|[.;]\s", after)[0]):
        return True
    others = [value for value in named if value not in places and not sentence[: value.start].endswith(" in ")]
    return any(
        _JOINT.match(sentence[first.end if other.start > first.start else other.end :]) and not same(other.inner, found)
        for other in others
    )


def chained(text: str, found: str) -> bool:
    """Whether the last chain of equations that ends in an answer has sides that differ: `7 = 14`."""
    chains = [chain[0].strip(" .*") for chain in _CHAIN.finditer(text[-MAX_CHAIN:])]
    ending = [chain for chain in chains if chain.endswith(found.strip())]
    return bool(ending) and not readings(ending[-1])


def same(a: str, b: str) -> bool:
    """True if two answers are equal, ignoring spelling and rounded decimals."""
    a, b = exact.clean(a), exact.clean(b)
    if "".join(a.split()).lower() == "".join(b.split()).lower():
        return True
    if not _is_constant(a) or not _is_constant(b):
        return False
    return _stands_for(a, b, whole=False) or _stands_for(b, a, whole=False)


def differs(a: str, b: str) -> bool:
    """True if both texts state values that differ."""
    a, b = exact.clean(a), exact.clean(b)
    return _is_constant(a) and _is_constant(b) and not _agree(a, b)


def one_of(answers: list[str]) -> bool:
    """True if all answers are the same."""
    return all(same(a, b) for a, b in combinations(answers[:MAX_SIDES], 2)) and len(set(answers)) <= MAX_SIDES
