"""Text put to a model, and text taken out of what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped, unused-ignore]

from rlcore.problems import Problem

PLACEHOLDERS = ("prompt", "response", "critique", "principle", "operation", "evolved")
PATTERN_LIMIT_S = 1.0  # of one search: a pattern that backtracks over a model's answer must not hold the run
_FIELD = regex.compile(r"\{([a-z_]+)\}")


def render(template: str, **values: object) -> str:
    """Puts values in the places of `{name}`, in one pass: braces inside the values, and other braces, stay as they are.

    >>> render("Improve: {prompt} {x}", prompt="print({response})")
    'Improve: print({response}) {x}'
    """
    return str(_FIELD.sub(lambda found: str(values.get(found.group(1), found.group())), template))


def template_problems(key: str, template: str, allowed: Sequence[str], needed: Sequence[str]) -> Iterator[Problem]:
    """Of a template; other words in braces than PLACEHOLDERS are plain text."""
    used, cure = set(_FIELD.findall(template)), f"it may use {', '.join(allowed)}"
    for name in needed:
        if name not in used:
            yield Problem(key, template[:60], f"lacks {{{name}}}", cure)
    for name in sorted(used & set(PLACEHOLDERS) - set(allowed)):
        yield Problem(key, template[:60], f"{{{name}}} has no value there", cure)


@dataclass
class AnswerConfig:
    """Where in a model's answer the text is that was asked for; blank ends are stripped."""

    after: str = ""  # what follows its last occurrence, if it occurs
    before: str = ""  # of that, what comes before the first occurrence of this, if it occurs
    must_mark: bool = False  # an answer without `after` cannot be read
    pattern: str = ""  # of that, what this regular expression finds first: its first group, or all it matched

    def problems(self, key: str) -> Iterator[Problem]:
        if self.must_mark and not self.after:
            yield Problem(f"{key}.must_mark", True, "there is no mark", f"set {key}.after")
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            yield Problem(f"{key}.pattern", self.pattern, "no regular expression", str(error))


def parse(answer: str, config: AnswerConfig) -> str | None:
    """The text asked for, maybe empty; None where it cannot be told.

    >>> parse("Sure! New task: Sort {a, b}. ", AnswerConfig(after="New task:"))
    'Sort {a, b}.'
    """
    text = answer
    if config.after:
        _, mark, tail = text.rpartition(config.after)
        if not mark and config.must_mark:
            return None
        text = tail  # all of it where there is no mark
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
