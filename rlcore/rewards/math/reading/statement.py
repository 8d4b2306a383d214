r"""What a text says its answer is: "The answer is 12.", `**Answer:** 12`, `<answer>12</answer>`, "La réponse est 12".

The last statement counts, unless it is taken back. "The answer is 12. Wait, that is wrong" leaves what comes after it;
what others might think the answer is does not count where something else follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlcore.rewards.math.reading import conclusion
from rlcore.rewards.math.reading.claim import BETWEEN, main, trimmed
from rlcore.rewards.math.reading.quantities import (
    SPELT,
    formulas,
    is_expression,
    last_side,
    masked,
    spelt,
    unbold,
    values,
)
from rlcore.rewards.math.values import exact

MAX_LINE = 1500  # characters of a statement that are read
MAX_READ = 8  # statements, from the last
_FOREIGN = (
    r"réponse|Antwort|Ergebnis|Lösung|respuesta|solución|resultado|resposta|risposta|risultato|ответ|відповідь|"
    r"odpowiedź|odpověď|antwoord|svaret?|cevap|yanıt|đáp án|đáp số|jawaban|जवाब|उत्तर|الإجابة|الجواب"
)
_COPULA = r"est|ist|lautet|beträgt|es|é|è|равен|равна|равно|to|je|är|er|là|adalah|है|هي|هو"
_CUE = re.compile(
    r"(?:\b(?:(?:final\s+|correct\s+)?answers?|(?:correct|right|best)\s+(?:option|choice|statement)s?)\b"
    r"[^\n:=.$]{0,40}?(?:\bis\b|\bare\b|\b(?:must|should|has to|would|will)\s+be\b|:|=)"
    r"|<answer>|\b(?:choose|select|pick)\s+(?:option|choice|answer)\b"
    rf"|\b(?:{_FOREIGN})\b(?:[^\n:=.$]{{0,25}}?(?:\b(?:{_COPULA})(?!\w)|[:：=]))"
    r"|(?:正确|最终|最後の)?(?:答案|答え|解答|答|정답|답)[^\n:：=.。$\d]{0,8}?(?:是|为|為|選|选|は|은|는|[:：=])|"
    r"\bans(?:wer)?\s*[.:=])(?!\s*(?:\*\*)?\s*(?:definitely\s+|clearly\s+|"
    r"certainly\s+)?not\b)[ \t]{0,9}[:：]?[ \t]{0,9}(?:\n[ \t]{0,9}){0,3}(?=[^\n])",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"(?:\(?([A-J])\)?|\(([a-j])\)|(?i:option|choice|letter|statement)\s+\(?([A-Ja-j])\)?)"
    r"(?P<mark>[.):]|(?=\W*$)|(?=,? which (?:is|equals|gives)\b)|(?=[,;]?\s+(?:because|since|as|not|and not|"
    r"rather|instead)\b))\s*(?P<rest>.*)",
    re.DOTALL,
)
_WHICH_IS = re.compile(r"^,?\s*(?:which (?:is|equals|gives)|i\.?e\.?,?|namely|with|=)\s+", re.IGNORECASE)
_CITED = re.compile(r"\s*(?:\[\d{1,2}\]|\^\d+\^)\s*$")
_FULL_STOP = re.compile(r"(?<!^[A-Ja-j])(?<!\b[ap]\.m)(?<!\.\.)\.\s|(?<!\.\.)\.$|(?<!\bn)[!?](?:\s|$)|。")
_DECIDED = re.compile(r"(?:yes|no|true|false)(?=\s*(?:[,.;!]|$|because\b|since\b))", re.IGNORECASE)
_NOT_SO = (
    r"\b(?:that|this|it|which|my (?:answer|first|previous|earlier)[\w ]{0,20}|the (?:above|"
    r"previous)[\w ]{0,20})(?:'s|’s| is| was| would be| turns out to be| can'?t be| cannot be)(?: also| actually|"
    r" clearly| obviously)? (?:wrong|incorrect|not (?:right|correct|true|possible|it)|false|impossible|mistaken|"
    r"right\?|correct\?)|\bi (?:made|see|found|spotted|notice) (?:an?|my|the) (?:\w+ )?(?:mistake|error|slip)|"
    r"\bcorrection\b|\bscratch that|\bmy (?:mistake|bad|apologies)|\bi was wrong|\bi (?:forgot|miscounted|misread|"
    r"miscalculated|overlooked|double[- ]counted|counted \w+ \w+ twice)|\b(?:wait|oops|hmm|hold on|actually),? no\b|"
    r"\boops\b|\bsorry\b|\bi (?:take|must take) (?:that|it) back"
)
TAKEN_BACK = re.compile(_NOT_SO, re.IGNORECASE)
_SUPPOSED = re.compile(
    r"\b(?:some|others?|people|many|one|you|students?|we|i)\s+(?:\w+\s+)?(?:might|would|may|could|will|first|"
    r"initially|often)\s+(?:\w+\s+)?(?:say|think|thought|guess|guessed|expect|believe|assume|assumed|suppose|argue|"
    r"conclude|answer)\w*\b|\b(?:user|question|problem|students?|teacher|book|prompt|hint|friend|someone|he|she|"
    r"they)\s+(?:says?|said|claims?|claimed|states?|stated|thinks?|thought|believes?|believed|suggests?|"
    r"suggested)\b|\bat first(?: glance| sight)?\b|\b(?:it )?(?:seems|looks|appears|is tempting)\b|\bnaively\b|"
    r"\bna[iï]ve\b|\bif the\b|\bsuppose\b|\bassum\w+\b|\bwhether the\b|\b(?:is|are) (?:supposed|expected|said|"
    r"claimed) to\b|\bfirst (?:guess|thought)\b",
    re.IGNORECASE,
)


_REST_OF_SUM = re.compile(  # 14% of 50, which is 7
    r"\s*(?:of|plus|minus|times|more than|less than|divided)\b.*(?:which|that|this) (?:is|equals|gives|makes)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Said:
    """A statement's words up to the end of its line, the value in them if there is one, and where it stands."""

    words: str
    value: str | None
    start: int
    end: int
    tentative: bool


