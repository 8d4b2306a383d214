r"""Answers that are numbers, compared exactly in plain Python: integers, decimals, fractions, mixed numbers, percent,
thousands separators, scientific notation, repeating decimals, small powers, and lists of these.

Values are `Fraction`s; digits and exponents are bounded, so that time is linear in the input.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.grammar.numerals import SCALES, spelt_number

MAX_DIGITS = 1000  # of one number as written
MAX_EXPONENT = 1000  # of ten
RELATIVE_TOLERANCE = Fraction(1, 10**6)  # between a rounded decimal and what it rounds

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
    "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "′": "'", "″": "''", "…": r"\ldots ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "±": r"\pm ",
    "θ": r"\theta ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
_CURRENCY = re.compile(f"[{''.join(units.CURRENCIES)}]")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
_DOTTED = re.compile(r"(\.\d*)\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?")  # 0.\dot{1}4\dot{2}
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SURD = re.compile(r"√\s*(\d+|[a-zA-Z]|\([^()]*\))")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_LEADING = re.compile(r"^\s*(?:\\approx(?![a-zA-Z])|≈|=)\s*(?=\S)")
_STOPS = re.compile(r"(?<![\\.])(?:[,;:]+|\.)$|(?<=\.\.\.)[,;:.]+$")
_DELIMITERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"), ("`", "`"), ("**", "**"))
_NOISE = re.compile(
    r"\\!\s*|\\(?:(?:left|right)\s*\.|(?:left|right|displaystyle|textstyle|limits|mathstrut|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z]))"
)
_STYLE = re.compile(
    r"\\(?:math(?:rm|bf|it|sf)|boldsymbol|text(?:bf|it|rm|sf|tt|normal)?|mbox|bm|emph|operatorname)\s*\{([^{}]*)\}"
)
_TEMPERATURE = re.compile(  # a bare degree sign stays an angle's
    r"\s*\^\s*\{?\s*\\circ\s*\}?\s*([CFK]|[Cc]elsius|[Ff]ahrenheit)$"
    r"|\s*\bdegrees?\s+([CF]|[Cc]elsius|[Ff]ahrenheit|[Cc]entigrade)$"
)
_SCALES_OF_HEAT = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}
_NUM = r"(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d{1,3}(?: \d{3})+|\d+)?(?:\.\d*)?"
_PLAIN = re.compile(rf"(?P<num>{_NUM})(?:[eE](?P<exp>[+-]?\d+))?")
_POWER_OF_TEN = re.compile(
    rf"(?:(?P<num>{_NUM})\s*(?:[xX*]|\\times|\\cdot)\s*)?10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<b>[+-]?\s*\d+)\s*\}}"
    r"|\(\s*(?P<p>[+-]?\d+)\s*\)|(?P<e>[+-]?\d+))"
)
_POWER = re.compile(r"(?P<base>\d{1,9})\s*\^\s*(?:\{\s*(?P<b>\d{1,3})\s*\}|(?P<e>\d{1,3}))")
_FRAC = re.compile(
    r"\\frac\s*(?:\{\s*(?P<a>[^{}]+?)\s*\}|(?P<a1>\d))\s*(?:\{\s*(?P<b>[^{}]+?)\s*\}|(?P<b1>\d))"
    r"|(?P<c>[^/{}\\]+?)\s*/\s*(?P<d>[^/{}\\]+)"
)
_MIXED = re.compile(r"(?P<n>\d+)\s*(?P<f>\\frac.+)|(?P<m>\d+)[ +]+(?P<g>\d+\s*/\s*\d+)")
_REPEATING = re.compile(r"(?P<n>\d*)\.(?P<d>\d*)\\overline\s*\{(?P<r>\d+)\}")
_RECURRING = re.compile(r"(\d*\.\d{0,6}?)(\d{1,6}?)\2+\s*(?:\.\.\.|\\[lc]?dots)")  # 0.1666...
_MONEY = re.compile(r"^(?:US|USD|EUR|GBP|CAD|AUD|INR|CHF|CNY|JPY|RMB|Rs)\.?\s*\$?(?=\d)")
_PER = re.compile(  # m s^{-2}
    r"(?<=[\d.})])\s*([A-Za-z]{1,3})\s*(?:\\cdot\s*)?([A-Za-z]{1,3})\s*\^\s*(?:\{\s*)?-\s*([123])(?:\s*\})?$"
)
_NEGATIVE = re.compile(r"^(?:negative|minus)\s+(?=\d)", re.IGNORECASE)
_UNIT_FRACTION = re.compile(
    r"(?<=[\d.})])\s*\\frac\s*\{\s*\\(?:text|mathrm|mbox)\s*\{\s*(\w+)\s*\}\s*\}"
    r"\s*\{\s*\\(?:text|mathrm|mbox)\s*\{\s*(\w+)\s*\}\s*(\^\s*(?:\{\s*[23]\s*\}|[23]))?\s*\}$"
)
_EUROPEAN = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3}){2,}")
_TWO_UNITS = re.compile(r"([\d./ ]*\d\s*[a-z]{1,7}|\d+')\s*(?:,|and\s)?\s*(\d[\d.]*\s*(?:[a-z]{1,7}|''))")  # 5' 6''
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_UNIT = re.compile(
    r"(?P<number>.*[\d.})])(?P<gap>\s*)(?P<unit>[A-Za-z](?:[A-Za-z./ -]*[A-Za-z.])?)\s*(?:\^\s*\{?[23]\}?|[23²³])?"
)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value and how it was written. `decimals` is None for an integer, -1 for a fraction or a power."""

    value: Fraction
    decimals: int | None = None
    percent: bool = False
    unit: units.Unit | None = None  # when it is one of those that are known


