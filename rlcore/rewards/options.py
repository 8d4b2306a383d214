"""Checks options of rewards before they run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from rlcore.problems import Problem, choices
from rlcore.rewards import registry
from rlcore.rewards.config import MathAnswer

CHOICES = {("math", "answer"): [place.value for place in MathAnswer]}


def option_problems(name: str, options: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Unknown options and values of a registered reward. `key`: of its options in the config."""
    _, *parameters = inspect.signature(registry.get(name)).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):
        for option in options:
            if option not in known:
                yield Problem(f"{key}.{option}", options[option], "unknown option", choices(option, known))
    for (reward, option), allowed in CHOICES.items():
        value = getattr(options.get(option), "value", options.get(option, allowed[0]))
        if reward == name and value not in allowed:
            yield Problem(f"{key}.{option}", value, "unknown value", choices(str(value), allowed))