def last(text: str) -> Said | None:
    """The last statement with a value in it; the last of all when none has one."""
    found = [_read(text, hit) for hit in list(_CUE.finditer(text))[-MAX_READ:]]
    with_value = [said for said in found if said.value is not None]
    best = with_value or found
    return best[-1] if best else None


def every(text: str) -> list[Said]:
    """The last statements that are no one else's, in order."""
    found = [_read(text, hit) for hit in list(_CUE.finditer(text))[-MAX_READ:]]
    return [said for said in found if not said.tentative]


def words(text: str) -> str | None:
    """What the last statement says, up to the end of its sentence: for answers in words."""
    hits = list(_CUE.finditer(text))[-1:]
    said = _line(text, hits[0]) if hits else None
    return re.split(r"[.!]\s", unbold(said).strip() + " ")[0].strip() if said is not None else None


def _line(text: str, cue: re.Match[str]) -> str:
    """The rest of the statement's line; all of a displayed formula or of what stands between tags."""
    line = text[cue.end() : cue.end() + MAX_LINE]
    if cue[0].startswith("<"):
        return re.split(r"</answer>", line, flags=re.IGNORECASE)[0]
    spans = formulas(line)
    if spans and not line[: spans[0].start].strip(" *_>\n") and "\n" in line[: spans[0].end]:
        return line[: spans[0].end]
    return re.split(r"</answer>|\n", line, flags=re.IGNORECASE)[0]


def _read(text: str, cue: re.Match[str]) -> Said:
    line = _line(text, cue)
    begun = max(text.rfind(mark, 0, cue.start()) for mark in (". ", "\n", "! ", "? ")) + 1
    tentative = bool(_SUPPOSED.search(text[max(begun, cue.start() - 120) : cue.end()]))
    value = direct(line)
    colon = cue[0].rstrip()[-1] in ":："
    if colon and value is not None and value[0] in "-$€£0123456789" and not _is_value(_sentence(_tidy(line))):
        rest = text[cue.end() :]  # Answer: 2 bags hold 6. So 5 of them hold 15.
        value = (conclusion.final(rest) if conclusion.states(rest.partition(". ")[2]) else None) or value
    if value is None and (colon or cue[0].startswith("<")):
        value = conclusion.final(text[cue.end() :] if cue[0][0] != "<" else line)  # reasoning, then its result
    if value is None:
        value = main(_sentence(_tidy(line)))
    stop = _stop(line)
    return Said(line, value, cue.start(), cue.end() + (stop.start() if stop else len(line)), tentative)


def _tidy(line: str) -> str:
    line = re.sub(r"\b(i\.e|e\.g|Rs|sq)\.", lambda m: m[1], line.strip().strip("*").strip())
    return _CITED.sub("", unbold(line))


def _stop(line: str) -> re.Match[str] | None:
    return _FULL_STOP.search(masked(line, formulas(line)))


def _sentence(line: str) -> str:
    return line[: stop.start()].strip() if (stop := _stop(line)) else line


def direct(line: str) -> str | None:
    """The answer that a statement's line begins with, or None when it begins with prose."""
    line = _tidy(line)
    sentence = _sentence(line)
    if not sentence:
        return None
    if (choice := _CHOICE.fullmatch(sentence)) is not None:
        letter, rest = choice[1] or choice[2] or choice[3], _WHICH_IS.sub("", choice["rest"]).strip()
        return f"({letter}) {rest}" if rest and _is_value(rest) else letter
    if decided := _DECIDED.match(sentence):
        return decided[0]
    sentence = trimmed(sentence)
    if (is_expression(sentence) and not formulas(sentence)) or exact.number(exact.clean(sentence)) is not None:
        return last_side(sentence)
    if (either := _either(sentence)) is not None:
        return either
    found = values(sentence)
    if not found:
        return spelt(sentence) if re.match(rf"(?:an?\s+)?{SPELT}", sentence, re.IGNORECASE) else None
    if re.search(r"[^\W\d_]{2,}", sentence[: found[0].start]):
        return None
    run = [found[0]]
    for value in found[1:]:
        if not BETWEEN.fullmatch(sentence[run[-1].end : value.start]):
            break
        run.append(value)
    if _REST_OF_SUM.match(sentence, run[-1].end):
        return None
    inner = [value.inner for value in run]
    return ", ".join(inner) if len(run) > 1 else last_side(inner[0]) if run[0].formula else inner[0]


def _either(sentence: str) -> str | None:
    """`12 apples or 13 apples` as a list; `2 hours or 120 minutes` is one answer."""
    parts = re.split(r"\s+or\s+", sentence)
    numbers = [number for part in parts if (number := exact.number(exact.clean(part))) is not None]
    if len(parts) != 2 or len(numbers) != 2:
        return None
    return parts[0] if exact.same(*numbers) else ", ".join(parts)


def _is_value(text: str) -> bool:
    return is_expression(text) or exact.number(exact.clean(text)) is not None or bool(formulas(text)[:1])