@lru_cache(maxsize=2048)
def clean(text: str) -> str:
    r"""Normalises spelling: Unicode signs to LaTeX or ASCII, spacing and style commands dropped, `\dfrac` to `\frac`,
    outer math delimiters and a final full stop removed. Does not change the mathematical meaning."""
    if text.isascii() and text.isalnum():
        return text
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
        text = "".join(_vulgar(c) for c in text)
        for symbol, latex in _SYMBOLS.items():
            text = text.replace(symbol, latex)
        text = unicodedata.normalize("NFKC", text)
        text = _SURD.sub(r"\\sqrt{\1}", text)
    if "\\" in text:
        text = text.replace(r"\newline", " ").replace(r"\$", "¤").replace(r"\%", "%")
        text = _FRACTIONS.sub(r"\\frac", text)
        text = _DOTTED.sub(lambda m: rf"{m[1]}\overline{{{m[2]}{m[3] or ''}{m[4] or ''}}}", text)
        text = _NOISE.sub("", text)
    text = _LEADING.sub("", text.replace("{,}", ","))
    text = _SPACES.sub(" ", text.replace(r"\\", "\x00")).replace("\x00", r"\\").strip()
    for _ in range(4):
        before = text
        for opening, closing in _DELIMITERS:
            if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
                text = text[len(opening) : len(text) - len(closing)].strip()
        if len(text) > 1 and text[-1] in ",;:.":
            text = _STOPS.sub("", text).strip()
        text = "¤" + text.removeprefix("$") if text.startswith("$") and text.count("$") == 1 else text
        if text == before:
            break
    return _priced(text.strip()) if _CURRENCY.search(text) else text.strip()


def _priced(text: str) -> str:
    """The sign of a currency is kept in what is one price, and means nothing elsewhere."""
    bare = _CURRENCY.sub("", text).strip()
    return text if len(_CURRENCY.findall(text)) == 1 and number(bare) is not None else bare


def _vulgar(char: str) -> str:
    """`½` as ` 1/2 `, so that `2½` reads as a mixed number; other characters as they are."""
    name = unicodedata.decomposition(char)
    if not name.startswith("<fraction>"):
        return char
    return " " + "".join(chr(int(code, 16)) for code in name.split()[1:]).replace("⁄", "/") + " "


