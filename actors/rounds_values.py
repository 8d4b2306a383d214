"""Numbers among a stage's options that cannot be: told at launch, not hours later when the stage's turn comes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rlcore.problems import Problem
from rlcore.rounds.plan.config import GenerateConfig, StageConfig

INF = math.inf
# Option, wherever a stage has it -> lowest, highest, whether the lowest itself will do. None always will.
LIMITS: dict[str, tuple[float, float, bool]] = {
    "num_samples": (1, INF, True),
    "num_prompts": (1, INF, True),
    "max_prompts": (1, INF, True),
    "max_samples": (1, INF, True),
    "max_new_tokens": (1, INF, True),
    "enough": (1, INF, True),
    "temperature": (0, INF, True),
    "prompts_per_chunk": (1, INF, True),
    "samples_per_chunk": (1, INF, True),
    "checkpoint_every": (0, INF, True),
    "held_out": (0, 0.99, True),
    "beta": (0, INF, False),
    "label_smoothing": (0, 1, True),
    "sft_coef": (0, INF, True),
    "desirable_weight": (0, INF, True),
    "undesirable_weight": (0, INF, True),
    "train.epochs": (0, INF, False),
    "train.steps": (1, INF, True),
    "train.per_step": (1, INF, True),
    "train.checkpoint_every": (0, INF, True),
    "train.learning_rate.peak": (0, INF, False),
    "train.learning_rate.warmup_steps": (0, INF, True),
}


def number_problems(stage: StageConfig, key: str) -> Iterator[Problem]:
    """`key`: where the stage stands in the config."""
    for path, (low, high, reached) in LIMITS.items():
        value = option(stage, path)
        if value is None or (low <= value <= high and (reached or value > low)):
            continue
        words = f"{'at least' if reached else 'above'} {low:g}" + (f", at most {high:g}" if high < INF else "")
        yield Problem(f"{key}.{path}", value, f"it must be {words}", "give such a number")
    weights = getattr(stage, "weights", None)
    if weights and not (all(0 <= w < INF for w in weights) and sum(weights) > 0):
        cure = "give numbers from 0, one of them above 0"
        yield Problem(f"{key}.weights", list(weights), "they cannot be shares of anything", cure)
    if isinstance(stage, GenerateConfig) and stage.enough is not None and stage.max_samples < stage.num_samples:
        text = f"a prompt gets num_samples={stage.num_samples} at once"
        yield Problem(f"{key}.max_samples", stage.max_samples, text, "set it to as many or more")


def option(stage: Any, path: str) -> Any:
    """None where the stage has no such option."""
    for name in path.split("."):
        stage = getattr(stage, name, None)
    return stage
