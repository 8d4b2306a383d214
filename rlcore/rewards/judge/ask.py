"""Asks a judge, and repeats with a reminder if an answer has no verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlcore.rewards.judge.config import JudgeConfig, JudgeReading
from rlcore.rewards.judge.parse import Read, read_choice
from rlcore.rewards.judge.prompts import Completer, Messages, Reply, remind
from rlcore.types import Status


def ask(
    completer: Completer,
    asked: Sequence[Messages],
    config: JudgeConfig,
    mode: str,
    read: Callable[[Reply], Read],
    choices: Sequence[str],
    values: Sequence[float],
) -> list[Read]:
    """The parsed answers, in the order of `asked`; an invalid answer gives a status and never raises.

    Args:
        mode: "pointwise" or "pairwise".
        read: parses a text answer.
        choices, values: one-token labels and their values, for the reading `choice`.
    """
    if config.reading.how is JudgeReading.choice:
        return [read_choice(r, values) for r in completer.complete(asked, 1, 0.0, choices)] if asked else []
    reads: list[Read | None] = [None] * len(asked)
    open_rows, talks = list(range(len(asked))), list(asked)
    for attempt in range(config.reading.reminders + 1):
        if not open_rows:
            break
        replies = completer.complete([talks[i] for i in open_rows], config.max_new_tokens, config.temperature)
        for i, reply in zip(open_rows, replies, strict=True):
            got = reads[i] = read(reply)
            if got.status is Status.UNPARSABLE and attempt < config.reading.reminders:
                talks[i] = remind(talks[i], reply.text, mode, config)
        open_rows = [i for i in open_rows if (r := reads[i]) is not None and r.status is Status.UNPARSABLE]
    return [r for r in reads if r is not None]


def limit_s(completer: Completer, config: JudgeConfig, num_questions: int) -> float:
    """Time limit of `ask`, in seconds."""
    rounds = 1 if config.reading.how is JudgeReading.choice else config.reading.reminders + 1
    return rounds * completer.limit_s(num_questions)
