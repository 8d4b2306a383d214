"""Opens tasks of reasoning-gym by name, for the data source and the verifier.

Source: Stojanovski et al. 2025, "Reasoning Gym", arXiv 2505.24760.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlcore.problems import UserError, suggest
from rlcore.registry import describe

HINT = "pip install 'rlcore[procedural]'"


class TaskError(UserError, ValueError):
    """A task that cannot be opened: the package is missing, or its name, level or options are wrong."""


def open_task(name: str, options: Mapping[str, Any], level: int | None, seed: int = 0, size: int = 1) -> Any:
    """Opens a data set of the package: `[i]` gives the i-th entry, `score_answer(answer, entry)` a score.

    Args:
        name: as in the package: `leg_counting`.
        options: fields of the task's config; they override the level.
        level: of the task's curriculum, from 0; every attribute takes its value at that level, or at its highest.
        seed: the i-th entry depends only on `seed + i`, so nearby seeds share entries.
        size: number of entries.

    Raises:
        TaskError: see its docstring; the message lists valid names.
    """
    factory = _factory()
    task_class(name)
    _, config_class = factory.DATASETS[name]
    fields = [f.name for f in dataclasses.fields(config_class) if f.name not in ("seed", "size")]
    if unknown := [key for key in options if key not in fields]:
        hint = suggest(unknown[0], fields)
        raise TaskError(f"the task {name} has no option {unknown[0]!r}{hint}; it has: {', '.join(fields) or 'none'}")
    given: dict[str, Any] = dict(options)
    if level is not None:
        given = _at_level(factory, name, level) | given
    try:
        return factory.create_dataset(name, **given, seed=seed, size=size)
    except Exception as error:  # the package checks with assert, and some tasks compute with invalid options
        raise TaskError(f"the task {name} refuses its options {given}: {describe(error)}") from error


def task_class(name: str) -> type:
    """The class of a task's data sets.

    Raises:
        TaskError: the package is missing, or no such task.
    """
    factory = _factory()
    if name not in factory.DATASETS or name == "composite":
        known = ", ".join(sorted(set(factory.DATASETS) - {"composite"}))
        raise TaskError(f"reasoning-gym has no task {name!r}{suggest(name, factory.DATASETS)}; it has: {known}")
    return factory.DATASETS[name][0]  # type: ignore[no-any-return]


def _at_level(factory: Any, name: str, level: int) -> dict[str, Any]:
    """Fields that differ from their defaults at this level."""
    if name not in factory.CURRICULA:
        raise TaskError(f"the task {name} has no levels; set its options")
    if level < 0:
        raise TaskError(f"the task {name}: level={level} is negative")
    curriculum, config_class = factory.create_curriculum(name), factory.DATASETS[name][1]
    curriculum.set_global_level(level)
    made, plain = curriculum.generate_configuration({"seed": 0, "size": 1}), config_class()
    names = [f.name for f in dataclasses.fields(config_class) if f.name not in ("seed", "size")]
    return {n: value for n in names if (value := getattr(made, n)) != getattr(plain, n)}


def _factory() -> Any:
    try:
        from reasoning_gym import factory  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        missing = "" if error.name in (None, "reasoning_gym") else f" (it misses {error.name})"
        raise TaskError(f"procedural tasks need the package reasoning-gym{missing}: {HINT}") from error
    return factory
