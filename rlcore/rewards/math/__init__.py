r"""The reward `math`: compares the final answer of a response with the reference.

Three comparisons, each for what the previous one cannot decide. `exact` and `prose`: numbers with units, lists of
numbers, choices, words, which is nearly all of GSM8K and AIME. `structure` and `verdict`: formulas, sets, intervals,
matrices, equations and inequalities in a purpose-built grammar, compared by their values at several points, within
fixed bounds. `symbolic`: sympy and math-verify for the rest (integrals, limits, infinite sums), imported at the first
such answer. The last has no time limit: call `score` inside a process that can be killed (`VerifierPool`), or on
trusted texts.
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlcore.rewards.config import MathAnswer
from rlcore.rewards.math.grammar import spelling, units
from rlcore.rewards.math.reading import extract, marked, prose
from rlcore.rewards.math.reading.commitment import readings
from rlcore.rewards.math.values import exact, naming, structure, verdict
from rlcore.rewards.registry import loading, reward
from rlcore.types import RewardInput, RewardResult, Status

SYMBOLIC = "rlcore.rewards.math.values.symbolic"
MISSING = ("nan", "<na>", "nat", "null")  # texts of missing values in tables
MAX_ANSWER = 1000  # longest answer that is parsed, in characters
_ASSIGNED = re.compile(
    r"((?:\\[a-zA-Z]+|[A-Z]{2}|[a-zA-Z])(?:_\{?\w+\}?)?(?:\([a-zA-Z0-9, ]*\))?)\s*=\s*([^=<>]+)"
)
_BASE = re.compile(r"([0-9A-Fa-f]+)_\{?(\d+)\}?")
# what keeps sympy's C-level integers busy before any limit could act, and what is no formula at all
_HOSTILE = re.compile(
    r"#|\d{400}|[eE][+-]?\d{4,}|\^\s*\{?\s*\(?[+-]?\d{5,}|\d{5,}\s*!|!\s*!\s*!|"
    r"\^[^+]{1,12}\^[^+]{1,12}\^|__|\""
)
MAX_NESTING = 40
_RADIANS = re.compile(r"(.+?)\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*rad(?:ian)?s?\s*\}|rad(?:ian)?s?)")
_PLACES = tuple(place.value for place in MathAnswer)
_LEADING = re.compile(r"(?:\*\*)?(yes|no|true|false)(?:\*\*)?(?:[,.;:!]| –| —)(?=\s|$)", re.IGNORECASE)
_RELATED = re.compile(r"[=<>,;]|\\[gl]eq?(?:slant)?(?![a-z])|\\text|\\in(?![a-z])")
_PERCENT = re.compile(r"\s?\\?%|\bper ?cent(?:age)?\b", re.IGNORECASE)
_OPERATION = re.compile(r"\\(?:sum|prod|i+nt|oint|lim|max|min|gcd|lcm|det|partial)(?![a-zA-Z])|[=<>^]|\\[lg]e")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference answer."""

    text: str  # cleaned
    number: exact.Number | None
    numbers: exact.Numbers | None
    words: str | None  # of an answer in words
    choice: str | None  # of an answer that is a letter: "c"
    rest: str = ""  # of `(C) 42` what follows the letter


@reward("math")
def _math(sample: RewardInput, answer: str = "free") -> RewardResult:
    """1.0 when the final answer equals `sample.reference`, else 0.0.

    Option `answer`: place of the answer, see `score`.
    """
    if sample.reference is None:
        error = "the row has no reference answer (data.columns.reference), which the reward math needs"
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": error})
    return score(sample.response, sample.reference, answer, sample.prompt)


def score(response: str, reference: str, answer: str = "free", problem: str = "") -> RewardResult:
    r"""1.0 if the final answer of `response` equals `reference`, else 0.0; `info["extracted"]` is the answer found.

    Args:
        answer: where the answer is. `boxed`, `tagged` (`<answer>`), `hashes` (`####`) and `whole` (the response is the
            answer) take one committed answer from that place and nothing else: these are for training. `free`, for
            stored completions, finds it in prose too.
        problem: what was asked. Where it asks for a percentage, `25%` is an answer to the reference 25; elsewhere
            it is a quarter and nothing else.

    A wrong, missing, hedged or unreadable answer is `Status.OK` with 0.0. A reference that cannot be read is
    `Status.UNPARSABLE`: an error of the data, the same whatever the response.

    Raises:
        ValueError: an unknown value of `answer`.
        TypeError: the response or the reference is not text.

    >>> score(r"So the result is \boxed{\frac{1}{2}}.", "0.5").score, score("It is 0.5.", "0.5", "boxed").score
    (1.0, 0.0)
    """
    if answer not in _PLACES:
        raise ValueError(f"answer is {answer!r}: it must be one of {', '.join(_PLACES)}")
    for name, text in (("response", response), ("reference", reference)):
        if not isinstance(text, str):
            raise TypeError(f"the {name} is {text!r}, not text: a missing value in the data?")
    gold = _read(reference)
    if gold is None:
        error = f"the reference {reference[:200]!r} is no answer that can be read"
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": error})
    where = MathAnswer(answer)
    if where is MathAnswer.free:
        found, hedged = marked.freely(response)
    else:
        found, hedged = marked.read(response, where), False
    shown = {"extracted": None if found is None else found[:200]}
    if hedged:
        return RewardResult(0.0, info={**shown, "hedged": True})
    texts = [] if found is None else [found]
    if texts and _PERCENT.search(problem) and not (gold.number and gold.number.percent):
        texts.append(_PERCENT.sub("", texts[0]))
    if any(_agrees(gold, text, literally=True) or _any_agrees(gold, text) for text in texts):
        return RewardResult(1.0, info=shown)
    if where is not MathAnswer.free:
        return RewardResult(0.0, info=shown)
    spoken = gold.words is not None or gold.choice is not None or prose.letters(gold.text) is not None
    if found is None or spoken:
        said = (text for text in _in_words(response) if spoken or not re.search(r"\d", text))
        other = next((text for text in said if _agrees(gold, text)), None)
        if other is not None:
            return RewardResult(1.0, info={"extracted": other})
    return RewardResult(0.0, info=shown)


