"""Constraints on layout: lists, highlights, sections, JSON, titles. The package docstring lists differences to IFEval.

Regular expressions here run in linear time, also on hostile text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rlcore.rewards.constraints.kinds import constraint

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_BULLET = re.compile(r"(?m)^[ \t]*[*-][ \t]+\S")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\]")
_STARS = re.compile(r"\*+|\n")
_TITLE = re.compile(r"<<([^\n<>]+)>>")
_FENCE = re.compile(r"```(?:[a-zA-Z0-9]{0,20}\s)?(.*)```", re.DOTALL)


@constraint("detectable_format:number_bullet_lists")
def _bullets(text: str, num_bullets: int) -> bool:
    """Exactly `num_bullets` lines begin with `* ` or `- `."""
    return len(_BULLET.findall(text)) == num_bullets


@constraint("detectable_format:number_highlighted_sections")
def _highlights(text: str, num_highlights: int) -> bool:
    """At least `num_highlights` non-empty parts of a line between `*`, `**` or `***`."""
    count, opened, start = 0, "", 0
    for mark in _STARS.finditer(text):
        inside = text[start : mark.start()]
        if mark[0] == "\n":
            opened = ""
        elif mark[0] == opened and inside.strip() and not inside[0].isspace() and not inside[-1].isspace():
            count, opened = count + 1, ""
        else:
            opened, start = mark[0] if len(mark[0]) < 4 else "", mark.end()
    return count >= num_highlights


@constraint("detectable_format:multiple_sections")
def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least `num_sections` lines begin with the word and a number (`Section 2`), optionally after Markdown marks."""
    word = re.escape(section_spliter.strip())
    return len(re.findall(rf"(?m)^[ \t#*_>]*{word}(?:[ \t]*\d+|[ \t]+[IVXL]+)\b", text)) >= num_sections


@constraint("detectable_format:constrained_response")
def _one_option(text: str, options: list[str] = list(OPTIONS)) -> bool:  # noqa: B006 - never changed
    """Contains exactly one of the options."""
    return sum(option in text for option in options) == 1


@constraint("detectable_format:json_format")
def _json(text: str) -> bool:
    """Only a JSON object or list, optionally in a code fence."""
    return isinstance(parse_json(text), dict | list)


@constraint("detectable_format:title")
def _title(text: str) -> bool:
    """Contains a title `<<in double angle brackets>>` on one line."""
    return any(title.strip() for title in _TITLE.findall(text))


@constraint("detectable_content:number_placeholders")
def _placeholders(text: str, num_placeholders: int) -> bool:
    """At least `num_placeholders` placeholders `[like this]`."""
    return sum(bool(inside.strip()) for inside in _PLACEHOLDER.findall(text)) >= num_placeholders


@constraint("detectable_content:postscript")
def _postscript(text: str, postscript_marker: str) -> bool:
    """The marker (`P.S.`, `P.P.S`), in any case and spacing, at the start of a word and followed by text."""
    letters = [re.escape(c) for c in postscript_marker.strip().rstrip(".") if not c.isspace()]
    return re.search(rf"(?:^|[\s*_(\"“]){r'[ ]?'.join(letters)}[.:]?[\s*_:]*\w", text, re.I) is not None


@constraint("combination:two_responses")
def _two(text: str) -> bool:
    """Two different responses, divided by `******`; a divider before the first or after the second is ignored."""
    parts = [part.strip() for part in re.split(r"(?<!\*)\*{6}(?!\*)", text.strip())]
    if not all(parts[1:-1]):
        return False
    kept = [part for part in parts if part]
    return len(kept) == 2 and kept[0] != kept[1]


def parse_json(text: str) -> Any:
    """The value of a text that is only JSON, without a surrounding code fence; None otherwise.

    `NaN` and `Infinity` are not JSON.
    """
    bare = text.strip()
    if fenced := _FENCE.fullmatch(bare):
        bare = fenced[1]
    try:
        return json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
