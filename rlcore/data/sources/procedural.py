"""Generates rows from procedural tasks of reasoning-gym, for training and held out.

The reward `procedural` scores the answers; it reads the metadata of the row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlcore.data.sources.config import ProceduralConfig, ProceduralTaskConfig
from rlcore.data.sources.readers import DataError, Place
from rlcore.data.sources.rows import Row
from rlcore.gym_tasks import TaskError, open_task

TRIES = 4  # maximum of entries generated per row, because tasks with few distinct questions repeat them


@dataclass
class Made:
    train: list[Row] = field(default_factory=list)
    eval: list[Row] = field(default_factory=list)
    num_copies: int = 0  # skipped questions that already occurred, on either side


def make(config: ProceduralConfig, num_eval: int, seed: int) -> Made:
    """Rows of every task. Both sides have separate seeds, and no question occurs twice.

    A task with too few distinct questions gives fewer rows; held-out rows are generated first.

    Args:
        num_eval: held-out rows in total, divided evenly among the tasks.
        seed: used if `config.seed` is None.

    Raises:
        DataError: no task, a missing package, an invalid name, level or option, a task that fails to generate an entry,
            or no rows to train on.
    """
    tasks = config.tasks
    if not tasks:
        raise DataError(
            "data.source=procedural needs tasks, for example data.procedural.tasks=[{name: leg_counting, size: 1000}]"
        )
    if num_eval < 0 or min(t.size for t in tasks) < 1:
        raise DataError(f"data.num_eval={num_eval} must not be negative, and the size of a task is at least 1")
    made, seen = Made(), set[str]()
    used = seed if config.seed is None else config.seed
    for number, task in enumerate(tasks):
        share = num_eval // len(tasks) + (number < num_eval % len(tasks))
        try:
            made.eval += _side(task, number, "eval", share, used, seen, made)
            train = _side(task, number, "train", task.size, used, seen, made)
        except TaskError as error:
            raise DataError(f"data.procedural.tasks.{number}: {error}") from error
        if not train:
            raise DataError(
                f"data.procedural.tasks.{number}: {task.name} has too few distinct questions: all are held out or "
                f"belong to another task; lower data.num_eval={num_eval} or change its options"
            )
        made.train += train
    return made


def _side(
    task: ProceduralTaskConfig, number: int, side: str, wanted: int, seed: int, seen: set[str], made: Made
) -> list[Row]:
    rows: list[Row] = []
    if not wanted:
        return rows
    # far apart for every task and side, because entry i depends on seed + i
    spread = np.random.default_rng([seed, number, zlib.crc32(task.name.encode()), side == "eval"])
    start = int(spread.integers(2**31 - 2**26))
    source = open_task(task.name, task.options, task.level, start, TRIES * wanted)
    for index, entry in _entries(source, task.name):
        question = str(entry["question"])
        if question in seen:
            made.num_copies += 1
            continue
        seen.add(question)
        answer = entry.get("answer")
        metadata = {"task": task.name, "options": dict(task.options), "level": task.level, "entry": dict(entry)}
        uid = f"{task.name}.{number}-{side}-{index}"
        rows.append(Row(Place(index), uid, question, None if answer is None else str(answer), (), metadata))
        if len(rows) == wanted:
            break
    return rows


def _entries(source: Any, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(len(source)):
        try:
            entry = source[index]
        except Exception as error:  # third-party code by 100 authors: single random entries may raise
            if index == 0:
                raise TaskError(f"the task {name} failed to make an entry: {type(error).__name__}: {error}") from error
            continue
        yield index, entry