def _any_agrees(gold: Reference, found: str) -> bool:
    if len(found) > MAX_ANSWER:
        return False
    name, sign, _ = "".join(gold.text.split()).partition("=")
    own = sign and "".join(found.split()).startswith(name + sign)
    if not own and gold.words is None and naming.assigned_to_word(found):
        return False
    return any(_agrees(gold, text) for text in readings(found))


def _in_words(response: str) -> list[str]:
    """`Yes.`, `July 14`, `Option B`, "So it is a Tuesday": answers with no formula to be found in them."""
    whole = extract.visible(response).strip()
    if extract.box(whole) is not None:
        return []
    said = extract.stated(response)
    if said is None and (leading := _LEADING.match(whole)) and "\n" not in whole:
        whole = leading[1]  # Yes, it always is.
    short = [text for text in (said, whole) if text and len(text) <= extract.MAX_BARE and "\n" not in text]
    candidates = short + extract.phrases(response)
    first = _LEADING.match(extract.visible(response).strip())
    return [] if prose.conflict([*candidates, *([first[1]] if first else [])]) else candidates


@lru_cache(maxsize=4096)
def _read(reference: str) -> Reference | None:
    text = reference.strip()
    if (boxed := extract.box(text)) is not None:
        text = boxed
    elif "####" in text:
        text = text.rpartition("####")[2]
    text = _digits_of_base(exact.clean(text))
    if r"\approx" in text:
        text = (readings(text) or [text])[0]
    if not text or len(text) > MAX_ANSWER or text.lower() in MISSING:
        return None
    bare = _unassigned(text)[1]
    choice, rest = prose.letter(text) or (None, "")
    if choice is not None and len(prose.unstyled(text).strip("().[] ")) == 1 and prose.unstyled(text).islower():
        choice = None  # a lone small letter is a variable
    number = exact.number(bare)
    words = None if choice or number or prose.run_of_letters(text) else prose.words(text)
    gold = Reference(text, number, exact.numbers(bare), words, choice, rest)
    if gold.number is None and gold.numbers is None and not words and not choice and not _BASE.fullmatch(text):
        readable = prose.letters(text) is not None or structure.read(text) is not None
        return gold if readable or _symbolic().parse(_formula(text)) is not None else None
    return gold


def _agrees(gold: Reference, found: str, *, literally: bool = False) -> bool:
    """`literally`: True if the answer is written like the reference, ignoring spaces and styles."""
    if len(found) > MAX_ANSWER:
        return False
    given = _digits_of_base(exact.clean(found))
    if _squeezed(given) == _squeezed(gold.text) or _bare(given) == _bare(gold.text):
        return True
    if literally:
        return False
    (name, _, value), (head, _, rest) = gold.text.partition("="), given.partition("=")
    if value and "".join(name.split()) == "".join(head.split()) and not _RELATED.search(value + rest):
        return (side := _read(value)) is not None and _agrees(side, rest)
    if gold.choice is not None or gold.words is not None:
        return _same_prose(gold, given)
    if (several := prose.run_of_letters(gold.text)) is not None and (other := prose.letters(given)) is not None:
        return several == other
    if (several := prose.letters(gold.text)) is not None:
        return several == (prose.letters(given) or prose.run_of_letters(given))
    if (labelled := prose.letter(given)) is not None and labelled[1]:
        given = exact.clean(labelled[1])  # `(C) 42`
    return _same_value(gold, given)


def _same_prose(gold: Reference, given: str) -> bool:
    if gold.choice is None:
        if (formula := spelling.phrase(gold.text)) is not None and prose.words(given) is None:
            return _same_formula(Reference(formula, None, None, None, None), given)
        return gold.words == prose.normal(prose.unstyled(given).strip(" .!,;:"))
    if (labelled := prose.letter(given)) is not None:
        return labelled[0] == gold.choice
    return bool(gold.rest) and (rest := _read(gold.rest)) is not None and _agrees(rest, given)


