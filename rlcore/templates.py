"""Templates of requests to a model, and parsing of its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped, unused-ignore]

from rlcore.problems import Problem

PLACEHOLDERS = ("prompt", "response", "critique", "principle", "operation", "evolved")
PATTERN_LIMIT_S = 1.0  # seconds of one search, because a pattern may backtrack on a model's answer
_FIELD = regex.compile(r"\{([a-z_]+)\}")


def render(template: str, **values: object) -> str:
    """Replaces `{name}` with values in one pass; braces in values and other braces are unchanged.

    >>> render("Improve: {prompt} {x}", prompt="print({response})")
    'Improve: print({response}) {x}'
    """
    return str(_FIELD.sub(lambda found: str(values.get(found.group(1), found.group())), template))


def template_problems(key: str, template: str, allowed: Sequence[str], needed: Sequence[str]) -> Iterator[Problem]:
    """Problems of a template; words in braces other than PLACEHOLDERS are plain text."""
    used, cure = set(_FIELD.findall(template)), f"it may use {', '.join(allowed)}"
    for name in needed:
        if name not in used:
            yield Problem(key, template[:60], f"lacks {{{name}}}", cure)
    for name in sorted(used & set(PLACEHOLDERS) - set(allowed)):
        yield Problem(key, template[:60], f"{{{name}}} has no value there", cure)


@dataclass
class AnswerConfig:
    """Locates the requested text in a model's answer; surrounding blanks are stripped."""

    after: str = ""  # take the text after its last occurrence, if any
    before: str = ""  # of that, the text before its first occurrence, if any
    must_mark: bool = False  # an answer without `after` is unreadable
    pattern: str = ""  # of that, the first match of this regular expression: its first group, or the whole match

    def problems(self, key: str) -> Iterator[Problem]:
        if self.must_mark and not self.after:
            yield Problem(f"{key}.must_mark", True, "there is no mark", f"set {key}.after")
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            yield Problem(f"{key}.pattern", self.pattern, "no regular expression", str(error))


def parse(answer: str, config: AnswerConfig) -> str | None:
    """The requested text, possibly empty; None if it cannot be located.

    >>> parse("Sure! New task: Sort {a, b}. ", AnswerConfig(after="New task:"))
    'Sort {a, b}.'
    """
    text = answer
    if config.after:
        _, mark, tail = text.rpartition(config.after)
        if not mark and config.must_mark:
            return None
        text = tail  # without a mark, the whole text
    if config.before:
        text = text.partition(config.before)[0]
    if config.pattern:
        try:
            found = regex.search(config.pattern, text, flags=regex.DOTALL, timeout=PATTERN_LIMIT_S)
        except TimeoutError:
            return None
        if found is None:
            return None
        text = (found.group(1) if found.re.groups else found.group(0)) or ""
    return text.strip()
