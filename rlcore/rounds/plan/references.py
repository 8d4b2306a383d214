"""How a stage names what it reads: `best`, `dpo@previous`, `dpo@latest`, `best@all`, `dpo@2`, `dpo@previous|sft`.

The grammar, spaces around `|` and `@` allowed:

    reference   = alternative ("|" alternative)*
    alternative = name ["@" ("previous" | "latest" | "all" | round)]
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

# A name becomes part of a folder's name and of a reference, so it holds none of the characters either reads.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*")
MAX_NAME = 48  # characters; what is added to it must fit into a file name of 255 bytes anywhere


class ReferenceFault(ValueError):
    """A text that is no reference; says why, and what would be one. `cure` alone is what to do."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(f"{text}: {cure}")
        self.text, self.cure = text, cure


class When(str, enum.Enum):
    """Which run of the stage is meant, seen from the round that reads it."""

    same = "same"  # of this round
    previous = "previous"  # newest of an earlier round
    latest = "latest"  # newest so far
    all = "all"  # every one so far
    numbered = "numbered"  # of the round named


@dataclass(frozen=True, slots=True)
class Alternative:
    name: str
    when: When = When.same
    round: int | None = None  # of `numbered`, counted from 1

    def __str__(self) -> str:
        suffix = {When.same: "", When.numbered: f"@{self.round}"}.get(self.when, f"@{self.when.value}")
        return self.name + suffix


@dataclass(frozen=True, slots=True)
class Reference:
    """The first of `alternatives` that exists is meant; never empty."""

    alternatives: tuple[Alternative, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.alternatives))

    @property
    def several(self) -> bool:
        """Whether it may lead to more than one artefact."""
        return any(a.when is When.all for a in self.alternatives)


def parse(text: str) -> Reference:
    """
    >>> str(parse("dpo@previous | start"))
    'dpo@previous|start'

    Raises:
        ReferenceFault: the text does not follow the grammar.
    """
    if not isinstance(text, str):
        raise ReferenceFault(f"a reference is a text, not {type(text).__name__}", "write the name of a stage")
    return Reference(tuple(_alternative(part.strip(), text) for part in text.split("|")))


def name_fault(name: str) -> str | None:
    """Why `name` cannot name a stage, a model or a source; None where it can."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return "a name is letters, digits, _ and single -, and begins with a letter: it becomes part of a folder's name"
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters: it becomes part of a folder's name"
    return None


def _alternative(part: str, whole: str) -> Alternative:
    name, at, when = (piece.strip() for piece in part.partition("@"))
    if not name:
        raise ReferenceFault(f"{whole!r} names nothing" + (f" before {part!r}" if part else ""), "write a stage's name")
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
