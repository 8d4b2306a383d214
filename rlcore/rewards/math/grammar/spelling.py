r"""Normalises the spelling of relations, sets and counts before `structure` parses an answer."""

from __future__ import annotations

import re

from rlcore.rewards.math.reading import prose

_RELATIONS = {
    r"\leqslant": "≤", r"\leq": "≤", r"\le": "≤", r"\geqslant": "≥", r"\geq": "≥", r"\ge": "≥", r"\neq": "≠",
    r"\ne": "≠", r"\lt": "<", r"\gt": ">", r"\in": "∈", r"\cup": "∪", r"\cap": "∩", r"\setminus": "∖",
    r"\backslash": "∖", r"\smallsetminus": "∖", r"\lor": "∨", r"\vee": "∨", r"\land": "∧", r"\wedge": "∧",
    r"\approx": "=", r"\equiv": "=", r"\simeq": "=", r"\mapsto": "=", r"\varnothing": r"\emptyset",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\colon": ":", r"\R": r"\mathbb{R}",
    r"\reals": r"\mathbb{R}", r"\mid": "|", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\dots": r"\ldots",
}  # fmt: skip
_PHRASES = {
    "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "any real number": r"\mathbb{R}",
    "every real number": r"\mathbb{R}", "real numbers": r"\mathbb{R}", "no solution": r"\emptyset",
    "empty set": r"\emptyset", "infinity": r"\infty", "positive infinity": r"\infty", "negative infinity": r"-\infty",
}  # fmt: skip
_EXCEPT = re.compile(r"(?:x is )?(?:all|any|every) real(?: number)?s?(?: [a-z])? except(?: for)? ?(?:x ?= ?)?(.{1,40})")
_NOTHING = re.compile(r"\\text\s*\{\s*(?:no solutions?|empty set)\s*\}")
_PRIME = re.compile(r"\^\s*\{?\s*\\prime\s*\}?")
_COUNTED = r"\{?\s*(\d{1,3})\s*\}?"
_COMBINATION = re.compile(
    rf"(?<![a-zA-Z\\])(?:C_{_COUNTED}\s*\^{_COUNTED}|\{{?\}}?[_^]{_COUNTED}\s*C_{_COUNTED})(?!\w)"
)
_LETTERED = re.compile(r"(?<![a-zA-Z\\])C_\{?\s*([nmN])\s*\}?\s*\^\s*\{?\s*(\d|[krm])\s*\}?(?![\w^])")
_NULL_VECTOR = re.compile(r"\\(?:mathbf|boldsymbol|bm|vec|overrightarrow)\s*\{\s*0\s*\}")
_CHOOSE = re.compile(r"\{\s*([^{}]{1,40})\\choose(?![a-zA-Z])\s*([^{}]{1,40})\}")
_WHERE = re.compile(  # 2k\pi (k \in Z), 2k\pi \text{ for } k \in Z, 2k\pi, k \text{ is an integer}
    r"(?:\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:where|for|with|for any|for all|for some)\s*\}|\b(?:where|for|with)\b)\s*"
    r"|\s*\(\s*)"
    r"([a-zA-Z]\s*∈\s*\\mathbb\s*\{?[ZN]\}?)\s*\)?$"
)
_INTEGER = re.compile(r"(?<![a-zA-Z\\])([a-z])\s*\\text\s*\{\s*(?:is\s+)?(?:an?\s+|any\s+)?integer\s*\}$")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_AND_OR = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*,?\s*(and|or)\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])")
_SYSTEM = re.compile(r"\\begin\s*\{cases\}((?:(?!\\begin|\\end).)*)\\end\s*\{cases\}", re.DOTALL)
_BASIS = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|hat|widehat|vec|overrightarrow)\s*\{\s*"
    r"(?:\\(?:mathbf|boldsymbol|bm)\s*\{\s*)?(?:\\([ij])math|([ijk]))\s*\}(?:\s*\})?"
)
_IF = re.compile(r"^[\s,]*(?:\\(?:text|mathrm|mbox)\s*\{\s*(?:if|for|when|where)\s*\}|\b(?:if|for|when|where)\b)")
_POSITIVE = re.compile(r"\\mathbb\s*\{?R\}?\s*[\^_]\s*\{?\s*(?:\+|>\s*0)\s*\}?")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*to\s*\}|to)\s*(\d+(?:\.\d+)?)")
_COUNT = re.compile(rf"(?<![a-zA-Z\\])C\s*\({_COUNTED},{_COUNTED}\)")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")


