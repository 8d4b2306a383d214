r"""The conclusion of a text without a marked answer: the last sentence that states a value.

Courtesies, checks and notes after the conclusion are ignored, as are truncated sentences and those in which the writer
gives up.
"""

from __future__ import annotations

import re

from rlcore.rewards.math.reading.claim import BOLD, OPENER, main
from rlcore.rewards.math.reading.quantities import formulas, masked, unbold, values

MAX_PHRASE = 60  # characters of an answer in words
MAX_TAIL = 3000  # characters at the end of a response in which its conclusion is looked for
_END = re.compile(
    r"\n+|(?<!\.\w)(?<!\bvs)(?<!\bno)(?<!\bapprox)(?<!\brs)(?<!\bsq)(?<!\b[dms]r)(?<!\bmrs)(?<!\bst)(?<!^\d)(?<!^\d\d)"
    r"[.!?][\"”')\]*_]{0,4}(?=\s|$)|[。！？]",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_HEAD = r"^[\s>#*_✅✓☑-]*"
COURTESY = re.compile(
    _LINE_HEAD + r"(?:(?:please\s+|just\s+)?let me know|(?:please\s+)?feel free|i hope|hope (?:this|that|it)|"
    r"if you(?:'d| would| have| need| want| like)|would you like|do you (?:want|have|need)|is there anything|"
    r"happy to|i(?:'m| am) happy|i(?:'d| would) be happy|glad|thanks|thank you|good luck|great (?:job|question)|"
    r"have a |any (?:more |other |further )?questions|this is because|because\b(?![^.]*,)|the reason|recall\b|"
    r"here,? (?:we|i) used|we (?:have )?used|\(?(?:side |foot)?(?:note|remark|tip|reminder|hint|source|caveat|"
    r"disclaimer|ps|p\.s\.)s?\s*[*_]*[:.])",
    re.IGNORECASE,
)
_CHECK = re.compile(
    _LINE_HEAD
    + r"\(?(?:(?:quick |sanity )?(?:check|verification|verify|proof|probe|überprüfung|vérification|verificación|"
    r"comprobación|验证|検算)\w*\s*[*_]*\s*[:：.]|(?:let me|let's|let us|we can|you can|i can|i will|i'll|to)\s+"
    r"(?:(?:also|quickly|just|now)\s+)?(?:double[- ]?check|check|verify|confirm|sanity|plug|substitut))",
    re.IGNORECASE,
)
CUE = re.compile(
    r"\b(?:so|thus|therefore|hence|consequently|in conclusion|altogether|in total|overall|finally|in summary|"
    r"as a result|(?:this|that) (?:means|gives|leaves|makes)|but|answer)\b|∴|⇒|因此|所以|故|したがって|よって|"
    r"따라서|donc|also|folglich|por lo tanto|así que|portanto|logo|quindi|dunque|итак|следовательно|таким образом",
    re.IGNORECASE,
)
_GIVES_UP = re.compile(
    r"\b(?:i|we) (?:really |still |simply |honestly )?(?:do not|don't|don’t|can ?not|can't|can’t|could not|couldn't|"
    r"am not able|am unable|was unable|are unable|am not|have no|will have to) (?:to )?(?:really |yet )?(?:know|"
    r"tell|determine|solve|find|figure|decide|sure|certain|compute|say|finish|complete|continue|idea|guess|answer)|"
    r"\bi(?:'m|’m) (?:not (?:sure|certain|able)|unable)|\bnot enough information|\binsufficient information|"
    r"\bi give up|\bi(?:'m| am) (?:stuck|lost|confused)|\bno idea\b|\b(?:un|not )?clear(?:ly)? what the answer",
    re.IGNORECASE,
)
_CUT_OFF = re.compile(
    r"\b(?:the|(?-i:a)|an|of|is|are|was|were|be|to|and|or|with|that|then|so|for|from|by|in|on|at|we|which|this|"
    r"these|there|if|when|because|since|than|has|have|gives?|get|using|therefore|thus|hence|equals|its|their|his|"
    r"her|as|but|into|let|need|can|will|now|each|per|into|between)\s*[,:]?\s*$|[=+*/^(−–-]\s*$|\\(?:boxed|frac|"
    r"text)\s*\{[^{}]*$|\\(?:cdot|times)\s*$",
    re.IGNORECASE,
)
_ONLY = re.compile(r"(?:only|just)\s+(?:(?:option|choice|statement)\s+)?(\S+)\s+(?!and\b|or\b)[a-z]", re.IGNORECASE)
_COPULA = re.compile(
    r"(?:\b(?:is|are|was|were|be|becomes?|has|have|had|leaves|remains?|choose|pick|select|option|choice|called|on|"
    r"go with|opt for|left with)\b|[:=])(?:\s+(?:therefore|thus|then|always|simply|definitely|indeed|only|either|"
    r"clearly|also))*\s+(?:(?:an?|the|on)\s+)?",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?:(?:the|an?|called|named|on)\s+)?([A-ZÀ-Þ][\w'’-]*)")
_EQUATED = re.compile(r"([A-ZÀ-Þ][\w'’-]*)\s+(?:is|was|are|equals|must be|becomes)\b")
_OPENERS = {
    "the", "it", "this", "that", "these", "those", "there", "he", "she", "they", "we", "you", "every", "each", "all",
    "both", "one", "another", "which", "what", "who", "here", "now", "then", "so", "answer", "day",
}  # fmt: skip
_PLAN = re.compile(  # now we only need to multiply them
    r"\b(?:need|have|want|must|let us|let's|let me|can|will|should|remains)\s+(?:(?:to|now|then|just|only|first|"
    r"next)\s+)*(?:multiply|add|subtract|divide|find|compute|calculate|solve|determine|evaluate|simplify|sum|count|"
    r"figure|work|consider|set up|substitute|plug)\b(?!.*(?:=|\b(?:is|are|get|gives?|obtain|equals?|that)\b)).*$",
    re.IGNORECASE | re.DOTALL,
)
_RULE = re.compile(r"(?:\s*(?:\*\*|__|^[-*_]{3,}))+\s*$", re.MULTILINE)  # the end of bold type, a line across


def sentences(text: str) -> list[str]:
    """The text in sentences; full stops inside formulas end none, line breaks do."""
    hidden, found, start = masked(text, formulas(text)), [], 0
    for match in _END.finditer(hidden):
        found.append(text[start : match.end()])
        start = match.end()
    return [part for part in (*found, text[start:]) if part.strip(" \n\t*_#-—>|")]


def final(text: str) -> str | None:
    """The value at the end of the text; None without one, or if the text is truncated or gives up."""
    tail = text if len(text) <= MAX_TAIL else text[-MAX_TAIL:].split("\n", 1)[-1]
    parts = sentences(tail)
    if cut_off(tail) or (len(parts) > 1 and _trails_off(parts[-1])):
        return None
    kept = concluding(parts)
    for sentence in reversed(kept):
        if (found := main(sentence)) is not None:
            return found
    return None


def cut_off(text: str) -> bool:
    """Whether the text breaks off inside a sentence: after an article, a preposition, a sign of operation."""
    end = text[-1000:]
    return bool(_CUT_OFF.search(_RULE.sub("", masked(end, formulas(end)).rstrip()[-200:]).rstrip()[-60:]))


def _trails_off(sentence: str) -> bool:
    """Whether a last sentence of several words ends in a word, without a full stop and without a value."""
    text = sentence.strip()
    prose = len(text.split()) > 2 and text[-1:].isalpha() and text.isascii()
    return prose and not COURTESY.match(text) and not CUE.match(text) and not values(text)


def states(text: str) -> bool:
    """Whether a text draws a conclusion or ends on a calculation: `so it is 5`, `2 + 3 = 5`."""
    parts = sentences(text[-MAX_TAIL:])
    drawn = any(values(part[cue.end() :]) for part in parts for cue in [CUE.search(part)] if cue)
    return drawn or bool(parts and re.search(r"=[^=a-z]{1,60}$", parts[-1].rstrip(" .$\n\\])*")))


def concluding(parts: list[str]) -> list[str]:
    """The sentences up to the conclusion: courtesies and checks behind it go, and all of them where the writer gives
    up and comes to no conclusion after that."""
    last_cue = max((i for i, part in enumerate(parts) if CUE.search(part)), default=-1)
    for i, part in enumerate(parts):
        if (given_up := _GIVES_UP.search(part)) and i >= last_cue and not CUE.search(part, given_up.end()):
            return []
        if i and _CHECK.match(part) and i > last_cue and any(values(p) for p in parts[max(0, i - 3) : i]):
            parts = parts[:i]
            break
    kept = [part for part in parts if not COURTESY.match(part)]
    return [] if kept and _PLAN.search(kept[-1]) else kept


def complements(text: str) -> list[str]:
    """What the concluding sentence says in words, in candidates: `So it will be a Tuesday`, `Therefore, Maria won`."""
    tail = text if len(text) <= MAX_TAIL else text[-MAX_TAIL:].split("\n", 1)[-1]
    kept = [] if cut_off(tail) else concluding(sentences(tail))
    if not kept:
        return []
    sentence = kept[-1]
    bold = [b[1].strip(" .") for b in BOLD.finditer(sentence)]
    plain = re.split(r"[.;!]?\s*$|,\s+not\b", OPENER.sub("", unbold(sentence)).strip())[0]
    if re.search(r"\bor\b", plain):
        return []
    denied = re.search(r"\b(?:not|never|neither|nor|cannot)\b|n['’]t\b", plain)
    found = bold if len(bold) == 1 and not denied else []
    if only := _ONLY.match(plain):
        found.append(only[1])
    for match in _COPULA.finditer(plain):
        rest = re.split(r"[,;(]|\b(?:because|since|as|so|when|for)\b", plain[match.end() :])[0].strip()
        if rest and not re.search(r"\b(?:not|never|neither|nor|cannot)\b|n['’]t\b", match[0] + rest):
            found.append(rest)
    names = {named[1] for rest in found if (named := _NAME.fullmatch(rest))}
    if (equated := _EQUATED.match(plain)) and equated[1].lower() not in _OPENERS:
        names.add(equated[1])
    if len(names) > 1:  # Tuesday is Monday
        return []
    if not denied and (subject := re.match(r"[A-ZÀ-Þ][\w'’-]*(?=\s+(?!and\b|or\b)[a-z]{2})", plain)):
        found.append(subject[0])
    return [phrase for phrase in found if len(phrase) <= MAX_PHRASE]
