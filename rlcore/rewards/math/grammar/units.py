"""Units of measure, as far as answers use them: lengths, masses, times, volumes, money, and quotients of these."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Unit:
    """`dimension` such as `length^2/time`, and the factor to its base unit."""

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
        "money": "dollar usd=1 cent=1/100", "angle": "degree deg=1", "arc": "radian rad=1",
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
