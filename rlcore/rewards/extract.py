r"""Finds the final answer in a response: a box, `####`, "the answer is", or the last formula or number.

What stands inside `<think>` is never an answer. Regular expressions here are linear: hostile text costs its length.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rlcore.rewards import exact

_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{|(?=[\w\\-]))")
_BETWEEN = re.compile(
    r"(?:[\s$,;.*]|\b[a-zA-Z](?:_\w)?\s*=|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|and|or|\\q?quad(?![a-z])|\\[()\[\],;:! ])*"
)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_ANSWER = re.compile(
    r"(?:\b(?:(?:final\s+|correct\s+)?answers?|(?:correct|right|best)\s+(?:option|choice|statement)s?)\b"
    r"[^\n:=.$]{0,40}?(?:\bis\b|\bare\b|\b(?:must|should|has to)\s+be\b|:|=)"
    r"|<answer>|\b(?:choose|select|pick)\s+(?:option|choice|answer)\b)"
    r"(?!\s+not\b)[ \t]{0,9}:?[ \t]{0,9}(?:\n[ \t]{0,9})?(?=[^\n])",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"\$\$(.{1,500}?)\$\$|(?<!\\)\$([^$\n]{1,500}?)(?<!\\)\$"
    r"|\\\[(.{1,500}?)\\\]|\\\((.{1,500}?)\\\)",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))"
    r"(?:[eE][+-]?\d+|\s*(?:[xX×*]|\\times|\\cdot)\s*10\s*\^\s*\{?[+-]?\d+\}?|\s*[xX×]\s*10[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)?"
    r"(?:(?:\s+\d+)?\s*/\s*\d+(?:\.\d+)?)?(?:\s*\\?%)?"
    r"|(?<!\d)\d{0,6} ?[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|-?\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}"
)
_REASON = r",?\s+(?:because|since|as|not)\b"
_CHOICE = re.compile(rf"\(?([A-J])\)?(?:[.):](?:\s.*)?|{_REASON}.*|\s+.*)?", re.DOTALL)
_HEAD = re.compile(rf"\(?[A-J]\)?(?:[.):]|{_REASON}|$)")
_TOLD = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\b(?:is|are|=|:)\s*\}\s*(?=\S)")  # \text{The answer is } 7
_BRACKET = re.compile(r"[(\[][^()\[\]]{1,80},[^()\[\]]{1,80}[)\]](?=\W*$)")
_ALTERNATIVES = re.compile(  # x = 2 or x = 3
    r"\b([a-zA-Z]) ?= ?[^\s,;=]{1,30}(?:(?:,| or| and|, or|, and) \1 ?= ?[^\s,;=]{1,30}){1,8}(?=\W*$)"
)
_ENDING = re.compile(  # the line is y = 3x - 2.
    r"\b(?:is|are|equals|obtain|get|becomes|be|:) {1,3}([^\n$]{0,40}[=<>^≤≥][^\n$]{1,80})$"
)
_JSON = re.compile(
    r'\{[^{}\n]*"(?:final_?)?answer"\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"|([^"\s,{}]+))\s*\}\W*$', re.IGNORECASE
)
_VERDICT = re.compile(r"(?:yes|no|true|false)(?=\s*(?:[,.;!]|$|because\b|since\b))", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[^|<>]{1,30}\|>|</s>")  # tokens that a template leaves behind
_BOLD = re.compile(r"(?<![\w)])(?:\*\*|__)|(?:\*\*|__)(?![\w(])")
_BOLD_FORMULA = re.compile(r"\*\*([^*$\n]{1,80}?)(\.?)\*\*")
_QUOTED = re.compile(r"^>[ \t]+(?=\*\*|\$|\\)", re.MULTILINE)  # a quotation in Markdown
_RIGHT_OPTION = re.compile(
    r"\b(?:option|choice|statement|answer)\s+\(?([A-J])\)?\s+(?:is|must\s+be)\s+(?:therefore\s+)?(?:the\s+)?"
    r"(?:correct|right|best|true|answer)\b",
    re.IGNORECASE,
)
_SHORT_WORDS = {
    "is", "it", "of", "to", "in", "so", "we", "be", "he", "an", "at", "by", "my", "no", "on", "or", "us", "am", "as",
    "do", "if", "up", "me",
}  # fmt: skip
MAX_BARE = 120  # characters of a response that is nothing but the answer


def answer(response: str) -> str | None:
    """The text of the final answer, not yet cleaned; None when there is none."""
    if (plain := response.strip()).isascii() and plain.isdigit():
        return plain
    text = visible(response)
    if (boxed := box(text)) is not None:
        told = _TOLD.match(boxed)
        return boxed[told.end() :] if told else boxed
    text = _BOLD.sub("", _BOLD_FORMULA.sub(_as_formula, _QUOTED.sub("", text)))
    if told := _JSON.search(text):
        return (told[1] or told[2] or "").replace("\\\\", "\\").strip() or None
    if hits := _HASHES.findall(text):
        line = str(hits[-1]).strip()
        named = _ANSWER.match(line)
        return line[named.end() if named else 0 :].strip() or None
    if (said := _said(text)) is not None and (found := _of_statement(said)):
        return found
    if said is None and (options := _RIGHT_OPTION.findall(text)):
        return str(options[-1])
    bare = text.strip()
    if bare and len(bare) <= MAX_BARE and "\n" not in bare and not _has_words(bare) and not _talks(bare):
        return _right_side(bare)
    if len(bare) <= MAX_BARE and _is_number(bare):
        return bare  # 90 minutes
    return _last(text)


def _as_formula(bold: re.Match[str]) -> str:
    """A formula in bold type between dollars: `**y = 3x - 2**`; other bold text as it is."""
    inner = bold[1]
    return f"${inner}${bold[2]}" if re.search(r"[=<>^≤≥]|[(\[].*,", inner) and not _has_words(inner) else bold[0]


def stated(response: str) -> str | None:
    """What the last "the answer is" says, up to the end of its sentence: for answers in words."""
    said = _said(_BOLD.sub("", visible(response)))
    return re.split(r"[.!]\s", said.strip() + " ")[0].strip() if said is not None else None


def _said(text: str) -> str | None:
    """The rest of the line after the last "the answer is"."""
    ends = [match.end() for match in _ANSWER.finditer(text)]
    return text[ends[-1] :].split("\n", 1)[0] if ends else None


def _is_number(text: str) -> bool:
    return exact.number(exact.clean(text)) is not None


def _talks(text: str) -> bool:
    """Whether letters stand between formulas: `So $x = 5$`."""
    outside = _FORMULA.sub(" ", text)
    return len(outside) < len(text) and bool(re.search(r"[a-zA-Z]", re.sub(r"\b(?:and|or)\b", "", outside)))


def visible(response: str) -> str:
    """The response without its thoughts: pairs of tags, a thought opened in the prompt, and one never closed."""
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THINK.finditer(response):
        if tag[1] and not thinking:
            kept = []  # all of it was a thought
        elif not tag[1] and not thinking:
            kept.append(response[start : tag.start()])
        thinking, start = not tag[1], tag.end()
    if not thinking:
        kept.append(response[start:])
    return _SPECIAL.sub("", " ".join(kept))


def box(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`; of a final run such as `\boxed{1}, \boxed{2}` all contents, joined by commas:
    naming several values is one answer, not several tries. None when no box is closed."""
    starts = list(_BOX.finditer(text))
    closing = _closing_braces(text) if starts else {}
    found: list[tuple[int, int, str]] = []
    for match in starts:
        if found and match.start() < found[-1][1]:
            continue  # a box inside a box
        if not match[1]:
            content = _token(text, match.end())
        elif match.end() in closing:
            content = text[match.end() : closing[match.end()]]
        else:
            content = None
        if content is not None:
            found.append((match.start(), match.end() + len(content) + bool(match[1]), content.strip()))
    if not found:
        return None
    run = [found[-1]]
    for before in reversed(found[:-1]):
        between = text[before[1] : run[-1][0]]
        if len(between) > 40 or not _BETWEEN.fullmatch(between) or not re.search(r"[,;]|and|or", between):
            break
        run.append(before)
    contents = list(dict.fromkeys(content for _, _, content in reversed(run)))
    inner = ", ".join(contents)
    for _ in range(3):
        nested = _BOX.match(inner)
        inner = inner[nested.end() : -1].strip() if nested and nested[1] and inner.endswith("}") else inner
    return inner


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


