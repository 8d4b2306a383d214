r"""Reads answers at one marked place: a box, `<answer>`, `####`, or the whole response.

Each reader returns the one answer that a response commits to, and None for everything else: no mark, marks that
contradict each other, a sign before or after the mark that makes another value, a sentence that ends with more than a
unit or a reason, or a later sentence that takes the answer back or states another. Thoughts (`<think>`) are never read,
and a box inside a code block is no answer.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rlcore.rewards.config import MathAnswer
from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.reading import conclusion, extract, statement
from rlcore.rewards.math.reading.commitment import (
    DOUBT,
    GUESS,
    NEGATION,
    chained,
    differs,
    one_of,
    qualified,
    readings,
    same,
    unsettled,
)
from rlcore.rewards.math.reading.quantities import spelt, values

MAX_BEFORE = 240  # characters before an answer that are read
MAX_WORDS = 8  # of a sentence that goes on behind an answer
MAX_LATER = 4000  # characters behind it; more is no remark
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LOOSE_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?!#)([^\n]*)$", re.MULTILINE)
_INLINE = re.compile(r"####[ \t]*(?!#)([^\n]+)")
_LABEL = re.compile(r"^\W*(?:the )?(?:final )?answer(?: is)?:?\s+(?=\S)", re.IGNORECASE)
_HEADING = re.compile(r"\*{0,2}(?:\d{1,2}[.):]\s+)?[A-Za-z]{3,}[^=\d]*(?:\d{1,2}\b[^=\d]*)?:?\*{0,2}$")
_CLOSING = re.compile(
    r"(?:[\s~$.,;:!)\]}*_`\"'”’✓✅∎□■。，！]|\\[)\],;:! \\]|\\(?:right|q?quad|square|qed|blacksquare|n)(?![a-z])"
    r"|</\w+>|\\end\s*\{\w+\*?\})*"
)
_OPERATION = re.compile(  # what stands before a value and makes another one of it
    r"[-+/^√](?:\{|\$|\\[(\[])?$|(?:~~|(?<=\S)\s*(?:[≤≥≠]|(?<![-=])[<>])|\\(?:cdot|times|div|pm|mp|neq?|[lg]eq?|[lg]eqslant|lt|gt|not)"
    r"(?![a-zA-Z])\s*|\\(?:sqrt|[dt]?frac|cancel|sout)(?![a-zA-Z])[^$\n]{0,30}\{|\b(?:twice|thrice|half(?: of)?|double|"
    r"plus|minus|times|or)\s)(?:\{|\$|\\[(\[])?\s*$|\d(?:\{|\$)?$|(?:\n|^)[ \t$]*\d[\d \t$.,;/]*$",
    re.IGNORECASE,
)
# Words against an answer; which of these a pattern below uses depends on where in the text it is applied
_TURN = r"but|however|actually|instead|rather|error|oops|sorry|correct(?:ion|ed)"  # another answer follows
_TAKE_BACK = r"unless|although|though|hmm+|ignore|disregard|doubt\w*|typo|retract|withdraw|opposite"
_RETHINK = r"wait|nope|mistake\w*|scratch|reconsider\w*"
_WRONG = r"wrong|incorrect|false"
_DOUBTED = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|guess\w*|suspect|(?:wrong|incorrect)(?!:)|false|rejected|lie)\b"
    r"(?!.*\bbut\b)",
    re.IGNORECASE,
)
_MARKS = " \n\t$.,:!*_✓✅()[]。"
_CLAUSE = re.compile(r"[;,]\s|\s\(|\s(?=(?:because|since|as)\s)")
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|gets?|makes?|needs?|takes?|gives?|leaves?|there)\b", re.IGNORECASE
)
_CLAUSAL = re.compile(
    r"^(?:is|are|was|were|be|been|has|have|had|fails?|seems?|contradicts?)\b|\b(?:which|that|who|i|we|you)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(r"\b(?:so|thus|therefore|hence|the|an?|this|that)\b", re.IGNORECASE)
_PHRASE = re.compile(  # of them, rolls are left
    r"(?:of|in|on|at|for|per|from|to)\s|(?:[a-z]+\s){1,2}(?:is|are|was|were|remains?)\b", re.IGNORECASE
)
_REASON = re.compile(
    r"\W*(?:(?:this is )?because|since|as|where|for|with|(?:by|from|using)\s[a-z' -]*\b(?:identity|theorem|rule|"
    r"formula|law|property|definition|test|method|inequality|lemma|symmetry|induction|substitution|criterion)|"
    r"see (?:the|fig\w*)|i\.?e|(?:that is,?|which (?:is|equals)"
    r"(?: the same as)?)(?=\W*\d|[^a-z]*\\))\b",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"\W*(?:(?:which|that) is )?(?:about|around|roughly|approximately)\s+(\S*\d\S*)", re.IGNORECASE)
_OTHERWISE = re.compile(r"or\s+\S*\d\S*", re.IGNORECASE)
_AFFIRMED = re.compile(
    r"(?:is|are)\s+(?:(?:therefore|thus|indeed)\s+)*(?:the|our|my)\s[a-z -]{3,40}|too|in (?:total|all)|altogether|"
    r"as (?:desired|required|claimed|was to be shown)",
    re.IGNORECASE,
)
_SUPPORT = re.compile(  # how a remark begins that goes with an answer
    r"\W*(?:note|recall|here|there (?:is|are)|and\b(?=.*[a-z]{2})|compare|the other|yes|indeed|(?:to |let me )?"
    r"(?:double[- ]?)?check|(?:to |let me |let us )?verif(?:y|ication)|wait,? let me)\b"
    r"(?!.*\b(?:answer|value|result|total|final)\b)",
    re.IGNORECASE,
)
_AGAINST = rf"{NEGATION}|\b(?:{_TURN}|{_TAKE_BACK}|{_WRONG}|mistaken?|impossible)\b|\?"
_UNSETTLED = re.compile(rf"{_AGAINST}|{GUESS}|\b(?:or|if|else|otherwise|at most|at least)\b", re.IGNORECASE)
_RUDE = re.compile(rf"{_AGAINST}|\d", re.IGNORECASE)
_WITHDRAWS = re.compile(  # in a later sentence
    rf"\b(?:{_TURN}|{_TAKE_BACK}|{_RETHINK}|unsure|uncertain|alternatively|otherwise|except|may|versus|vs|revise\w*|"
    r"debatable|either|whichever|depends?(?= on)|earlier|first (?:guess|thought)|on second|strike|fix|"
    r"if(?! (?:we|you|one) (?:substitut|plug|check|multipl|expand|add|put|insert|squar|test|want|need|like|prefer))|"
    r"(?:should|would) (?:be|have|say|get)|"
    r"(?:correct|true|right|proper|real|actual) (?:value|answer|one|result|total|number|sum|count|solution))\b|"
    r"^\W*final\b|\\f?boxed|\?|\bno\b[,.:;!]|^\W*(?:no|or)\b|"
    rf"\b(?:{DOUBT})\b",
    re.IGNORECASE,
)
_KEY = r"key(?! (?:idea|point|step|fact|insight|observation))"
_DENIES = re.compile(rf"{NEGATION}|\b(?:{_WRONG})\b", re.IGNORECASE)
_JUDGES = re.compile(  # who denies in such words may deny the answer
    rf"\b(?:answers?|results?|solutions?|final\w*|{_KEY}|correct|sure|certain|trust|believe|think|know|confident|"
    r"conclude|right(?! (?:end|side|hand|angle|triangle))|i|my|mine)\b|"
    r"^\W*(?:it|this|that|which)\W+(?:[\w'’]+\W+){0,3}?(?:\w+n['’]t|not|never|cannot|no|wrong|false|incorrect)\b",
    re.IGNORECASE,
)
_OF_ANSWER = re.compile(
    rf"\b(?:answers?|final\w*|readings?|choices?|options?|candidates?|alternatives?|others?|another|{_KEY}|my|mine|"
    r"some|also)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"^\W*(?:it|this|that|which|make|so|thus|therefore|hence|now|then)\b[^.]{0,30}?(?:\b(?:is|are|be|was|it|gives?|makes?|"
    r"equals?|becomes?|gets?)\b|=)|^\W*(?:so|thus|hence|therefore|then|now)\W",
    re.IGNORECASE,
)
_TURN_BACK = re.compile(
    rf"\b(?:{_TURN}|{_RETHINK}|no|correct(?:ing)?|wrong|incorrect|re-?check\w*|recalculat\w*|fails?|failed|silly|absurd)\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def read(response: str, where: MathAnswer) -> str | None:
    """The uncleaned answer at the marked place; None if the response does not commit to one there."""
    text = extract.visible(response)
    if where is MathAnswer.whole:
        return _whole(text.strip())
    if where is MathAnswer.boxed:
        return _boxed(text)
    return _tagged(text) if where is MathAnswer.tagged else _hashed(text)


def freely(response: str) -> tuple[str | None, bool]:
    """The answer wherever the response states it, and whether it is hedged. At a mark as `read`, but several boxes in a
    row are one answer, a mark may correct the one before it, and remarks that go with the answer may follow."""
    text = extract.own_turn(extract.visible(response))
    if boxes := extract.boxes(text):
        run = extract.last_run(text, boxes)
        marks = [(box.start, box.end, box.content) for box in boxes[: len(boxes) - len(run) + 1]]
        content = extract.untold(", ".join(dict.fromkeys(box.content for box in run)))
        start, end = run[0].start, run[-1].end
    elif tags := list(_TAG.finditer(text)) or _lines(text) or list(_INLINE.finditer(text))[-1:]:
        marks = [(tag.start(), tag.end(), tag[1].strip()) for tag in tags]
        start, end, content = marks[-1]
        start *= text[start] == "<"  # a line behind `####` begins anew
        if _VERB.search(content) or statement.last(content) is not None:
            found = extract.answer(content)
            if found is None or unsettled(content, found) or not _says(content, found):
                return found, found is not None
            content = found
    else:
        found = extract.answer(response)
        return found, not _stated_once(text, found)
    found = _settled(text[:start], content, text[end:], strictly=False) if _corrected(text, marks) else None
    return found, found is None


def _says(content: str, found: str) -> bool:
    """Whether a marked sentence states the answer and says nothing else of it: "the total is 5", not "5 is too low"."""
    after = content.rpartition(found)[2]
    return not _VERB.search(after) and not _WITHDRAWS.search(content)


def _stated_once(text: str, found: str | None) -> bool:
    """Whether prose states one answer, and states it without a doubt."""
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
    return not unsettled(sentence, found or "") and not (found and chained(text, found))


def _first_words(words: str) -> str:
    """Of an answer in words what can be compared: up to the first full stop or reason."""
    return re.split(r"[.,;!]|\b(?:because|since|as)\b", words, maxsplit=1)[0].strip(" *_().").lower()


def _whole(text: str) -> str | None:
    if "####" in text or _LOOSE_TAG.search(text):
        return None
    if boxes := extract.boxes(text):
        only = len(boxes) == 1 and not (text[: boxes[0].start] + text[boxes[0].end :]).strip("$ .")
        return boxes[0].content if only else None
    return text or None


def _boxed(text: str) -> str | None:
    everywhere = extract.boxes(text)
    text = extract.without_code(text)
    outside = extract.boxes(text)
    if not outside or not one_of([box.content for box in everywhere]):
        return None
    last = outside[-1]
    return _settled(text[: last.start], last.content, text[last.end :])


def _tagged(text: str) -> str | None:
    tags = list(_TAG.finditer(text))
    contents = [tag[1].strip() for tag in tags]
    if not tags or len(_LOOSE_TAG.findall(text)) != 2 * len(tags) or not one_of(contents):
        return None
    content = contents[-1]
    if extract.boxes(content):
        content = _boxed(content) or ""
    return _settled(text[: tags[-1].start()], content, text[tags[-1].end() :]) if content else None


def _lines(text: str) -> list[re.Match[str]]:
    """Lines behind `####`; headings count only at the end."""
    lines = [line for line in _HASHES.finditer(text) if line[1].strip()]
    return [line for line in lines if line is lines[-1] or not _HEADING.fullmatch(line[1].strip())]


def _hashed(text: str) -> str | None:
    lines = _lines(text)
    contents = [_LABEL.sub("", line[1].strip()) for line in lines]
    if not contents or not one_of(contents):
        return None
    boxes = extract.boxes(contents[-1])
    content = _boxed(contents[-1]) if boxes else contents[-1]
    return _settled("", content, text[lines[-1].end() :]) if content else None


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


def _settled(before: str, content: str, after: str, *, strictly: bool = True) -> str | None:
    """The content unless what stands before or behind its mark changes it or takes it back."""
    before = re.sub(r"</?\w+>", " ", before[-MAX_BEFORE:])
    clause = re.split(r"[.;,!?]\s|\n", before)[-1]
    if _OPERATION.search(before) or _DOUBTED.search(clause) or qualified(clause.rpartition(":")[2], content):
        return None
    equal = re.search(r"([^=≈$\n]+)[=≈]\s*\$?\s*$", before)
    if (equal and differs(equal[1].strip(" &"), content)) or len(after) > MAX_LATER:
        return None
    skipped = _CLOSING.match(after)[0]  # type: ignore[index]
    rest, whole = after[len(skipped) :], re.search(r"[.;!。\n]", skipped) is not None
    for sentence in conclusion.sentences(rest):
        goes_on, whole = not whole, True
        if _supports(content, sentence.strip(_MARKS), strictly) or (not goes_on and _remarks(content, sentence)):
            continue
        for part in _CLAUSE.split(sentence):
            clause = part.strip(_MARKS).rstrip("\\").strip(_MARKS)
            if not clause or (goes_on and _completes(content, clause, before)) or _supports(content, clause, strictly):
                goes_on = goes_on and not clause
                continue
            return None
    return content


def _remarks(content: str, sentence: str) -> bool:
    """Whether a later sentence leaves the answer alone: it takes nothing back and states no other answer."""
    text = sentence.strip(_MARKS)
    if _WITHDRAWS.search(text) or (_DENIES.search(text) and (_JUDGES.search(text) or len(text.split()) < 6)):
        return False
    named = values(text)
    others = [value for value in named if not same(value.inner, content)]
    if not others:
        return True
    if _OF_ANSWER.search(text) or re.search(r"\bor\b", text):
        return False
    said = statement.last(text)
    mentioned = len(others) < len(named) or content.strip("$. ").lower() in text.lower()
    if not mentioned and (_CONCLUDES.search(text) or (said is not None and said.value is not None)):
        return False
    words = re.findall(r"[^\W\d_]{3,}", re.sub(r"\\[a-zA-Z]+", " ", text))
    return len(words) > 1 or (bool(words) and re.search(r"[=≈<>]|\\approx", text) is not None)


def _completes(content: str, clause: str, before: str) -> bool:
    """Whether the rest of an answer's sentence is its unit, affirms it, or says it in another form."""
    if clause[:1] in "=≈" or clause.startswith(r"\approx"):
        return bool(readings(f"{content} {clause}"))
    if re.fullmatch(r"\\?%|\^\{?\\circ\}?|°", clause):
        return True
    if _UNSETTLED.search(clause):
        return False
    if _AFFIRMED.fullmatch(clause):
        return True
    plain = re.sub(r"(?<=[a-zA-Z}])\^\{?[23]\}?|\\(?:text|mathrm|mbox)(?![a-zA-Z])", "", clause)
    words = re.sub(r"^(?:an?|per|each|every|more)\s", "", " ".join(re.findall(r"[a-zA-Z]+", plain))).split()
    if not words or re.search(r"[^\w\s./{}'’-]|[\d\\]", plain):
        return False
    if units.is_unit(words) and (units.read(" ".join(words)) or units.counted(words) is None):
        return True
    if len(words) > MAX_WORDS or any(map(units.scales, words)) or spelt(clause) or _CLAUSAL.search(clause):
        return False
    begun = re.findall(r"[^\W\d_]{2,}|:", _OPENING.sub("", re.split(r"[.?]\s|\n", before)[-1]))
    return len(begun) > 1 or ":" in begun or _PHRASE.match(clause) is not None


def _supports(content: str, clause: str, strictly: bool) -> bool:
    """Whether a clause behind an answer goes with it: a reason, a courtesy, the answer once more, a check of it; when
    read freely, any remark that begins as one."""
    if _REASON.match(clause) and not _UNSETTLED.search(clause):
        return True
    if rounded := _ABOUT.fullmatch(clause):
        return bool(readings(rf"{content} \approx {rounded[1]}"))
    if conclusion.COURTESY.match(clause):
        return not _RUDE.search(clause)
    named = values(clause)
    if _OTHERWISE.fullmatch(clause):  # 0.5, or 50%
        return len(named) == 1 and same(named[0].inner, content)
    if _UNSETTLED.search(clause):
        return False
    if _SUPPORT.match(clause):
        return not strictly or not named or re.search(rf"(?<![\d.]){re.escape(content)}(?!\d)", clause) is not None
    said = statement.last(clause)
    if said is not None:
        return said.value is not None and same(said.value, content)
    if strictly:
        return bool(named) and conclusion.CUE.search(clause) is not None and all(same(v.inner, content) for v in named)
    return bool(named) and same(named[-1].inner, content)