def phrase(text: str) -> str | None:
    r"""A formula for words that state one: `all real numbers except 2`, `no solution`; None for other words.

    >>> phrase("all real numbers except 2"), phrase("Evelyn")
    ('\\mathbb{R} \\setminus \\{2\\}', None)
    """
    if match := _EXCEPT.fullmatch(prose.unstyled(text)):
        return rf"\mathbb{{R}} \setminus \{{{match[1]}\}}"
    return _PHRASES.get(prose.words(text) or "")


def counted(text: str) -> str:
    r"""`C(10, 3)` as `\\binom{10}{3}`."""
    return _COUNT.sub(r"\\binom{\1}{\2}", text)


def _listed(match: re.Match[str]) -> str:
    """A system of equations as a list of them; of two columns, values under conditions, as a set of pairs."""
    inner = re.sub(r"&\s*(?==)|(?<==)\s*&", "", match[1])
    if "&" not in inner:
        return re.sub(r",?\s*\\\\", ", ", inner) if "=" in inner else match[0]
    cases = [row.partition("&") for row in inner.split(r"\\") if row.strip()]
    conditions = [_IF.sub("", condition) for _, _, condition in cases]
    pairs = zip(cases, conditions, strict=True)
    return r"\{" + ", ".join(f"({value.strip(' ,;')}; {when.strip(' ,;.')})" for (value, _, _), when in pairs) + r"\}"


def signs(text: str) -> str:
    r"""A cleaned text with one sign for each relation and connective: `\\leqslant` is `≤`, `or` is `∨`."""
    if "mod" in text:
        text = re.sub(r"\\pmod\s*(?:\{[^{}]*\}|\([^()]*\)|\d)|\(\s*\\?(?:mod|bmod)[^()]*\)", "", text)
    if r"\begin" in text:
        text = _SYSTEM.sub(_listed, text)
        text = re.sub(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|cases|equation\*?)\}", " ", text)
    text = text.replace("<=", "≤").replace(">=", "≥").replace("!=", "≠").replace(":=", "=")
    if "\\" in text:
        text = _COMMAND.sub(lambda m: _RELATIONS.get(m[0], m[0]), text)
        text = _NOTHING.sub(r"\\emptyset", text)
        text = _PRIME.sub("'", _NULL_VECTOR.sub("0", text))
    text = _AND_OR.sub(lambda m: "∨" if (m[1] or m[2]) == "or" else "∧", text)
    if "∈" in text or "integer" in text:
        text = _WHERE.sub(r", \1", _INTEGER.sub(r"\1∈\\mathbb{Z}", text))
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _COMBINATION.sub(lambda m: rf"\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
    if "C_" in text:
        text = _LETTERED.sub(r"\\binom{\1}{\2}", text)
    if not _COUNT.fullmatch(text):  # which may be a point
        text = counted(text)
    if len({m[1] or m[2] for m in _BASIS.finditer(text)}) > 1:  # one alone may be the imaginary unit
        text = _BASIS.sub(lambda m: f" {m[1] or m[2]}_{{vec}} ", text)
    text = _POSITIVE.sub(r"(0,\\infty)", text)
    text = _RATIO.sub(r"\1:\2", text) if _RATIO.fullmatch(text) else text
    if (commas := text.count(",")) and commas == sum(m[0].count(",") for m in _GROUPED.finditer(text)):
        text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    return text.strip()
