"""Common units in answers: lengths, masses, times, volumes, money, quotients of these, and counted things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlcore.rewards.math.grammar.numerals import COUNTS, PARTS, SCALES


@dataclass(frozen=True, slots=True)
class Unit:
    """`dimension` such as `length^2/time`, and the factor to its base unit. Of what is counted: its words, and 0."""

    dimension: str
    factor: Fraction


def _table() -> dict[str, tuple[str, Fraction]]:
    lists = {
        "length": "m meter metre=1 km kilometer kilometre=1000 cm centimeter centimetre=1/100 "
        "mm millimeter millimetre=1/1000 dm decimeter=1/10 in inch inches=127/5000 ft foot feet=381/1250 "
        "yd yard=1143/1250 mi mile=201168/125",
        "mass": "kg kilogram=1 g gram=1/1000 mg milligram=1/1000000 lb lbs pound=45359237/100000000 "
        "oz ounce=45359237/1600000000 ton tonne=1000",
        "time": "s sec second=1 min minute=60 h hr hrs hour=3600 day=86400 week=604800",
        "volume": "l L liter litre=1 ml mL milliliter millilitre=1/1000",
        "money": "dollar usd=1 cent=1/100",
        "eur": "euro eur=1", "gbp": "gbp quid=1", "jpy": "yen jpy=1", "inr": "rupee inr rs=1", "cny": "yuan cny rmb=1",
         "angle": "degree deg=1", "arc": "radian rad=1",
        "force": "N newton=1", "energy": "J joule=1 kJ=1000", "power": "W watt=1 kW kilowatt=1000",
        "frequency": "Hz hertz=1", "voltage": "V volt=1", "temperature": "K kelvin=1",
        "celsius": "celsius centigrade=1", "fahrenheit": "fahrenheit=1",
    }  # fmt: skip
    table = {}
    for dimension, entries in lists.items():
        names: list[str] = []
        for word in entries.split():
            name, _, factor = word.partition("=")
            names.append(name)
            if factor:
                table.update({n: (dimension, Fraction(factor)) for n in names})
                table.update({n + "s": (dimension, Fraction(factor)) for n in names if len(n) > 2})
                names = []
    return table


_KNOWN = _table()
CURRENCIES = {"¤": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "₹": "inr"}  # `¤` stands for the dollar sign
_ALIKE = ({"angle", "celsius"}, {"angle", "fahrenheit"}, {"gbp", "mass"}, {"jpy", "cny"})  # written alike: 98.6^\circ
_SHORT = {
    "mm", "cm", "dm", "m", "km", "in", "ft", "yd", "mi", "mg", "g", "kg", "lb", "lbs", "oz", "ml", "mL", "l", "L", "s",
    "sec", "min", "h", "hr", "hrs", "hour", "hours", "day", "days", "km/h", "mph", "m/s", "kph", "deg", "rad", "usd",
    "eur", "K", "J", "N", "W", "V", "Hz", "nm", "um", "pm", "ms", "ns", "eV", "keV", "MeV", "kHz", "MHz", "GHz", "Pa",
    "kPa", "MPa", "mol", "C", "AA", "kJ", "kW", "MW", "kV", "mA", "mV", "atm", "rpm", "ly", "AU",
}  # fmt: skip
_SCALES = {  # words that multiply the number before them
    "dozen", "pair", "couple", "score", "gross", "fold", "lakh", "crore", "permille", "hundred", "thousandth",
    "millionth", *PARTS, *SCALES,
}  # fmt: skip
_OTHER_VALUE = {  # words that change or retract the value before them
    "and", "or", "mod", "sqrt", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "ln", "choose",
    "over", "plus", "minus", "times", "divided", "infinity", "infty", "not", "less", "more", "fewer", "than", "base",
    "squared", "cubed", "power", "root", "factorial", "else", "versus", "maybe", "perhaps", "possibly", "either",
    "otherwise", "approx", "approximately", "about", "roughly", "percentage", "never", "isn", "if", "most", "least",
    "alternatively", "unless", "except", "but", "wrong", "false", "incorrect", "neither", "nor", *_SCALES,
    *COUNTS.split("|"),
}  # fmt: skip
_SHAPES = {"square", "sq", "cubic"}
_FILLERS = {"per", "of", "a", "an", "the", "in", "each", "total", "unit", *_SHAPES}
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "fps": "ft/s"}
_ONE = re.compile(r"(?P<before>square|sq|cubic)?\.?\s*(?P<name>[A-Za-z]+)\.?\s*(?:\^?\s*\{?(?P<power>[23²³])\}?)?")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "2": 2, "3": 3, "²": 2, "³": 3}


@lru_cache(maxsize=512)
def read(text: str) -> Unit | None:
    """The unit a text names, such as `cm^2`, `square inches`, `km/h`, `miles per hour`; None when it is not known.

    >>> read("square inches").dimension, read("km/h").factor, read("apples")
    ('length^2', Fraction(5, 18), None)
    """
    text = _SPEEDS.get(text.strip(), text.strip())
    parts = re.split(r"\s*/\s*|\s+per\s+", text)
    if len(parts) > 2:
        return None
    dimensions, factor = [], Fraction(1)
    for sign, part in zip((1, -1), parts, strict=False):
        match = _ONE.fullmatch(part)
        known = (_KNOWN.get(match["name"]) or _KNOWN.get(match["name"].lower())) if match else None
        if match is None or known is None:
            return None
        power = _POWERS.get(match["before"] or match["power"] or "", 1)
        dimensions.append(known[0] + (f"^{power}" if power > 1 else ""))
        factor *= known[1] ** (sign * power)
    return Unit("/".join(dimensions), factor)


def is_unit(words: list[str], spaced: bool = True) -> bool:
    """True if the words after a number may be its unit or the counted thing: short ones are of a known list, and none
    makes another value, as `dozen`, `hundredths` or `or` do.
    """
    if not words:
        return True
    if len(words) > 4 or hedges(" ".join(words)):
        return False
    words = [word.strip(".") for word in words if word.lower().strip(".") not in _SHAPES] or ["unit"]
    if words[0] in _SHORT:
        return all(len(w) > 2 or w in _SHORT for w in words[1:])
    return spaced and len(words[0]) >= 3


def hedges(text: str) -> bool:
    """Whether what stands behind a number in place of a unit makes another value: `5 \\text{ or 7}`, `5 dozen`."""
    words = re.findall(r"[a-z]+", text.lower())
    stems = {word.removesuffix("s") for word in words}
    return bool(re.search(r"(?<![a-zA-Z^{])\d", text)) or not _OTHER_VALUE.isdisjoint(stems.union(words))


def scales(word: str) -> bool:
    """True if a word multiplies the number before it: `dozen`, `hundredths`."""
    return not _SCALES.isdisjoint({word.lower(), word.lower().removesuffix("s")})


def counted(words: list[str]) -> Unit | None:
    """What is counted, as a unit of its own: `red apples`; None for `units` and for products of units."""
    if words and words[0] in _SHORT:
        return None
    stems = {word.lower().strip(".").removesuffix("s") for word in words} - _FILLERS
    return Unit(" ".join(sorted(stems)), Fraction(0)) if stems else None


def alike(one: Unit | None, other: Unit | None) -> bool:
    """Whether the same number may be meant with both: equal, one missing, written alike, `apples` and `red apples`."""
    if one is None or other is None or one == other or {one.dimension, other.dimension} in _ALIKE:
        return True
    a, b = set(one.dimension.split()), set(other.dimension.split())
    return not (one.factor or other.factor) and (a <= b or b <= a)
