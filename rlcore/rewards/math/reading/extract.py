r"""Finds the final answer in a response: a box, `####`, "the answer is", or the last formula or number.

Text inside `<think>` is never an answer. Regular expressions here run in linear time, also on hostile text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from rlcore.rewards.math.reading import conclusion, statement
from rlcore.rewards.math.reading.quantities import formulas, has_words, is_expression, last_side, masked, unbold
from rlcore.rewards.math.values import exact

_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{|(?=[\w\\-]))")
_BETWEEN = re.compile(
    r"(?:[\s$,;.*]|\b[a-zA-Z](?:_\w)?\s*=|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|and|or|\\q?quad(?![a-z])|"
    r"\\[()\[\],;:! ])*"
)
_TOLD = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\b(?:is|are|=|:)\s*\}\s*(?=\S)")  # \text{The answer is } 7
_JSON = re.compile(
    r'\{[^{}\n]*"(?:final_?)?answer"\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"|([^"\s,{}]+))\s*\}\W*$', re.IGNORECASE
)
_SPECIAL = re.compile(r"<\|[^|<>]{1,30}\|>|</s>")  # tokens that a template leaves behind
_QUOTED = re.compile(r"^>[ \t]+(?=\*\*|\$|\\)", re.MULTILINE)  # a quotation in Markdown
_RIGHT_OPTION = re.compile(
    r"\b(?:option|choice|statement|answer)\s+\(?([A-J])\)?\s+(?:is|must\s+be)\s+(?:therefore\s+)?(?:the\s+)?"
    r"(?:correct|right|best|true|answer)\b",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"\n[ \t]{0,9}(?:#{1,6} ?|\*\*)?(?:(human|user|assistant)|question|q|problem|instruction) ?(?:\*\*)?:",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```[ \t]{0,9}(\w{0,20})[^\n]{0,80}\n(.*?)(?:```|\Z)", re.DOTALL)
_PROGRAMS = {
    "python", "py", "python3", "cpp", "c", "java", "javascript", "js", "sage", "r", "matlab", "julia", "sympy",
}  # fmt: skip
_RATIO = re.compile(  # `The ratio of boys to girls is 3 to 4.`
    r"(\b(?:ratio|odds|proportion|answer)\b[^.\n]{0,80}?(?:\bis|\bare|\bof|=|:)\s*[*$]{0,2}\s*)"
    r"(\d{1,9})\s+to\s+(\d{1,9})(?=\s*(?:[*$,;!)\n]|\.(?!\d)|$))"
    r"|(\b(?:an?|the)\s+)(\d{1,9})\s+to\s+(\d{1,9})(?=\s+ratio\b)",
    re.IGNORECASE,
)
MAX_TURNS = 20  # places at which a response may go on to another question
MAX_LATER = 4000  # characters behind an answer in which it may be taken back
MAX_BARE = 120  # characters of a response that is nothing but the answer


def answer(response: str) -> str | None:
    """The uncleaned text of the final answer, or None."""
    if (plain := response.strip()).isascii() and plain.isdigit():
        return plain
    text = own_turn(visible(response))
    if " to " in text:
        text = _RATIO.sub(lambda m: f"{m[1] or m[4]}{m[2] or m[5]}:{m[3] or m[6]}", text)
    text = _FENCED.sub(_without_program, _QUOTED.sub("", text))
    if told := _JSON.search(text):
        return (told[1] or told[2] or "").replace("\\\\", "\\").strip() or None
    if (said := statement.last(text)) is not None:
        return _of_statement(said, text)
    if options := _RIGHT_OPTION.findall(text):
        return str(options[-1])
    bare = unbold(text).strip()
    if len(bare) <= MAX_BARE and "\n" not in bare and (found := _whole(bare)) is not None:
        return found
    return _in_front(text) or conclusion.final(text)


def _in_front(text: str) -> str | None:
    """The answer on a line of its own before its explanation, when that comes to no conclusion of its own."""
    first, _, rest = text.strip().partition("\n")
    first = unbold(first).strip(" #>")
    if not rest.strip() or len(first) > MAX_BARE or re.search(r"=|\\begin|:$", first):
        return None
    found = _whole(first.rstrip("."))
    explained = re.match(r"[\s*_#>]*[^\W\d]", rest) and not conclusion.states(rest)
    return found if found and explained and re.search(r"\d|\\", found) else None


def _whole(bare: str) -> str | None:
    """A response that is nothing but its answer: a formula, a list of them, a number with its unit."""
    bare = re.sub(r"^(?:=>|⇒|→|∴)\s*", "", bare)
    if is_expression(rest := re.sub(r"^(?:so|thus|therefore|hence|then)\b[,:\s]*", "", bare, flags=re.IGNORECASE)):
        bare = rest
    spans = formulas(bare)
    if len(spans) == 1 and not (bare[: spans[0].start] + bare[spans[0].end :]).strip(" ."):
        return last_side(spans[0].inner)
    outside = masked(bare, spans)
    if not has_words(outside) and not (spans and re.search(r"[a-zA-Z]", re.sub(r"\b(?:and|or)\b", "", outside))):
        return last_side(bare) if bare else None
    return bare if exact.number(exact.clean(bare)) is not None else None  # 90 minutes


def _of_statement(said: statement.Said, text: str) -> str | None:
    """What a statement says, or what the writer says after taking it back: `Wait, that is wrong. So it is 14.`"""
    later = text[said.end :]
    if said.value is None:
        return conclusion.final(later) or said.words.strip(" *.") or None
    if said.tentative and (other := conclusion.final(later)) is not None:
        return other
    return conclusion.final(later) if statement.TAKEN_BACK.search(later[:MAX_LATER]) else said.value


def own_turn(text: str) -> str:
    """Without the next question that a model goes on to ask itself once it has answered its own."""
    for turn in islice(_TURN.finditer(text), MAX_TURNS):
        before = text[: turn.start()]
        answered = turn[1] or _BOX.search(before) or "####" in before or statement.words(before) is not None
        if before.strip() and answered:
            return before
    return text


def without_code(text: str) -> str:
    """Without fenced blocks."""
    return _FENCED.sub("\n", text) if "```" in text else text


def _without_program(block: re.Match[str]) -> str:
    """A block's content where it is output; nothing where it is a program."""
    return "\n" if block[1].lower() in _PROGRAMS else f"\n{block[2]}\n"


