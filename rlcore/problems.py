"""User errors: records of invalid settings, bounds of settings, and name suggestions."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from rlcore.redact import MASK, is_secret_name, strip_text

BOUNDS = "bounds"  # key of a field's metadata


class UserError(Exception):
    """Base class of every error that the user can fix. Commands print its message without a traceback."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting.

    >>> print(Problem("trainer.steps", -1, "out of range", "must be 0 or more"))
      trainer.steps = -1
          out of range; must be 0 or more
    """

    key: str  # config key, for example "rounds.stages.sft.data"
    value: Any
    text: str  # the error
    cure: str  # the cure
    warning: bool = False  # true: it works, but probably not as intended

    def render(self) -> str:
        shown = self.value.value if isinstance(self.value, Enum) else self.value
        shown = MASK if is_secret_name(self.key.rpartition(".")[2]) else strip_text(str(shown))
        return f"  {self.key} = {shown}\n      {self.text}; {self.cure}"

    __str__ = render


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a number. Without an upper bound it must be finite; `le=math.inf` allows infinity."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def allow(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value) and value != self.le:
            return False
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        """
        >>> print(Bounds(ge=1), Bounds(gt=0), Bounds(ge=0, le=1), Bounds(gt=0, le=1), sep=" | ")
        1 or more | above 0 | from 0 to 1 | above 0, at most 1
        """
        high = "" if self.le in (None, math.inf) else f"at most {self.le:g}"
        if self.ge is not None:
            return f"from {self.ge:g} to {self.le:g}" if high else f"{self.ge:g} or more"
        return ", ".join(part for part in ("" if self.gt is None else f"above {self.gt:g}", high) if part)


def bounded(
    default: Any = MISSING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    default_factory: Any = MISSING,
) -> Any:
    """A dataclass field for a number, or a list of numbers, within bounds. None always passes and means "not set".

    `steps: int = bounded(100, ge=0)  # of the run`
    """
    metadata = {BOUNDS: Bounds(ge, gt, le)}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def setting_problems(settings: Any, path: str = "") -> Iterator[Problem]:
    """All numbers of a nested dataclass that are outside of their bounds or NaN, and the problems from the methods
    `problems(key)` of the dataclasses in it.

    Args:
        settings: an instance of a dataclass; nested ones, also in lists, are walked.
        path: key of `settings` in the config, "" for the root.
    """
    for f in fields(settings):
        value, key = getattr(settings, f.name), f"{path}.{f.name}" if path else f.name
        bounds = f.metadata.get(BOUNDS)
        items = [(key, value)]
        if isinstance(value, list):
            items = [(f"{key}.{i}", item) for i, item in enumerate(value)]
        elif isinstance(value, dict) and bounds is not None:
            items = [(f"{key}.{name}", item) for name, item in value.items()]
        for name, item in items:
            if is_dataclass(item):
                yield from setting_problems(item, name)
            elif not isinstance(item, int | float) or isinstance(item, bool):
                continue
            elif bounds is not None and not bounds.allow(item):
                yield Problem(name, item, "out of range", f"must be {str(bounds) or 'a finite number'}")
            elif isinstance(item, float) and math.isnan(item):
                yield Problem(name, item, "not a number", "give a number")
    if hasattr(settings, "problems"):
        yield from settings.problems(path)


def check_settings(settings: Any, path: str) -> None:
    """
    Raises:
        ValueError: with all problems of `setting_problems`.
    """
    if found := list(setting_problems(settings, path)):
        raise ValueError("; ".join(f"{p.key}={p.value}: {p.text}, {p.cure}" for p in found))


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "error"), plural(1200, "step")
    ('1 error', '1,200 steps')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def nearest(name: str, known: Iterable[str], also: Iterable[str] = (), cutoff: float = 0.6) -> str:
    """The most similar name in `known`, otherwise the first known synonym in `also`.

    >>> nearest("Promt", ["prompt", "answer"]), nearest("question", ["prompt", "answer"], also=["prompt"])
    ('prompt', 'prompt')

    Returns:
        "" if none is similar.
    """
    lower = {n.lower(): n for n in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    found = near or [n for n in also if n in lower]
    return lower[found[0]] if found else ""


def choices(name: str, known: Iterable[str]) -> str:
    """A cure for a name that is none of `known`.

    >>> choices("Promt", ["prompt", "answer"]), choices("x", ["prompt", "answer"])
    ('did you mean prompt? expected one of: prompt, answer', 'expected one of: prompt, answer')
    """
    names = list(known)
    near = nearest(name, names)
    return f"{f'did you mean {near}? ' if near else ''}expected one of: {', '.join(names) or 'none'}"


def suggest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` or nothing."""
    near = nearest(name, known)
    return f" (did you mean {near!r}?)" if near else ""
