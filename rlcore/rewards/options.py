"""Checks options of rewards before they run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from rlcore.problems import suggest
from rlcore.rewards import registry
from rlcore.rewards.config import MathAnswer

CHOICES = {("math", "answer"): [place.value for place in MathAnswer]}


def wrong(name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(option, error, cure) for the options of a registered reward.

    >>> list(wrong("math", {"answer": "boxd"}))
    [('answer', "unknown value (did you mean 'boxed'?)", 'one of: boxed, tagged, hashes, whole, free')]
    """
    _, *parameters = inspect.signature(registry.get(name)).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):
        for key in options:
            if key not in known:
                cure = f"one of: {', '.join(known)}" if known else "this reward has no options"
                yield key, f"unknown option{suggest(key, known)}", cure
    for (reward, key), choices in CHOICES.items():
        value = getattr(options.get(key), "value", options.get(key, choices[0]))
        if reward == name and value not in choices:
            yield key, f"unknown value{suggest(str(value), choices)}", f"one of: {', '.join(choices)}"