def _same_value(gold: Reference, given: str) -> bool:
    if (based := _BASE.fullmatch(gold.text)) is not None:
        other = _BASE.fullmatch(given)
        return gold.text.upper() == given.upper() if other else based[1].upper() == given.upper()
    if "," not in gold.text:  # else C(10, 3) is a point
        given = spelling.counted(given)
    (gold_name, _), (name, value) = _unassigned(gold.text), _unassigned(given)
    number, numbers = exact.number(value), exact.numbers(value)
    if gold_name and name and gold_name != name:
        return number is None and gold.number is None and _same_formula(gold, given)
    if gold.number is not None and number is not None:
        return exact.same(gold.number, number)
    if gold.number is not None and (numbers is not None or value[:1] == ","):
        return (comma := exact.decimal_comma(value)) is not None and exact.same(gold.number, comma)
    if number is not None and gold.numbers is not None:
        return (comma := exact.decimal_comma(gold.text)) is not None and exact.same(comma, number)
    if (angle := _radians(gold, given)) is not None:
        return angle
    if gold.numbers is not None and numbers is not None:
        agree = exact.same_numbers(gold.numbers, numbers)
        if agree is not None:
            return agree
    return _same_formula(gold, given)


def _radians(gold: Reference, given: str) -> bool | None:
    r"""`180^\circ` against `\pi` with its unit written out; None when it is no such question."""
    degrees, other = (gold.number, given) if gold.number is not None else (exact.number(given), gold.text)
    match = _RADIANS.fullmatch(other)
    if match is None or degrees is None or degrees.unit != units.read("degree"):
        return None
    return _same_formula(Reference(rf"\frac{{{_plain(degrees)}\pi}}{{180}}", None, None, None, None), match[1])


def _same_formula(gold: Reference, given: str) -> bool:
    given = spelling.phrase(given) or given
    if not given or _nesting(given) > MAX_NESTING or prose.words(given) is not None:
        return False
    one, two = naming.unit(gold.text), naming.unit(given)
    if not units.alike(one, two):
        return False
    mine, other = structure.read(gold.text), structure.read(given)
    try:
        agree = None if mine is None or other is None else verdict.same(mine, other)
    except RecursionError:  # a product of hundreds of factors is as deep as it is long: hostile, and no answer
        return False
    if agree is not None:
        return agree
    if _HOSTILE.search(given) or not _OPERATION.search(gold.text + given):
        return False
    symbolic = _symbolic()
    return bool(symbolic.equal(symbolic.parse(_formula(gold.text)), symbolic.parse(_formula(given))))


def _symbolic() -> Any:
    if SYMBOLIC in sys.modules:
        return sys.modules[SYMBOLIC]
    with loading(SYMBOLIC):
        return importlib.import_module(SYMBOLIC)


def prepare() -> None:
    """Imports sympy, which few answers need; see `rlcore.rewards.child.Worker`."""
    _symbolic()


def _unassigned(text: str) -> tuple[str, str]:
    """`x = 5` as `("x", "5")`, anything else as `("", text)`."""
    match = _ASSIGNED.fullmatch(text)
    return (match[1], match[2].strip()) if match else ("", text)


def _formula(text: str) -> str:
    r"""A text for the grammar: mixed numbers and percent written out, units gone."""
    name, value = _unassigned(text)
    if (number := exact.number(value)) is not None:
        plain = _plain(number)
        value = plain if len(plain) < exact.MAX_DIGITS else value
        return f"{name} = {value}" if name else value
    return text


def _plain(number: exact.Number) -> str:
    """An integer, a fraction, or a decimal, which stays one: only decimals are compared with a tolerance."""
    top, bottom = number.value.numerator, number.value.denominator
    places = 0 if number.decimals is None or number.decimals < 0 else number.decimals + 2 * number.percent
    if bottom == 1 or not places:
        return str(top) if bottom == 1 else f"{top}/{bottom}"
    digits = str(abs(number.value * 10**places).numerator).rjust(places + 1, "0")
    return f"{'-' * (top < 0)}{digits[:-places]}.{digits[-places:]}"


def _bare(text: str) -> str:
    r"""Without styles and spaces: `\text{H}_2\text{O}` is `\mathrm{H_2O}`. The space of `1 1/2` stays."""
    plain = prose.unstyled(text) if "\\" in text else text
    if plain[:1].isalpha():  # CO2 is CO_2, but 11012 is not 1101_2
        plain = re.sub(r"_\{?(\d+)\}?", r"\1", plain)
    return plain if re.search(r"\d\s+\d", plain) else "".join(plain.split())


def _digits_of_base(text: str) -> str:
    r"""`1011_{\text{two}}` as `1011_2`."""
    if "_" not in text:
        return text
    match = re.fullmatch(r"\(?([0-9A-Fa-f]+)\)?_\{?\s*(?:\\text\s*\{\s*(\w+)\s*\}|(\w+))\s*\}?", text)
    base = exact.number(match[2] or match[3]) if match else None
    return f"{match[1]}_{base.value}" if match and base else text


def _squeezed(text: str) -> str:
    """Without the spaces that mean nothing: those of `1 1/2` do."""
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest
