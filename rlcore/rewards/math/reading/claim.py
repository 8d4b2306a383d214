r"""The value that one sentence states.

"Priya has 64 stickers left out of the original 128." states 64: a number behind `of`, `in`, `than`, `when` or a
definite article is a circumstance that was known before. Asides, contrasts and conditions are cut away.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rlcore.rewards.math.reading.quantities import (
    SPELT,
    Value,
    formulas,
    has_words,
    is_expression,
    last_side,
    masked,
    spelt,
    unbold,
    values,
)
from rlcore.rewards.math.values import exact

_ROUNDED = re.compile(
    r",?\s+\(?(?:(?:or|which is|that is|i\.e\.,?)\s+(?:about|approximately|approx\.?|roughly|around|nearly)|≈|"
    r"approximately)\s+",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"(?<=\s)[(\[][^()\[\]]{2,120}[)\]]")
_CONTRAST = re.compile(
    r",?\s+(?:rather than|instead of|as opposed to|in contrast to|unlike|compared (?:to|with)|even though|although|"
    r"though|while|whereas|despite|because|since|given that|assuming|provided|as required|as (?:we|can|was|expected|"
    r"claimed))\b.*$|\s*[,;–—-]\s*(?:and\s+)?not\b.*$|\s+and\s+not\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_ALSO = re.compile(  # a second clause, which says something else: `is 6, attained at x = 1`, `is 5 and its radius is 4`
    r"(?:,\s+(?:attained|reached|achieved|occurring|taken|its|their|his|her|where|with|at|for)\b"
    r"|,?\s+and\s+(?:the|its|their|his|her|in|after)\b)(?!.*\b(?:total|sum|altogether|answer|together|result|so|thus|"
    r"therefore|hence|combined|final|difference|mak(?:es?|ing)|leav(?:es?|ing)|giv(?:es?|ing))\b).*$",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(r"(?<=.)\s+(?:when|if|where|for which|for all|for every|whenever|once)\b.*$", re.DOTALL)
_INSTEAD = re.compile(
    r"(?:,|;|\s[-–—])\s*but\s+(?=(?:\w+\W+){0,3}?(?:it(?:'s| is)?|is|are|that|actually|really|in fact|the|rather|"
    r"should|must)\b)|\bnot\b[^.;]{1,40}?\bbut\s+(?:rather\s+|actually\s+)?(?=\S)",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"[*)$]*\s+(?:[\w%]+\s+){0,3}?(?:more|less|fewer|\w{2,}er)\s+than\b", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:\b(?:step|case|part|chapter|section|problem|question|exercise|method|equation|eq\.?|fig(?:ure)?\.?|table|"
    r"line|option|item|page|no\.|grade|example|theorem|lemma|formula|rule|property|version|solution|approach|hint|"
    r"note)s?\s*\(?#?|\[|#)$",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"\b(?:of|out of|from|than|among|in|within|over|for|after|before|during|on|with|per|between|when|if|where|every|"
    r"each|the|his|her|their|its|our|my|your|these|those|all|both|original|initial|first|every|until|since|through|"
    r"using|given|via)\s+(?:(?:the|a|an|his|her|their|its|our|all|about|only|just|another|original|initial|first|"
    r"previous|remaining|given|total|full|same|other|these|those|each|every)\s+){0,3}[-$€£(*]*$|\b(?:in|on|over|"
    r"within|from) the \w+\s+$",
    re.IGNORECASE,
)
_RESULT_OF = re.compile(
    r"(?<!out of )(?<!out of a )(?<!of the )\b(?:total|sum|result|value|difference|product|average|mean|median|mode|"
    r"range|probability|chance|area|volume|length|distance|speed|cost|price|profit|height|width|perimeter|"
    r"circumference|age|number|amount|rate|time|score|maximum|minimum|max|min|angle|ratio|remainder|quotient|radius|"
    r"diameter|slope|sum total|weight|mass|temperature|balance|solution|answer|measure|capacity|salary|income|loss|"
    r"discount|percentage|worth|(?:in|de)crease|rise|drop|gain|reduction|growth|savings?|surplus|deficit|share|odds|"
    r"count|bill|fee|tip|tax)\s+of\s+(?:about|approximately|exactly|only|roughly|around|nearly|"
    r"over)?\s*[-$€£*]*$|\b(?:results?|resulting|ending up|ends up)\s+(?:in|with)\s+(?:a\s+\w+\s+of\s+)?[-$€£]*$",
    re.IGNORECASE,
)
_NAME = r"(?:\\?[a-zA-Z](?:_\{?\w{1,3}\}?)?)"
_IS = r"\s*(?:=|\bis(?: equal to)?\b|\bequals\b|:)\s*"
_SYSTEM = re.compile(
    rf"(?<![\w\\])({_NAME}){_IS}([^\s,;=]{{1,30}})((?:\s*(?:,|;|and|or|,\s*and|"
    rf",\s*or)\s+{_NAME}{_IS}[^\s,;=]{{1,30}}){{1,8}})\W*$"
)
BETWEEN = re.compile(r"\s*[*_]*\s*(?:,|;|and|or|,\s*and|,\s*or|und|oder|et|ou|y|o|e|и|或|和)\s*[*_]*\s*")
_BEFORE_LIST = re.compile(
    r"(?:\b(?:are|is|were|be|either|both|include|namely|values?|roots?|solutions?)|[:=∈])\s*[*_]*\s*$"
)
_LEADS_TO = re.compile(
    r"(?:\b(?:is|are|equals|equal to|obtain|get|gives|becomes|be|have|as|to|simplifies to|comes to)\b|:)\s{0,3}",
    re.IGNORECASE,
)
OPENER = re.compile(
    r"^[\s>#*_✅-]*(?:(?:so|thus|therefore|hence|then|now|finally|also|and|we (?:get|have|obtain|find)|this gives|∴|"
    r"⇒|=>|\d{1,2}[.)](?=\s)|step \d+:?|[a-z]{3,20}:)[\s,:]*)+",
    re.IGNORECASE,
)
BOLD = re.compile(r"\*\*(?!\s)([^*\n]{1,200}?)(?<!\s)\*\*")
_SPELT_RESULT = re.compile(
    rf"(?:\b(?:is|are|be|equals|has|have|get|gets|makes?|leaves?|=|remain|exist|exists)\s+(?:only |exactly |"
    rf"just |about |"
    rf"approximately |equal to |an? )?)({SPELT})(?!\s+(?:of|more|less|fewer|greater|larger|smaller|times|that|"
    rf"which|way to)\b)",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\\?[a-zA-Z]+(?:_\w)?|\\(?:triangle|angle)\s*\w+|[A-Z]{2,4}")


def main(sentence: str) -> str | None:
    """The value that a sentence states, be it denied or not; None when it states none."""
    if (bold := _in_bold(sentence)) is not None:
        return bold
    sentence = trimmed(re.sub(r"(?<!\bn)!+\s*$", "", sentence))
    plain = OPENER.sub("", sentence).strip()
    if plain and is_expression(plain) and re.search(r"\d|\ue000|[=<>√π\\]", plain) and not formulas(plain):
        return last_side(plain)
    if named := _SYSTEM.search(sentence):
        return _system(named)
    if (listed := _listed(sentence)) is not None:
        return listed
    if (ended := _expression(sentence)) is not None:
        return last_side(ended)
    if rounded := _ROUNDED.search(masked(sentence, formulas(sentence))):
        one, other = main(sentence[: rounded.start()]), main(sentence[rounded.end() :])
        if one is not None and other is not None and len(values(sentence[: rounded.start()])) <= 2:
            return rf"{one} \approx {other}"
    if (best := _weightiest(sentence)) is not None:
        return last_side(best.inner) if best.formula else best.inner
    word = _SPELT_RESULT.search(sentence)
    return spelt(word[1]) if word and not values(sentence) else None


def _expression(sentence: str) -> str | None:
    """A formula without delimiters that ends the sentence: `the line is y = 3x - 2`."""
    text = sentence.rstrip(" .!*_")[-200:]
    if formulas(text):
        return None
    rests = (text[match.end() :] for match in _LEADS_TO.finditer(text))
    return next((r for r in rests if re.search(r"[=<>^≤≥≠+*/√π]|\d[a-z]\b", r) and is_expression(r)), None)


def _in_bold(sentence: str) -> str | None:
    """What stands in bold type, when that is one value: a line's heading, `**Step 3:**`, is none."""
    bold = [b for b in BOLD.finditer(sentence) if b[1].rstrip()[-1:] not in ":："]
    bold = [b for b in bold if not _LABEL.search(b[1].rstrip(" 0123456789"))]
    if len(bold) != 1 or bold[0][0] == sentence.strip(" .!\n"):
        return None
    inner = bold[0][1].strip(" .")
    return main(inner) if values(inner) else None


def trimmed(sentence: str) -> str:
    """The sentence without its asides, contrasts and conditions, as long as a value is left."""
    text = re.sub(r"^\s*\d{1,2}[.)]\s+(?=\S)", "", unbold(sentence)).strip()
    if (instead := list(_INSTEAD.finditer(text))) and values(text[instead[-1].end() :]):
        text = text[instead[-1].end() :]
    for pattern in (_ASIDE, _CONTRAST, _ALSO, _CONDITION):
        spans = formulas(text)
        hidden = masked(text, spans)
        for match in reversed(list(pattern.finditer(hidden))):
            if pattern is _ASIDE and not has_words(match[0]) and _is_factor(hidden, match):
                continue
            shorter = text[: match.start()] + text[match.end() :]
            text = shorter if values(shorter) else text
    return re.sub(r"(?<!\.)\.$|。$", "", text.strip())


def _is_factor(text: str, aside: re.Match[str]) -> bool:
    """Whether brackets belong to a formula: `(2, 5)`, `x^2 + (y + 1)^2`."""
    before, after = text[: aside.start()].rstrip()[-1:], text[aside.end() :].lstrip()[:1]
    return "," in aside[0] or before in tuple("+-*/=^(,<>") or after in tuple("+-*/=^<>")


def _system(named: re.Match[str]) -> str:
    whole = re.sub(r"(?<=[\w}])\s*(?:\bis(?: equal to)?\b|\bequals\b|:)\s*", " = ", named[0].strip().rstrip(".!"))
    names = re.findall(rf"(?<![\w\\])({_NAME}) ?=", whole)
    joined = re.sub(r",?\s+and\s+|;\s*", ", ", whole)
    return joined if len(set(names)) == len(names) or "or" in whole.split() else re.sub(r",?\s+and\s+", " or ", whole)


def _listed(sentence: str) -> str | None:
    """Several values side by side, which are one answer: `the roots are 2 and -3`, `$x=2$ and $x=3$`."""
    found = values(sentence)
    if len(found) < 2 or re.search(r"\w", sentence[found[-1].end :].strip(" .")):
        return None
    run = [found[-1]]
    for before, after in list(pairwise(found))[::-1]:
        if not BETWEEN.fullmatch(sentence[before.end : after.start]):
            break
        run.insert(0, before)
    if len(run) < 2:
        return None
    inner = [value.inner.strip(" .,") for value in run]
    if len(run) == 2 and _equal(*inner):
        return inner[0]  # 0.6, or 60%
    named = [re.fullmatch(rf"({_NAME}(?:\([a-z]\))?)\s*=[^=]+", part) for part in inner]
    if all(named):
        return ", ".join(inner)
    head = sentence[: run[0].start]
    if any("=" in part for part in inner[1:]) or not _BEFORE_LIST.search(head):
        return None
    return ", ".join(last_side(part) if i == 0 and "=" in part else part for i, part in enumerate(inner))


def _equal(a: str, b: str) -> bool:
    one, other = exact.number(exact.clean(a)), exact.number(exact.clean(b))
    return one is not None and other is not None and exact.same(one, other)


def _weightiest(sentence: str) -> Value | None:
    """The last value that is neither a label nor a circumstance; else the last circumstance."""
    circumstances: list[Value] = []
    stated: list[Value] = []
    for value in values(sentence):
        before = sentence[max(0, value.start - 60) : value.start]
        if not value.formula and _LABEL.search(before):
            continue
        bare = value.formula and _NAMED.fullmatch(value.inner)
        given = bool(_GIVEN.search(before)) and not _RESULT_OF.search(before)
        known = given or bare or _COMPARED.match(sentence, value.end)
        (circumstances if known else stated).append(value)
    best = stated or circumstances
    return best[-1] if best else None
