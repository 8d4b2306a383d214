r"""Whether a text commits to one answer.

A reward that pays when any of several values is right teaches a model to list values. `readings` looks inside an
answer: all sides of `a = b \approx c` must agree, up to rounding. `hedged` looks at the text around it: `5 or 7`,
`5 (or 7)`, "not 5".
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import combinations, pairwise

from rlcore.rewards.math.grammar import formula, spelling
from rlcore.rewards.math.grammar.tokens import split
from rlcore.rewards.math.reading.quantities import values
from rlcore.rewards.math.values import agreement, exact, numeric, structure, verdict

MAX_SIDES = 12
MAX_CONTEXT = 240  # characters before and after an answer in which an alternative is looked for
SIGNIFICANT = 3  # digits that an integer must keep to count as a rounded form
_APPROXIMATELY = re.compile(r"\\(?:approx(?:eq)?|simeq|sim|cong|doteq|asymp)(?![a-zA-Z])|[≈≃≅∼]")
_MODULO = re.compile(r"\\[bp]?mod(?![a-zA-Z])|\bmod\b")
_VALUE = (
    r"[(\[$*\\{ ]{0,6}(?:-?\.?\d|boxed|frac|sqrt|pi\b|text|[A-J]\b|[a-z]\s*=|(?:yes|no|true|false|zero|one|two|three|"
    r"four|five|six|seven|eight|nine|ten|eleven|twelve|twenty)\b)"
)
_OTHERWISE = (
    r"(?:or|and/or|maybe|perhaps|possibly|potentially|alternatively|otherwise|versus|vs\.?|if not,?|unless|and also|"
    r"(?:which |that |it |this )?(?:could|might|may)(?: just as well| as well| also| equally)? be)"
)
_FILLER = (
    r"(?:[\s,;:(]|\b(?:or|maybe|perhaps|possibly|potentially|alternatively|even|else|it|is|just|then|about|"
    r"approximately|roughly|around|be|could|might|may|also|option|choice|answer|the|if|not)\b){0,14}"
)
_ALTERNATIVE = re.compile(rf"[\s,;.)\]}}*$—–-]*\(?\s*(?:though |but )?{_OTHERWISE}\b{_FILLER}{_VALUE}", re.IGNORECASE)
_SECOND = re.compile(r"[\s$*]*\(\s*(?!=|\s*mod|\\)[^()\n]{0,30}?\d[^()\n]{0,30}\bif\b[^()\n]{0,30}\)", re.IGNORECASE)
_DENIED = re.compile(
    r"[\s$.*}]*(?:(?:that|this|it|which|,)\s+)?(?:is|was|are|would be)(?: (?:clearly|definitely|actually))?"
    r"(?: not|n['’]t)? (?:wrong|incorrect|false|(?:not|n't) (?:the|an?|my|right|correct)\b)"
    r"|[\s$.*}]*(?:is|was)(?: not|n['’]t) (?:the|an?|my|right|correct)\b",
    re.IGNORECASE,
)
_FIRST_OF_TWO = re.compile(
    rf"(?:\beither\b|{_VALUE}[^.\n=]{{0,20}}?[\s,]\b(?:or|maybe|perhaps|possibly|alternatively|versus|vs\.?)\b)"
    r"[^.\n=\d]{0,30}$",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\bnot|n['’]t|\bcannot|\bnever|\bneither|\bnor|\bwrongly)\s+(?:(?:be|equal(?: to)?|the|an?|just|exactly)\s+)"
    r"{0,3}[\s(*$\[\\]*$",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"\bor\s+(?:maybe|perhaps|possibly|alternatively|else|it(?:['’]s| is))\b|"
    r"\b(?:maybe|perhaps|possibly|alternatively)\b"
    r"|\(\s*(?:or|alternatively|maybe|perhaps|possibly|approximately|about)\b|\b(?:could|might|may)\s+(?:also\s+)?be\b"
    r"|\bor\s+(?:about|approximately|roughly|around)\b|\band (?:the )?answer is\b",
    re.IGNORECASE,
)
_SPELT_OTHER = re.compile(
    r"\s+or\s+(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty)\b",
    re.IGNORECASE,
)
_OF_TWO = re.compile(
    r"\b(?:is|be|are|lies)\s+(?:between\s+[-$]*[\d.]+\s+and|from\s+[-$]*[\d.]+\s+to)\s+[-$]*[\d.]+"
    r"|^\W*(?:somewhere|anywhere)\b.*\d.*\d|\d\s+\(\d[^()]*\bif\b"
    r"|\boption\s+[A-J]\s*(?:is|=|equals|[.,;])\s*option\s+[A-J]\b"
    r"|[(\[](?-i:[A-J])[)\]][^.\n]*\b(?:or|if not)\b[^.\n]*[(\[](?-i:[A-J])[)\]]",
    re.IGNORECASE,
)
MAX_CHAIN = 400  # characters at the end of a text in which a chain of equations is looked for
_SIDE = r"(?:[-+*/^()\[\]{}.\d \t%!|_√π×·÷−]|\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z]))"
_CHAIN = re.compile(rf"{_SIDE}+(?:[=≈]{_SIDE}+)+")


def readings(found: str) -> list[str]:
    r"""What an answer may count as: itself; of `2\sqrt{13} \approx 7.21` also either side; nothing when it has sides
    that differ.

    >>> readings("5 = 7"), readings("5")
    ([], ['5'])
    """
    text = _APPROXIMATELY.sub(" ≈ ", found)
    if ("=" not in text and "≈" not in text and r"\equiv" not in text) or _MODULO.search(text):
        return [found]
    text = spelling.signs(exact.clean(text))
    for part in split(text, ",;∧∨")[::2]:
        if not _consistent(split(part, "=≈≤≥<>≠∈")):
            return []
    if len(split(text, ",;∧∨≤≥<>≠∈")) > 1:
        return [found]
    return [found, *_sides(split(text, "=≈")[::2])]


def _consistent(pieces: list[str]) -> bool:
    sides, signs = pieces[::2], pieces[1::2]
    if not signs or not {"=", "≈"} & set(signs):
        return True
    if len(sides) > MAX_SIDES or not all(sides):
        return False
    if set(signs) - {"=", "≈"}:  # 2 < x = 5
        return True
    constants = [side for side in sides if _is_constant(side)]
    if not all(_agree(a, b) for a, b in pairwise(constants)):
        return False
    if len(constants) > 2 and not _agree(constants[0], constants[-1]):
        return False
    others = [side for side in sides[1:] if side not in constants and not structure.is_name(side)]
    return all(_agree(a, b) for a, b in pairwise(others))


def _sides(sides: list[str]) -> list[str]:
    """Of a chain whose sides differ by rounding: the first value, which is exact, and the last. An integer at the end
    is what the writer settles on."""
    constants = [side for side in sides if _is_constant(side)]
    if len(constants) < 2:
        return []
    name = f"{sides[0]} = " if structure.is_name(sides[0]) else ""
    first, last = constants[0], constants[-1]
    number, earlier = exact.number(last), exact.number(first)
    rounded = number is not None and (number.decimals or 0) > 0 and (earlier is None or earlier.decimals == -1)
    return [name + side for side in ([first, last] if rounded else [last])]


def _is_constant(side: str) -> bool:
    """Whether it states values that depend on nothing."""
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
    one, other = exact.number(a), exact.number(b)
    if one is not None and other is not None:
        return exact.same(one, other) or _rounded(one, other)
    x, y = structure.read(a), structure.read(b)
    if x is None or y is None or verdict.same(x, y) is not False:
        return True
    if not isinstance(x, structure.Value) or not isinstance(y, structure.Value):
        return False
    decimal, exactly = (one, y) if one is not None else (other, x)
    value = agreement.constant(exactly.node)
    if decimal is None or value is None or not numeric.mp.isfinite(value):
        return False
    return _rounds(Fraction(int(numeric.mp.nint(value * 10**40)), 10**40), decimal)


def _rounded(a: exact.Number, b: exact.Number) -> bool:
    if a.unit is not None and b.unit is not None and a.unit.dimension != b.unit.dimension:
        return False
    scale = a.unit.factor / b.unit.factor if a.unit is not None and b.unit is not None else Fraction(1)
    return _rounds(a.value * scale, b) or ((a.decimals or 0) > 0 and _rounds(b.value / scale, a))


def _rounds(value: Fraction, written: exact.Number) -> bool:
    """Whether a number as written is `value` to its last digit, rounded, or, behind the point, cut off."""
    if written.decimals == -1:
        return False
    places = (written.decimals or 0) + 2 * written.percent
    step = Fraction(1, 10**places)
    if not written.decimals and written.value:
        digits = str(abs(written.value.numerator))
        kept = len(digits.rstrip("0"))
        zeros = len(digits) - max(kept, SIGNIFICANT)
        step = Fraction(10 ** max(zeros, 0)) if written.value.denominator == 1 else step
        if value.denominator == 1 and step == 1:
            return value == written.value
    cut = bool(written.decimals) and 0 <= abs(value) - abs(written.value) < step and value * written.value > 0
    return cut or abs(value - written.value) * 2 <= step


def hedged(before: str, answer: str, after: str) -> bool:
    """Whether the text around an answer names another one, or denies it."""
    before = re.split(r"[.!?]\s|\n", before[-MAX_CONTEXT:])[-1]
    after = after[:MAX_CONTEXT]
    if _NEGATED.search(before) or _DENIED.match(after):
        return True
    if (match := _FIRST_OF_TWO.search(before)) is not None:
        named = [value.inner for value in values(before[match.start() :])]
        if not named or not all(same(value, answer) for value in named):
            return True
    if (match := _ALTERNATIVE.match(after)) is not None:
        named = [value.inner for value in values(after[: match.end() + 30])][:1]
        return not named or not same(named[0], answer)
    return _SECOND.match(after) is not None


def alternatives(sentence: str) -> bool:
    """Whether a sentence offers another value after the first: `8 or maybe 10`, `5 (or 7)`, `between 10 and 20`."""
    if _OF_TWO.search(sentence):
        return True
    found = values(sentence)
    for one, other in pairwise(found):
        between = sentence[one.end : other.start]
        if _JOINED.search(between) and not same(one.inner, other.inner):
            return True
    return bool(found) and _SPELT_OTHER.match(sentence, found[-1].end) is not None


def denied(text: str, found: str) -> bool:
    """Whether the end of a text says that an answer is not the answer: `It is not 8.`"""
    return (
        re.search(rf"(?:\bnot|n['’]t)\s+(?:the\s+|equal to\s+)?\$?{re.escape(found)}(?![\w.,]\w)", text[-MAX_CONTEXT:])
        is not None
    )


def chained(text: str, found: str) -> bool:
    """Whether the last chain of equations that ends in an answer has sides that differ: `7 = 14`."""
    chains = [chain[0].strip(" .*") for chain in _CHAIN.finditer(text[-MAX_CHAIN:])]
    ending = [chain for chain in chains if chain.endswith(found.strip())]
    return bool(ending) and not readings(ending[-1])


def same(a: str, b: str) -> bool:
    """Whether two answers are one, spelling and rounding aside."""
    a, b = exact.clean(a), exact.clean(b)
    if "".join(a.split()).lower() == "".join(b.split()).lower():
        return True
    return _is_constant(a) and _is_constant(b) and _agree(a, b)


def one_of(answers: list[str]) -> bool:
    """Whether all of several answers are the same."""
    return all(same(a, b) for a, b in combinations(answers[:MAX_SIDES], 2)) and len(set(answers)) <= MAX_SIDES
