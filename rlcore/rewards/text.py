"""Splits text into words, sentences and paragraphs by simple rules, in linear time."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import regex  # type: ignore[import-untyped, unused-ignore]

from rlcore.rewards.registry import slow_module
from rlcore.types import RewardInput

# In scripts without spaces every character counts as a word, as in word processors.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"
_LETTER = rf"(?:[[\p{{L}}\p{{N}}]--[{_UNSPACED}]]\p{{M}}*+)"
_WORD = regex.compile(
    r"(?<![\p{L}\p{N}])\p{L}(?:\.\p{L})++(?![\p{L}\p{N}])"  # U.S, e.g
    rf"|[{_UNSPACED}]|{_LETTER}++(?:(?:['’\-‐]|(?<=\p{{N}})[.,](?=\p{{N}})){_LETTER}++)*+",
    regex.VERSION1,
)
_CLOSING = r"""["'”’»)\]*_]*+"""
_END = regex.compile(rf"(?:[.!?…।॥؟۔]++{_CLOSING}(?=\s|$))|[。！？｡]++[”’」』）]*+")
_LIST_ITEM = regex.compile(r"(?m)^[ \t]*+(?:[-*•+]|\d{1,3}[.)])[ \t]++")
_TWO_LETTERS = regex.compile(r"\p{L}\P{L}*+\p{L}")
_BLANK = regex.compile(r"\n[ \t\r]*+\n\s*+")
_LAST_TOKEN = regex.compile(r"\S++$")
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof st sr jr vs e.g i.e cf fig figs no nos vol pp ed eds rev gen col capt lt sgt sen rep gov "
        "pres approx ca al eq eqs sec ch dept univ assn bros mt ave blvd rd hon messrs viz incl est",
    )
)
# after "U.S." or "etc." a sentence ends only if one of these words follows
_STARTERS = frozenset(
    re.findall(
        r"\S+",
        "the a an he she it i we you they this that these those there in on at but and so however then when while as "
        "if my our his her its their what why how who where for after before although because",
    )
)
_OPEN_ENDED = frozenset({"etc", "inc", "ltd", "co", "corp"})


def words(text: str) -> list[str]:
    """Words: runs of letters and digits. An apostrophe or hyphen inside, and a point in a number or between single
    letters (`U.S`), do not end a word.

    Every Han character and kana is a word; Thai and similar scripts without spaces give one word per run.

    >>> words("It's a well-known fact: 3.5 > π!")
    ["It's", 'a', 'well-known', 'fact', '3.5', 'π']
    """
    return [str(word) for word in _WORD.findall(text)]


def paragraphs(text: str) -> list[str]:
    """The stripped, non-empty texts between blank lines."""
    return [p for part in _BLANK.split(text) if (p := part.strip())]


def sentences(text: str) -> list[str]:
    """Splits at `. ! ? …` (and their equivalents in other scripts) before white space, at blank lines, and at list
    items.

    Does not split before a lower-case letter, or after an abbreviation (`Dr.`), an initial or the number of a list
    item.

    >>> sentences('Dr. A. Smith paid $3.50. "Why?" he asked. Really!')
    ['Dr. A. Smith paid $3.50.', '"Why?" he asked.', 'Really!']
    """
    found: list[str] = []
    for block in paragraphs(text):
        starts = [0, *(m.start() for m in _LIST_ITEM.finditer(block)), len(block)]
        for start, end in pairwise(starts):
            found += _of_block(_LIST_ITEM.sub("", block[start:end], count=1))
    return [s for s in found if _WORD.search(s)]


def _of_block(block: str) -> list[str]:
    out, start = [], 0
    for match in _END.finditer(block):
        if _ends(block, match.start(), match.end()):
            out.append(block[start : match.end()].strip())
            start = match.end()
    return [*out, block[start:].strip()]


def _ends(block: str, mark: int, after: int) -> bool:
    """True if the mark at `mark`, with closing characters up to `after`, ends a sentence."""
    tail = block[after : after + 80].lstrip().lstrip("\"'“‘«([*_")
    if not tail:
        return True
    if tail[0].islower():
        return False
    if block[mark] != "." or block[mark : mark + 2] == "..":
        return True
    last = _LAST_TOKEN.search(block, max(0, mark - 40), mark)
    before = last[0].lstrip("\"'“‘«([*_") if last else ""
    bare = before.lower()
    if bare in _ABBREVIATIONS or (len(before) == 1 and before.isupper() and before != "I"):
        return False
    acronym = "." in bare.strip(".") and all(len(part) < 3 for part in bare.split("."))
    if acronym or bare in _OPEN_ENDED:
        following = _WORD.search(tail)
        return following is not None and following[0].lower() in _STARTERS
    return True


def measured(sample: RewardInput, unit: str, text: str | None = None) -> int | None:
    """Length of the response, or of `text`, in `tokens`, `words`, `sentences` or `characters` (without surrounding
    white space). Tokens are all sampled ones, independent of `text`; None if their number is unknown, as for stored
    text.

    Raises:
        ValueError: another unit.
    """
    text = sample.response if text is None else text
    if unit == "tokens":
        return sample.num_response_tokens if sample.num_response_tokens or not sample.response else None
    if unit == "words":
        return len(words(text))
    if unit == "sentences":
        return len(sentences(text))
    if unit == "characters":
        return len(text.strip())
    raise ValueError(f"unit={unit!r}: one of tokens, words, sentences, characters")


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the most likely language; None for a text with fewer than two letters.

    A few words are often not enough: pass a sentence or more.

    Raises:
        RewardError: the package py3langid is not installed.
    """
    if _TWO_LETTERS.search(text) is None:
        return None
    return str(_languages().detect(text))


def written_in(text: str, code: str) -> bool:
    """True if the text is in the language `code` (from `language_code`) or a variety of it.

    Raises:
        RewardError: the package py3langid is not installed.
    """
    found = language_of(text)
    return found is not None and bool(_languages().includes(code, found))


def language_code(code: str) -> str | None:
    """The code in the form of `language_of` (`zh` for `zh-CN`); None for an unknown language.

    Raises:
        RewardError: the package py3langid is not installed.
    """
    found = _languages().canonical(code)
    return None if found is None else str(found)


def _languages() -> Any:
    return slow_module("rlcore.rewards.languages", "a reward that looks at the language of a text ")
