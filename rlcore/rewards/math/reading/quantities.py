r"""Formulas and values in running text: `$x = 3$`, `3:30 PM`, `(2, 5)`, `1 500`, `25π`, `two thirds`.

Regular expressions here are linear, or look no further than a fixed number of characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlcore.rewards.math.grammar.numerals import COUNTS, PARTS
from rlcore.rewards.math.values import exact


@dataclass(frozen=True, slots=True)
class Value:
    """A formula or a number at `text[start:end]`; `inner` is the formula without its delimiters."""

    start: int
    end: int
    inner: str
    formula: bool = False


_OPENING = re.compile(r"\$\$|(?<!\\)\$|\\\[|\\\(|\\begin\s*\{(?:align|equation|gather|aligned|gathered|eqnarray)\*?\}")
_FORMULA = {
    "$$": re.compile(r"\$\$(.{1,700}?)\$\$", re.DOTALL),
    "$": re.compile(r"\$([^$\n]{1,500}?)(?<!\\)\$"),
    r"\[": re.compile(r"\\\[(.{1,700}?)\\\]", re.DOTALL),
    r"\(": re.compile(r"\\\((.{1,500}?)\\\)", re.DOTALL),
}
_ENVIRONMENT = re.compile(r"\\begin\s*\{(\w+\*?)\}(.{1,1500}?)\\end\s*\{\1\}", re.DOTALL)
_POWER = r"(?:[eE][+-]?\d+|\s*(?:[xX×*]|\\times|\\cdot)\s*10\s*(?:\^\s*\{?[+-]?\d+\}?|[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+))"
_WHOLE = r"\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![\d,.]\d)|\d+(?:[,.'’]\d+){0,12}|\.\d+"
_SURD = r"(?:\\?sqrt\s*[({][^(){}]{1,30}[)}]|√\s*(?:\([^()]{1,30}\)|\w+)|π|\\pi(?![a-zA-Z])|pi(?![a-zA-Z]))"
_PLAIN = (
    rf"[-+−–]?(?:[$€£¥₹]\s?)?(?:(?:{_WHOLE}){_POWER}?(?:\s?[*·]?\s?{_SURD})?|{_SURD})"
    rf"(?:(?:\s\d+)?\s?[/⁄]\s?(?:\d+(?:\.\d+)?|{_SURD}))?(?:\s*\\?%)?"
)
_CJK = r"\u2e80-\u9fff\uac00-\ud7af"  # scripts that put no space before a number
_BEFORE = rf"(?<![^\W{_CJK}])(?<![.\\])"
_ENTRY = r"[^()\[\]{},;\n]{1,30}"
_FAMILIES = (  # `2 hours and 30 minutes` is one value, `2 apples and 3 pears` are two
    "weeks?|days?|hours?|hrs?|minutes?|mins?|seconds?|secs?",
    "miles?|yards?|yds?|feet|foot|ft|inch(?:es)?",
    "kilomet(?:er|re)s?|km|met(?:er|re)s?|centimet(?:er|re)s?|cm",
    "pounds?|lbs?|ounces?|oz",
    "kilograms?|kg|grams?",
    "dollars?|cents?",
)
_COMPOUND = "|".join(
    rf"\d{{1,9}}\s?(?:{units})(?:,?\s(?:and\s)?\d{{1,9}}(?:\.\d{{1,9}})?\s?(?:{units})\b){{1,3}}" for units in _FAMILIES
)
_POLYNOMIAL = re.compile(r"(?<![a-zA-Z\\{])[a-z](?:\s*\^|\s*[+-]\s*\d)|\d\s*[+-]\s*\d*[a-z](?![a-zA-Z])")
VALUE = re.compile(
    r"(?P<clock>(?<![a-zA-Z\d.:])\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp]\.?[Mm]\b\.?)?(?![\w:]))"
    r"|(?P<ratio>(?<![a-zA-Z\d.:])\d+(?:\.\d+)?(?:\s?:\s?\d+(?:\.\d+)?)+(?![\w:]))"
    rf"|(?P<tuple>(?<![\w)])[(\[]{_ENTRY}(?:[,;]{_ENTRY}){{1,6}}[)\]](?:\s*[∪U]\s*[(\[]{_ENTRY},{_ENTRY}[)\]]){{0,4}}"
    rf"|\\?\{{{_ENTRY}(?:[,;]{_ENTRY}){{0,20}}\\?\}})"
    r"|(?P<fraction>[-−]?\\[dt]?frac\s*\{[^{}]{1,60}\}\s*\{[^{}]{1,60}\}|(?<!\d)\d{0,6} ?[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])"
    rf"|(?P<compound>{_BEFORE}(?:{_COMPOUND}))"
    rf"|(?P<plain>{_BEFORE}{_PLAIN}(?!\d|[.,]\d|(?:st|nd|rd|th)\b|-[a-zA-Z]|[abcknpqrtuxyz](?![a-zA-Z])))"
)
SPELT = (
    rf"\b(?:minus\s+|negative\s+)?(?:(?:a|{COUNTS})(?:[\s-]+(?:and\s+)?(?:{COUNTS}|hundred|thousand|million|"
    rf"billion)\b)"
    rf"{{0,7}}[\s-]+(?:{'|'.join(PARTS)})s?\b"
    rf"|(?:{COUNTS})(?:[\s-]+(?:and\s+)?(?:{COUNTS}|hundred|thousand|million|billion)\b){{0,7}}"
    r"(?:\s+percent\b)?|(?:a\s+)?(?:hundred|thousand|million)|half|infinity)\b"
)
_SPELT = re.compile(SPELT, re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)])(?:\*\*|__)|(?:\*\*|__)(?![\w(])")
_TICKS = re.compile(r"[ \u2600-\u27bf\U0001f300-\U0001faff\ufe0f]{1,9}$", re.MULTILINE)
_SHORT_WORDS = {
    "is", "it", "of", "to", "in", "so", "we", "be", "he", "an", "at", "by", "my", "no", "on", "or", "us", "am", "as",
    "do", "if", "up", "me",
}  # fmt: skip
_KNOWN = {
    "sqrt", "sin", "cos", "tan", "log", "exp", "abs", "max", "min", "gcd", "lcm", "mod", "arctan", "frac", "arcsin",
    "arccos", "cot", "sec", "csc", "lim", "and", "infinity", "inf",
}  # fmt: skip
_UNSPACED = re.compile(f"[{_CJK}]")
_FOLLOWS = re.compile(
    r"\\(?:implies|[Rr]ightarrow|[Ll]ongrightarrow|iff|Leftrightarrow|to)(?![a-zA-Z])|[⇒⟹→]"
)
_NO_PROSE = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|textrm|begin|end|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|\\begin\s*\{array\}\{\w+\}"
)


def has_words(text: str) -> bool:
    """Whether there is prose in it: a word of three letters that is no LaTeX command and no function name."""
    words = [word.lower() for word in re.findall(r"[^\W\d_]{2,}", _NO_PROSE.sub(" ", text))]
    if any(word[0] >= "\u3040" and _UNSPACED.search(word) for word in words):
        return True
    return any(len(w) > 2 and w not in _KNOWN for w in words) or sum(w in _SHORT_WORDS for w in words) > 1


def is_expression(text: str) -> bool:
    """Whether it is a formula or a list of values as a whole: no prose, not even `in` or `of`."""
    words = {word.lower() for word in re.findall(r"[^\W\d_]{2,}(?![\^_{])", _NO_PROSE.sub(" ", text))}
    return not has_words(text) and not words & (_SHORT_WORDS - {"or"})


def unbold(text: str) -> str:
    """Without the marks of bold type and of code, and ticks at the end; `x**2` keeps its power."""
    return _TICKS.sub("", _BOLD.sub("", text).replace("`", ""))


def formulas(text: str) -> list[Value]:
    r"""What stands between math delimiters, in order. Two prices in a sentence are no formula: prose is none, and an
    opening `$` has no space after it unless the closing one has a space before it."""
    found: list[Value] = []
    position = 0
    while (opening := _OPENING.search(text, position)) is not None:
        kind = opening[0]
        if kind.startswith(r"\begin"):
            if match := _ENVIRONMENT.match(text, opening.start()):
                found.append(Value(match.start(), match.end(), match[2].strip(), True))
        elif match := _FORMULA[kind].match(text, opening.start()):
            if kind == "$" and _is_money(text, match):
                match = None
            else:
                found.append(Value(match.start(), match.end(), match[1].strip(), True))
        position = match.end() if match else opening.end()
    return found


def _is_money(text: str, match: re.Match[str]) -> bool:
    inner = match[1]
    if inner[:1].isspace() != inner[-1:].isspace() and (inner[-1:].isspace() or has_words(inner)):
        return True
    return (text[match.end() : match.end() + 1].isdigit() and inner[:1].isdigit()) or (
        has_words(inner) and inner[:1].isdigit()
    )


def masked(text: str, spans: list[Value]) -> str:
    """The text with every formula blotted out, character for character."""
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], "\ue000" * (span.end - span.start)]
        position = span.end
    return "".join([*parts, text[position:]])


def values(text: str) -> list[Value]:
    """Formulas and values in order of appearance."""
    spans = formulas(text)
    found = list(spans)
    for match in VALUE.finditer(masked(text, spans)):
        inner = match[0].strip()
        if match.lastgroup == "tuple" and (has_words(inner) or not is_expression(inner[1:-1])):
            found += [
                Value(match.start() + m.start() + 1, match.start() + m.end() + 1, m[0].strip())
                for m in VALUE.finditer(match[0][1:])
                if m.lastgroup != "tuple"
            ]
        elif "\ue000" not in inner:
            found.append(Value(match.start(), match.end(), inner))
    return sorted(found, key=lambda value: value.start)


def spelt(text: str) -> str | None:
    """The first number written in words, in digits: `twelve ways` is 12, `two thirds of it` 2/3; None without one."""
    if (match := _SPELT.search(text)) is None:
        return None
    words = match[0].lower()
    sign = "-" if words.startswith(("minus", "negative")) else ""
    words = re.sub(r"^(?:minus|negative)\s+", "", words)
    if words == "infinity":
        return sign + r"\infty"
    if words == "half":
        return sign + "1/2"
    *count, last = re.split(r"[\s-]+", words)
    if (parts := PARTS.get(last.removesuffix("s"))) is not None and count:
        top = 1 if count == ["a"] else _whole(" ".join(count))
        return None if top is None else f"{sign}{top}/{parts}"
    if last == "percent":
        whole = _whole(" ".join(count))
        return None if whole is None else f"{sign}{whole}%"
    whole = _whole(re.sub(r"^a\s+|^(?=hundred|thousand|million)", "one ", words))
    return None if whole is None else f"{sign}{whole}"


def _whole(words: str) -> int | None:
    number = exact.number(words)
    return None if number is None or number.value.denominator != 1 else int(number.value)


def last_side(formula: str) -> str:
    r"""Of `a = b = c` the part after the last equals sign, when what stands before is a chain or a calculation.

    `x = 3` stays whole: which variable it is may matter. Systems (`x=1, y=2`) stay whole too; of an aligned calculation
    the last line counts.
    """
    if r"\\" in formula and "&" in formula and not re.search(r"\\begin\s*\{(?!align|gather|split|equation)", formula):
        formula = _of_rows(formula)
    *before, final = _FOLLOWS.split(formula)
    if before and final.strip() and final.count("{") == final.count("}"):
        formula = final  # 2x = 10 \\Rightarrow x = 5
    *before, final = formula.split(", ")
    if before and all(re.match(r"[^=a-zA-Z\\]*\d[^=a-zA-Z\\]*=", part) for part in (*before, final)):
        formula = final  # 3*5 = 15, 15 + 2 = 17
    if re.search(r"[,;&]|\\\\|\b(?:and|or)\b", formula):
        return formula.strip()
    parts = re.split(r"(?<![\\<>!:=])=(?!=)", formula)
    left = parts[0].strip()
    if len(parts) == 2 and re.fullmatch(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]*\))?", left):
        return formula.strip()
    if len(parts) == 2 and re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", left)):
        return formula.strip()  # an equation such as y^2 = 4x is the answer itself
    if len(parts) == 2 and re.fullmatch(r"-?\d{1,9}", left) and _POLYNOMIAL.search(parts[1]):
        return formula.strip()  # 0 = x^2 - 4
    return parts[-1].strip() or formula.strip()


def _of_rows(formula: str) -> str:
    r"""The last row of an aligned calculation; of a system, `x &= 2 \\ y &= 3`, all of it."""
    inner = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}", " ", formula)
    rows = [row.strip().strip(".,") for row in re.split(r"\\\\(?:\[[^\]]*\])?", inner) if row.strip()]
    if not rows:
        return formula
    names = [re.match(r"([a-zA-Z](?:_\w)?)\s*&?\s*=", row) for row in rows]
    if all(names) and len({name[1] for name in names if name}) == len(rows):
        return ", ".join(row.replace("&", "") for row in rows)
    return rows[-1].replace("&", "").strip()
