"""Numbers in English words."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "twelfth": 12, "hundredth": 100, "halve": 2,
}  # fmt: skip
COUNTS = "|".join((*_NUMBER_WORDS, *_TENS))  # for regular expressions
_FRACTION = re.compile(  # not a lone `third`, which may be a rank
    rf"(?:([a-z -]{{1,40}}?) and )?(an?|{'|'.join(_NUMBER_WORDS)})[\s-]({'|'.join(PARTS)})s?"
)


def spelt_number(text: str) -> Fraction | int | None:
    """`one million`, `forty-two`, `three hundred and five`, `two and a half`, `three quarters`; None for other words.

    >>> spelt_number("forty-two"), spelt_number("two and a half"), spelt_number("third")
    (42, Fraction(5, 2), None)
    """
    if text == "half":
        return Fraction(1, 2)
    if match := _FRACTION.fullmatch(text):
        whole, top = spelt_number(match[1]) if match[1] else 0, _NUMBER_WORDS.get(match[2], 1)
        return None if whole is None else whole + Fraction(top, PARTS[match[3]])
    total, part = 0, None
    for word in re.split(r"[\s-]+(?:and\s+)?", text):
        if word in SCALES and part:
            total, part = total + part * SCALES[word], 0
        elif word == "hundred" and part and part < 20:
            part *= 100
        elif (value := _TENS.get(word, _NUMBER_WORDS.get(word))) is not None and (not part or part % 10 == 0 != part):
            if part and value >= (100 if part % 100 == 0 else 10):
                return None
            part = (part or 0) + value
        else:
            return None
    return None if part is None else total + part
