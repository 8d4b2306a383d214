r"""Words in a formula: the unit after it, and the name that it assigns a value to."""

from __future__ import annotations

import re

from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.grammar.tokens import Unreadable

_UNIT = re.compile(
    r"\s*(?:/?\s*\\(?:text|mathrm|mbox|textrm|rm|operatorname)\s*\{[^{}]*\}\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d)\s*)?)+$"
)
_PLAIN_UNIT = re.compile(
    r"(?<=[\w})])\s+(?:(?:square|sq\.?|cubic)\s+)?(?:units?|mm|cm|km|m|in|ft|inch(?:es)?|feet|foot|met(?:er|re)s?|"
    r"centimet(?:er|re)s?|miles?|yards?|seconds?|minutes?|hours?|days?|degrees?|radians?|dollars?)(?:\^\{?[23]\}?)?$"
)
_WORD = re.compile(
    r"(?<![a-zA-Z\\])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|gcd|lcm|max|min|arc[a-z]{3})[^a-z])"
    r"(?:[A-Za-z]*[a-z]{3}|[A-Z]{3})"
)
_INNER = re.compile(
    r"\\(?:angle|triangle|measuredangle)\s*[A-Z]+|\\(?:begin|end)\s*\{\w+\*?\}|\([^()]*\)"
    r"|_\s*\{(?:[^{}]|\{[^{}]*\})*\}"
)


def assigned_to_word(text: str) -> bool:
    r"""Whether a value is assigned to a word, `score = 1`, and not to a variable, as `P(\text{heads})` is one."""
    *names, last = re.split(r"=|≈|\\(?:approx|equiv)(?![a-z])", _INNER.sub("_", text))
    heads = [re.split(r"[,;]|\band\b|\bor\b", name)[-1] for name in names]
    if any(_WORD.search(head) or not re.search(r"\w", head) for head in heads):
        return True
    return bool(heads) and not re.search(r"[\d_]", last) and _WORD.search(last) is not None


def unit(text: str) -> units.Unit | None:
    """The unit behind a formula, `2\\sqrt{3}\\text{ cm}`; None without one."""
    if (match := _UNIT.search(text) or _PLAIN_UNIT.search(text)) is None:
        return None
    words = re.sub(r"\\[a-z]+|[{}]", " ", match[0])
    return units.read(" ".join(words.split())) or units.counted(words.split())


def without_unit(text: str) -> str:
    """The formula alone.

    Raises:
        Unreadable: the words behind it make another value.
    """
    if (match := _UNIT.search(text)) is None:
        return _PLAIN_UNIT.sub("", text) or text
    words = re.sub(r"\\[a-z]+", " ", match[0])
    if units.hedges(words) or not units.is_unit(re.findall(r"[A-Za-z]+", words)):
        raise Unreadable("another value in the place of a unit")
    return _PLAIN_UNIT.sub("", text[: match.start()]) or text