@lru_cache(maxsize=2048)
def number(text: str) -> Number | None:
    r"""The number a cleaned text states, units and percent sign aside; None when it is not one, or too large.

    >>> [str(number(t).value) for t in ("1,234", r"\frac{1}{2}", "2 1/2", "5 x 10^-2", "50%", "3 apples")]
    ['1234', '1/2', '5/2', '1/20', '1/2', '3']
    """
    if len(text) > MAX_DIGITS:
        return None
    if text.isascii() and text.isdigit():
        return Number(Fraction(int(text)))
    text, price = _NEGATIVE.sub("-", text), None
    if (mark := _CURRENCY.search(text)) and (mark.end() == len(text) or text[: mark.start()].strip() in ("", "-", "+")):
        text, price = text.replace(mark[0], "").strip(), units.read(units.CURRENCIES[mark[0]])
    if r"\frac" in text:
        text = _UNIT_FRACTION.sub(lambda m: f" {m[1]}/{m[2]}{''.join((m[3] or '').split())}", text)
    if "^{-" in text:
        text = re.sub(r"\^\{-\s*(\d)\s*\}", r"^-\1", text)  # of \mathrm{m s^{-2}}, whose braces hide its end
    if r"\mathrm" in text or r"\text" in text:
        text = _STYLE.sub(lambda m: f" {m[1].strip()} ", text.replace(r"\mu", " u")).strip()
        text = re.sub(r"(?<=\bu)\s+m$", "m", text)
        text = re.sub(r"(?<=[A-Za-z])\s*\\cdot\s*(?=[A-Za-z])", " ", text)
        text = re.sub(r"(?<=[A-Za-z])\s*/\s*(?=[A-Za-z])", "/", text)
    else:
        text = _STYLE.sub(lambda m: f" {m[1].strip()} ", text).strip()
    if text[:1].isalpha() and (spelt := spelt_number(text.lower())) is not None:
        return Number(Fraction(spelt))
    if text.endswith((".", "dots")):
        text = _RECURRING.sub(r"\1\\overline{\2}", text)
    text = _TEMPERATURE.sub(lambda m: f" {_SCALES_OF_HEAT[(m[1] or m[2])[0].upper()]}", text).removesuffix(r"\Omega")
    text = re.sub(r"(?<=\d)\s*('{1,2})$", lambda m: " in" if len(m[1]) > 1 else " ft", _MONEY.sub("", text))  # 15''
    text = _PER.sub(lambda m: f" {m[1]}/{m[2]}" + (f"^{m[3]}" if m[3] != "1" else ""), text)
    if _EUROPEAN.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    if _GROUPED.fullmatch(text):
        text = text.replace(".", "")
    if match := _TWO_UNITS.fullmatch(text):
        return _together(number(match[1].strip()), number(match[2].strip()))
    text, degrees = re.subn(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)$", "", text)
    scale, unit = 1, units.read("degree") if degrees else None
    if (match := _UNIT.fullmatch(text)) and not _PLAIN.fullmatch(text.lstrip("+- $")):
        words = match["unit"].split()
        if words and words[0].lower() in SCALES:
            scale, words = SCALES[words[0].lower()], words[1:]
        percents = re.match(r"(?:percent|pct\.?|per cent)(?!\w)", " ".join(words).lower())
        if not units.is_unit(words, bool(match["gap"])) or (price and words and len(words[0]) == 1):
            return None
        unit = None if not words or percents else units.read(text[match.start("unit") :]) or units.counted(words)
        text = match["number"].strip() + "%" * bool(percents)
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    sign, text = _sign(text)
    while text[:1] in ("{", "(") and text[-1:] == {"{": "}", "(": ")"}[text[0]] and _encloses(text):
        text = text[1:-1].strip()
        inner, text = _sign(text)
        sign *= inner
    if (found := _magnitude(text)) is None:
        return None
    value, decimals = found
    return Number(sign * scale * value / (100 if percent else 1), decimals, percent, price or unit)


def _together(large: Number | None, small: Number | None) -> Number | None:
    """`2 hours 30 minutes` as two hours and a half; None where the second is no part of the first."""
    if large is None or small is None or large.unit is None or small.unit is None:
        return None
    if large.unit.dimension != small.unit.dimension or large.unit.factor <= small.unit.factor:
        return None
    return replace(large, value=large.value + small.value * small.unit.factor / large.unit.factor, decimals=-1)


def _sign(text: str) -> tuple[int, str]:
    if text[:1] in ("+", "-"):
        return (-1 if text[0] == "-" else 1), text[1:].strip().removeprefix("$")
    return 1, text


def _encloses(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "({") - (char in ")}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _magnitude(text: str) -> tuple[Fraction, int | None] | None:
    text = text.strip().removeprefix("$").strip()
    if match := _PLAIN.fullmatch(text):
        return _scientific(match["num"], match["exp"])
    if match := _POWER_OF_TEN.fullmatch(text):
        return _scientific("1" if match["num"] is None else match["num"], match["b"] or match["p"] or match["e"])
    if (match := _POWER.fullmatch(text)) and int(match["b"] or match["e"]) * len(match["base"]) <= MAX_DIGITS:
        return Fraction(int(match["base"]) ** int(match["b"] or match["e"])), None
    if match := _REPEATING.fullmatch(text):
        whole, plain, again = match["n"] or "0", match["d"], match["r"]
        shift = 10 ** len(plain)
        value = Fraction(int(whole + plain), shift) + Fraction(int(again), (10 ** len(again) - 1) * shift)
        return value, -1
    if match := _MIXED.fullmatch(text):
        part = _ratio(match["f"] or match["g"])
        return None if part is None or not 0 <= part < 1 else (int(match["n"] or match["m"]) + part, -1)
    part = _ratio(text)
    return None if part is None else (part, -1)


def _ratio(text: str) -> Fraction | None:
    if not (match := _FRAC.fullmatch(text)):
        return None
    parts = [match["a"] or match["a1"] or match["c"], match["b"] or match["b1"] or match["d"]]
    values = []
    for part in parts:
        sign, rest = _sign(part.strip())
        if not (plain := _PLAIN.fullmatch(rest.strip())) or (found := _scientific(plain["num"], plain["exp"])) is None:
            return None
        values.append(sign * found[0])
    return values[0] / values[1] if values[1] else None


def _scientific(digits: str, exponent: str | None) -> tuple[Fraction, int | None] | None:
    digits = digits.replace("{,}", "").replace(",", "").replace(" ", "")
    if not any(c.isdigit() for c in digits) or len(digits) > MAX_DIGITS:
        return None
    power = exponent.replace(" ", "") if exponent else "0"
    if len(power) > 6 or abs(int(power)) > MAX_EXPONENT:
        return None
    whole, point, after = digits.partition(".")
    value = Fraction(int((whole + after) or "0"), 10 ** len(after))
    if power != "0":
        value *= Fraction(10) ** int(power)
    decimals = max(len(after) - int(power), 0)
    return value, decimals if (point and after) or decimals else None


def same(gold: Number, given: Number) -> bool:
    """Exact equality with two exceptions.

    An answer may leave out the percent sign of the reference: 50 is 50 %, but 50 % is 0.5 and not 50. A decimal may be
    a rounded form of a number that is no integer, when they differ by at most one millionth of it and were written
    with different precision: 0.333333 is 1/3, but 1e-7 is not 2e-7 and 1000000.5 is not 1000000. Units count where
    both sides have one: 100 cm are 1 m, 5 cm are neither 5 m nor 5 kg nor 5 apples; 5 is any of them.
    """
    if gold.unit is not None and given.unit is not None and gold.unit != given.unit:
        if gold.unit.dimension != given.unit.dimension:
            return units.alike(gold.unit, given.unit) and gold.value == given.value
        gold = replace(gold, value=gold.value * gold.unit.factor, unit=None)
        given = replace(given, value=given.value * given.unit.factor, unit=None)
    if _close(gold, given):
        return True
    return gold.percent and not given.percent and given.unit is None and gold.value * 100 == given.value


def _close(gold: Number, given: Number) -> bool:
    a, b = gold.value, given.value
    if a == b:
        return True
    written = (gold.decimals, given.decimals)
    if None in written or written[0] == written[1] or a == 0 or gold.percent != given.percent:
        return False
    return abs(a - b) <= RELATIVE_TOLERANCE * max(abs(a), abs(b))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Several numbers: a tuple or interval (brackets such as `(]`, in order) or a set (`brackets` empty, no order)."""

    values: tuple[Number, ...]
    brackets: str


def numbers(text: str) -> Numbers | None:
    r"""A cleaned text as a list of numbers: `(1, 2)`, `[0, 1)`, `\{1, 2\}`, `1, 2 and 3`; else None."""
    if text.isalnum():
        return None
    text = re.sub(r"\\text\s*\{\s*(and|or)\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])", ",", text.strip())
    text = re.sub(r",\s*,", ",", text)
    brackets = ""
    if is_set := text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        brackets, text = text[0] + text[-1], text[1:-1]
    if "," not in text or any(c in text for c in "()[]"):
        return None
    values = [number(part.strip()) for part in text.split(",")]
    if len(values) > MAX_DIGITS or any(v is None for v in values):
        return None
    kept = tuple(v for v in values if v is not None)
    return Numbers(tuple({v.value: v for v in kept}.values()) if is_set else kept, brackets)


def decimal_comma(text: str) -> Number | None:
    """`4,75` as 4.75, which is a list of two numbers as well; None when it is not written so."""
    return number(text.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(text) else None


def same_numbers(gold: Numbers, given: Numbers) -> bool | None:
    """Whether two lists agree; None when their kinds differ (`1, 2` against `(1, 2)`) and the question stays open."""
    if bool(gold.brackets) != bool(given.brackets):
        return None
    a, b = gold.values, given.values
    if gold.brackets:
        return gold.brackets == given.brackets and len(a) == len(b) and all(map(same, a, b))
    left = list(b)
    for value in a:
        hit = next((i for i, other in enumerate(left) if same(value, other)), None)
        if hit is None:
            return False
        del left[hit]
    return not left
