r"""Answers at one marked place: a box, `<answer>`, `####`, or the whole response.

Each reader returns the one answer that a response commits to, and None for everything else: no mark, marks that
contradict each other, an alternative or a retraction next to it. Thoughts (`<think>`) are never read, and a box inside
a code block is no answer.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rlcore.rewards.config import MathAnswer
from rlcore.rewards.math.reading import conclusion, extract, statement
from rlcore.rewards.math.reading.commitment import alternatives, chained, denied, hedged, one_of, same

MAX_LATER = 4000  # characters behind an answer in which it may be taken back


_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LOOSE_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?!#)([^\n]*)$", re.MULTILINE)
_HEADING = re.compile(r"\*{0,2}(?:\d{1,2}[.):]\s+)?[A-Za-z]{3,}[^=\d]*(?:\d{1,2}\b[^=\d]*)?:?\*{0,2}$")
_TURN_BACK = re.compile(
    r"\b(?:wait|no|nope|actually|correct(?:ion|ed|ing)?|mistake|wrong|incorrect|scratch|oops|sorry|instead|rather|error|"
    r"re-?check\w*|recalculat\w*|reconsider\w*|however|but|fails?|failed|silly|absurd)\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def read(response: str, where: MathAnswer) -> str | None:
    """The answer at the marked place, not yet cleaned; None when the response commits to none there."""
    text = extract.visible(response)
    if where is MathAnswer.whole:
        return _whole(text.strip())
    if where is MathAnswer.boxed:
        return _boxed(text)
    return _tagged(text) if where is MathAnswer.tagged else _hashed(text)


def _whole(text: str) -> str | None:
    if "####" in text or _LOOSE_TAG.search(text):
        return None
    if boxes := extract.boxes(text):
        only = len(boxes) == 1 and not (text[: boxes[0].start] + text[boxes[0].end :]).strip("$ .")
        return boxes[0].content if only else None
    return text or None


def _boxed(text: str) -> str | None:
    everywhere = extract.boxes(text)
    outside = extract.boxes(extract.without_code(text))
    if not outside or not one_of([box.content for box in everywhere]):
        return None
    text = extract.without_code(text)
    first, last = outside[0], outside[-1]
    return _settled(text[: first.start], last.content, text[last.end :])


def _tagged(text: str) -> str | None:
    tags = list(_TAG.finditer(text))
    contents = [tag[1].strip() for tag in tags]
    if not tags or len(_LOOSE_TAG.findall(text)) != 2 * len(tags) or not one_of(contents):
        return None
    content = contents[-1]
    if extract.boxes(content):
        return _boxed(content)
    return _settled("", content, text[tags[-1].end() :]) if content else None


def _lines(text: str) -> list[re.Match[str]]:
    """Lines behind `####`; headings count only at the end."""
    lines = [line for line in _HASHES.finditer(text) if line[1].strip()]
    return [line for line in lines if line is lines[-1] or not _HEADING.fullmatch(line[1].strip())]


def _hashed(text: str) -> str | None:
    lines = _lines(text)
    contents = [line[1].strip() for line in lines]
    if not contents or not one_of(contents):
        return None
    return _settled("", contents[-1], text[lines[-1].end() :])


def committed(response: str, found: str | None) -> bool:
    """Whether a response that is read freely names one answer: no two boxes, statements or marks that differ, unless
    the later one corrects the earlier one; no alternative next to it."""
    text = extract.own_turn(extract.visible(response))
    if boxes := extract.boxes(text):
        run = extract.last_run(text, boxes)
        if not _corrected(text, [(box.start, box.end, box.content) for box in boxes[: len(boxes) - len(run) + 1]]):
            return False
        inside = len(run) == 1 and hedged(text[: run[0].start], run[0].content, text[run[0].end :])
        return not inside
    for marks in (list(_TAG.finditer(text)), _lines(text)):
        if marks:
            if not _corrected(text, [(m.start(), m.end(), m[1].strip()) for m in marks]):
                return False
            line, later = marks[-1][1], text[marks[-1].end() :]
            differs = found is not None and chained(line, found)
            return not (differs or hedged("", line, later) or alternatives(line) or statement.TAKEN_BACK.search(later))
    stated = statement.every(text)
    if stated:
        if not _corrected(text, [(s.start, s.end, s.value or _first_words(s.words)) for s in stated]):
            return False
        sentence = text[stated[-1].start : stated[-1].end]
    else:
        sentence = (conclusion.sentences(text[-MAX_LATER:]) or [""])[-1]
    leading = _LEADING.match(text.strip())
    if leading and found and found.lower() == _OPPOSITE[leading[1].lower()]:
        return False
    return not alternatives(sentence) and not (found and (chained(text, found) or denied(text, found)))


def _first_words(words: str) -> str:
    """Of an answer in words what can be compared: up to the first full stop or reason."""
    return re.split(r"[.,;!]|\b(?:because|since|as)\b", words, maxsplit=1)[0].strip(" *_().").lower()


def _corrected(text: str, marks: list[tuple[int, int, str]]) -> bool:
    """Whether several answers are one, or the last one takes back those before it, once."""
    changes = 0
    for (_, end, before), (start, _, after) in pairwise(marks):
        if same(before, after):
            continue
        if not _TURN_BACK.search(text[end:start]):
            return False
        changes += 1
    earlier = [content for _, _, content in marks[:-1]]
    return changes < 2 or not any(same(marks[-1][2], content) for content in earlier)


def _settled(before: str, content: str, after: str) -> str | None:
    """The content unless the text around it hedges or takes it back."""
    if hedged(before, content, after):
        return None
    later = after[:MAX_LATER]
    if statement.TAKEN_BACK.search(later):
        return None
    if statement.doubted(later) and conclusion.overrules(later):
        other = conclusion.final(later)
        return content if other is None or same(other, content) else None
    return content