def stated(response: str) -> str | None:
    """What the last "the answer is" says, up to the end of its sentence: for answers in words."""
    return statement.words(own_turn(visible(response)))


def phrases(response: str) -> list[str]:
    """What the response concludes in words where it states no answer: candidates for a reference in words."""
    text = own_turn(visible(response))
    if box(text) is not None or "####" in text or statement.words(text) is not None:
        return []
    return conclusion.complements(text)


def visible(response: str) -> str:
    """The response without thoughts: pairs of tags, a thought opened in the prompt, or an unclosed one."""
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THINK.finditer(response):
        if tag[1] and not thinking:
            kept = []  # the whole text was a thought
        elif not tag[1] and not thinking:
            kept.append(response[start : tag.start()])
        thinking, start = not tag[1], tag.end()
    if not thinking:
        kept.append(response[start:])
    return _SPECIAL.sub("", " ".join(kept))


def box(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`; of a final run such as `\boxed{1}, \boxed{2}` all contents, joined by commas:
    naming several values is one answer, not several tries. None when no box is closed."""
    found = boxes(text)
    return ", ".join(dict.fromkeys(box.content for box in last_run(text, found))) if found else None


def untold(boxed: str) -> str:
    r"""Without `\text{The answer is }` before it."""
    told = _TOLD.match(boxed)
    return boxed[told.end() :] if told else boxed


@dataclass(frozen=True, slots=True)
class Box:
    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """All boxes that are closed; of boxes inside a box the outer one."""
    starts = list(_BOX.finditer(text))
    closing = _closing_braces(text) if starts else {}
    found: list[Box] = []
    for match in starts:
        if found and match.start() < found[-1].end:
            continue  # a box inside a box
        if not match[1]:
            content = _token(text, match.end())
        elif match.end() in closing:
            content = text[match.end() : closing[match.end()]]
        else:
            content = None
        if content is not None:
            end = match.end() + len(content) + bool(match[1])
            found.append(Box(match.start(), end, _innermost(content.strip())))
    return found


def _innermost(inner: str) -> str:
    for _ in range(3):
        nested = _BOX.match(inner)
        if not (
            nested and nested[1] and inner.endswith("}") and _closing_braces(inner).get(nested.end()) == len(inner) - 1
        ):
            break
        inner = inner[nested.end() : -1].strip()
    return inner


def last_run(text: str, found: list[Box]) -> list[Box]:
    """The boxes that stand together at the end, as several values of one answer do."""
    run = [found[-1]]
    for before in reversed(found[:-1]):
        between = text[before.end : run[-1].start]
        if len(between) > 40 or not _BETWEEN.fullmatch(between):
            break
        run.append(before)
    return run[::-1]


def _closing_braces(text: str) -> dict[int, int]:
    """Of each opening brace the position after it, and that of its partner. One pass."""
    pairs, open_after = {}, []
    for match in _BRACES.finditer(text):
        if match[0] == "{":
            open_after.append(match.end())
        elif match[0] == "}" and open_after:
            pairs[open_after.pop()] = match.start()
    return pairs


def _token(text: str, start: int) -> str | None:
    match = re.compile(r"-?\d[\d.,/]*|\\[a-zA-Z]+(?:\{[^{}]*\})*|\w+").match(text, start)
    return match[0] if match else None