def _of_statement(rest: str) -> str | None:
    """The answer in what follows "the answer is" on its line."""
    rest = re.split(r"</answer>", rest, flags=re.IGNORECASE)[0].strip().strip("*").strip()
    if not rest:
        return None
    if formulas := list(_FORMULA.finditer(rest)):
        if len(formulas) == 1 and not _has_words(rest[: formulas[0].start()]):
            return _right_side(next(g for g in formulas[0].groups() if g))
        joined = [next(g for g in m.groups() if g) for m in formulas]
        between = [rest[a.end() : b.start()] for a, b in pairwise(formulas)]
        if all(re.fullmatch(r"\s*(?:,|and|or|,\s*and)\s*", gap) for gap in between):
            return ", ".join(joined) if len(joined) > 1 else _right_side(joined[0])
        return _right_side(joined[-1])
    rest = re.sub(r"\b(i\.e|e\.g|Rs|sq)\.", lambda m: m[1], rest)
    sentence = re.split(r"\.\s|(?<!\.\.)\.$|[!?](?:\s|$)", rest)[0].strip()
    if choice := re.fullmatch(_CHOICE, sentence):
        return choice[1] if _HEAD.match(sentence) else sentence
    if decided := _VERDICT.match(sentence):
        return decided[0]
    if not _has_words(sentence):
        return _right_side(sentence)
    numbers = _numbers(sentence)
    if numbers and _is_number(sentence):
        return sentence
    if (pair := _BRACKET.search(sentence)) and not _has_words(pair[0]):
        return pair[0]  # the point (2, 3)
    if numbers:
        return numbers[0] if _starts_with_number(sentence, numbers[0]) or len(numbers) == 1 else numbers[-1]
    return sentence


