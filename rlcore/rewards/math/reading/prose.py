r"""Answers that are words or letters: `\text{Evelyn}`, `July 14`, `no solution`, `(C)`, `A and D`."""

from __future__ import annotations

import re
from functools import lru_cache

_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf)|mbox|emph|operatorname|boldsymbol|bm|underline)\s*\{([^{}]*)\}"
)
_PLAIN = re.compile(r"[\w\s.,:;&'’\"()!?/–-]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NO_WORDS = {
    "sqrt", "cbrt", "infinity", "infty", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "arcsin",
    "arccos", "arctan", "pi", "and", "or", "lim", "max", "min", "gcd", "lcm", "mod", "oo", "dx", "inf", "abs",
}  # fmt: skip
_SHORT = {"no", "he", "am", "pm", "up", "id", "us"}  # words of two letters that are answers; others are products
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|statement)s?\s*(?:is\s+|:\s*)?)?[(\[]?\s*([A-Ja-j])\s*[)\]]?"
    r"(?:(?P<mark>[.:)])\s*(?P<rest>.*)|(?<=[)\]])\s*(?P<after>.+))?",
    re.DOTALL | re.IGNORECASE,
)
_ANOTHER = re.compile(  # (A) or (B); A. 5 B. 7
    r"[(\[][A-J][)\]]|(?<![\w\\])[B-J][.):](?=\s|$)|"
    r"(?:^|[\s,;])(?:or|unless|and|if not)\s+(?:option\s+)?[(\[]?[A-J][)\]]?(?![\w'])|"
    r"\b(?i:the answer is|option)\s+[(\[]?[A-J]\b"
)
_LETTERS = re.compile(r"[(\[]?[A-J][)\]]?(?:(?:\s*(?:,|;|&|\band\b)\s*)+[(\[]?[A-J][)\]]?)+")
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_SAME = (
    (rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b", r"\2 \1"),
    (rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)\b", r"\1 \2"),
    (r"\bdoes not exist\b|\bdne\b", "dne"),
    (r"\b(?:there (?:is|are) )?no (?:real |possible |such )?(?:solutions?|roots?)(?: exists?)?\b", "no solution"),
    (r"\binfinite(?:ly many)?(?: solutions?)?\b", "infinitely many"),
    (r"^(?:the|a|an)\s+", ""),
    (r"^(?!real)(\w+) (?:function|number|triangle|integer)s?$", r"\1"),
)  # fmt: skip


@lru_cache(maxsize=1024)
def unstyled(text: str) -> str:
    r"""Without `\text{..}` and the like, spaces as one."""
    for _ in range(3 if "\\" in text else 0):
        text, count = _STYLE.subn(r" \1 ", text)
        if not count:
            break
    text = re.sub(r"\*\*|__", "", text)
    return " ".join(text.replace("~", " ").replace(r"\ ", " ").split())


def words(text: str) -> str | None:
    """Lower-case words when the text is prose; None when it may be a formula or a number with a unit."""
    plain = unstyled(text).strip(" .!,;:")
    if not _PLAIN.fullmatch(plain) or not plain[:1].isalpha():
        return None
    found = [w for w in _WORD.findall(plain) if w.lower() not in _NO_WORDS]
    styled = plain != text.strip(" .!,;:")
    if not any(len(w) > 2 or styled or w.lower() in _SHORT for w in found):
        return None
    return normal(plain)


def normal(plain: str) -> str:
    """One spelling: case, punctuation, articles and some stock phrases."""
    text = " ".join(re.sub(r"[.,:;!?\"()’']|\band\b|(?<=\s)&(?=\s)", " ", plain.lower()).split())
    for pattern, replacement in _SAME:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def letter(text: str) -> tuple[str, str] | None:
    """`C. 42`, `(C) 42`, `option C` as `("c", "42")`; None when it is no choice."""
    plain = unstyled(text)
    match = _LETTER.fullmatch(plain)
    if match is None or (match["mark"] == ")" and plain[:1] != "(" and "(" in plain[: match.end(1)]):
        return None
    rest = (match["rest"] or match["after"] or "").strip()
    return None if _ANOTHER.search(rest) else (match[1].lower(), rest)


def letters(text: str) -> frozenset[str] | None:
    """`A, C and D` as a set of letters; None when it is no such list."""
    plain = unstyled(text).strip(" .")
    return frozenset(re.findall(r"\b[A-J]\b", plain)) if _LETTERS.fullmatch(plain) else None


def conflict(phrases: list[str]) -> bool:
    """Whether phrases name two answers of one kind: yes and no, two options."""
    kinds: tuple[set[str], ...] = (set(), set(), set())
    for phrase in phrases:
        plain = unstyled(phrase).strip(" .!,;:")
        if plain.lower() in ("yes", "no"):
            kinds[0].add(plain.lower())
        elif plain.lower() in ("true", "false"):
            kinds[1].add(plain.lower())
        elif (one := letter(plain)) is not None:
            kinds[2].add(one[0])
    return any(len(kind) > 1 for kind in kinds)


def run_of_letters(text: str) -> frozenset[str] | None:
    """`ACD`: choices written together, in order."""
    plain = unstyled(text).strip(" .")
    ordered = re.fullmatch(r"[A-J]{2,}", plain) and list(plain) == sorted(set(plain))
    return frozenset(plain) if ordered else None
