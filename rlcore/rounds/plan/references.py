"""References to the inputs of a stage: `best`, `dpo@previous`, `dpo@latest`, `best@all`, `dpo@2`, `dpo@previous|sft`.

The grammar, spaces around `|` and `@` allowed:

    reference   = alternative ("|" alternative)*
    alternative = name ["@" ("previous" | "latest" | "all" | round)]
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

# A name is part of folder names and references, so it contains no special characters of either.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*")
MAX_NAME = 48  # characters; leaves room for suffixes in a file name of 255 bytes


class ReferenceFault(ValueError):
    """An invalid reference, with the reason and a fix. `cure` is the fix alone."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(f"{text}: {cure}")
        self.text, self.cure = text, cure


class When(str, enum.Enum):
    """The run that a reference selects, relative to the reading round."""

    same = "same"  # the run of this round
    previous = "previous"  # the latest run of an earlier round
    latest = "latest"  # the latest run so far
    all = "all"  # all runs so far
    numbered = "numbered"  # the run of a given round


@dataclass(frozen=True, slots=True)
class Alternative:
    name: str
    when: When = When.same
    round: int | None = None  # round of `numbered`, from 1

    def __str__(self) -> str:
        suffix = {When.same: "", When.numbered: f"@{self.round}"}.get(self.when, f"@{self.when.value}")
        return self.name + suffix


@dataclass(frozen=True, slots=True)
class Reference:
    """Selects the first of `alternatives` that exists; never empty."""

    alternatives: tuple[Alternative, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.alternatives))

    @property
    def several(self) -> bool:
        """True if it can give more than one artefact."""
        return any(a.when is When.all for a in self.alternatives)


def parse(text: str) -> Reference:
    """
    >>> str(parse("dpo@previous | start"))
    'dpo@previous|start'

    Raises:
        ReferenceFault: the text does not follow the grammar.
    """
    if not isinstance(text, str):
        raise ReferenceFault(f"a reference must be text, not {type(text).__name__}", "write the name of a stage")
    return Reference(tuple(_alternative(part.strip(), text) for part in text.split("|")))


def name_fault(name: str) -> str | None:
    """The reason why `name` cannot name a stage, model or source; None if it can."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return "a name has letters, digits, _ and single -, and begins with a letter: it is part of a folder name"
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters: it becomes part of a folder's name"
    return None


def _alternative(part: str, whole: str) -> Alternative:
    name, at, when = (piece.strip() for piece in part.partition("@"))
    if not name:
        raise ReferenceFault(f"{whole!r} names nothing" + (f" before {part!r}" if part else ""), "write a stage name")
    if fault := name_fault(name):
        raise ReferenceFault(f"{name!r} is no name", fault)
    if not at:
        return Alternative(name)
    if when in (When.previous.value, When.latest.value, When.all.value):
        return Alternative(name, When(when))
    if re.fullmatch(r"0*[1-9][0-9]{0,8}", when):
        return Alternative(name, When.numbered, int(when))
    raise ReferenceFault(
        f"{part!r} asks for the run {when!r}",
        f"write {name}@previous, {name}@latest, {name}@all, or {name}@ with the number of a round, from 1",
    )