def _starts_with_number(sentence: str, number: str) -> bool:
    return sentence.lstrip("$€£\\ ").startswith(number)


def _last(text: str) -> str | None:
    """The last formula or the last number, whichever comes later."""
    formulas = list(_FORMULA.finditer(text))
    formula = formulas[-1] if formulas else None
    tail = text if formula is None else text[formula.end() :]
    if named := _ALTERNATIVES.search(tail):
        return named[0].strip()
    if ended := _ENDING.search(tail.rstrip()[-200:]):
        found = ended[1].rstrip(" .")
        if not _has_words(found):
            return _right_side(found)
    if numbers := _numbers(tail):
        return numbers[-1]
    if formula is None:
        return None
    return _run_of_formulas(text, formulas) or _right_side(next(g for g in formula.groups() if g).strip())


def _run_of_formulas(text: str, formulas: list[re.Match[str]]) -> str | None:
    """The last formulas together, when they stand side by side and all give values of one name: `$x=2$ and $x=3$`."""
    run: list[str] = []
    for before, after in zip([None, *formulas[:-1]][::-1], formulas[::-1], strict=True):
        run.insert(0, next(g for g in after.groups() if g).strip())
        if before is None or not re.fullmatch(r"\s*(?:,|and|or|,\s*(?:and|or))\s*", text[before.end() : after.start()]):
            break
    names = {formula.partition("=")[0].strip() for formula in run}
    alike = len(names) in (1, len(run)) and all(formula.count("=") == 1 for formula in run)
    alike &= len(names) == 1 or all(re.fullmatch(r"[a-zA-Z](?:_\{?\w\}?)?", name) for name in names)
    return ", ".join(run) if len(run) > 1 and alike else None


def _numbers(text: str) -> list[str]:
    return [hit for m in _NUMBER.finditer(text) if (hit := m[0].strip()) and any(c.isnumeric() for c in hit)]


def _right_side(text: str) -> str:
    """Of `a = b = c` the part after the last equals sign, when what stands before is a chain or a calculation.

    `x = 3` stays whole: which variable it is may matter. Systems (`x=1, y=2`) stay whole too.
    """
    if re.search(r"[,;&]|\\\\|\b(?:and|or)\b", text):
        return text.strip()
    parts = re.split(r"(?<![\\<>!:=])=(?!=)", text)
    left = parts[0].strip()
    if len(parts) == 2 and re.fullmatch(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]*\))?", left):
        return text.strip()
    if len(parts) == 2 and re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", left)):
        return text.strip()  # an equation such as y^2 = 4x is the answer itself
    return parts[-1].strip() or text.strip()


def _has_words(text: str) -> bool:
    """Whether there is prose in it: a word of three letters that is no LaTeX command and no function name."""
    plain = re.sub(r"\\(?:text|mathrm|mbox|textbf|begin|end|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    known = {"sqrt", "sin", "cos", "tan", "log", "exp", "abs", "max", "min", "gcd", "lcm", "mod", "arctan", "frac",
             "arcsin", "arccos", "cot", "sec", "csc", "lim", "and", "infinity", "inf"}  # fmt: skip
    words = [word.lower() for word in re.findall(r"[^\W\d_]{2,}", plain)]
    return any(len(w) > 2 and w not in known for w in words) or sum(w in _SHORT_WORDS for w in words) > 1
