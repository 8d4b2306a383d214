"""Tasks of reasoning-gym with several attempts; the rows are those of `data.source=procedural`."""

from __future__ import annotations

from typing import Any

from rlcore.agents import environment
from rlcore.rewards.procedural import procedural
from rlcore.types import RewardInput


@environment("reasoning_gym")
class ReasoningGym:
    """The model answers; after a wrong answer it may try again. The reward is the task's score of the last answer,
    times `discount` for each attempt before it.

    Args:
        attempts: answers in a rollout.
        discount: factor of each further attempt.
        again: what the model is told after a wrong answer; it may contain {left}, the number of attempts left.
    """

    def __init__(
        self, attempts: int = 3, discount: float = 0.8, again: str = "That is not right. Try again.\n"
    ) -> None:
        self._attempts, self._discount, self._again = attempts, discount, again

    def reset(self, **row: Any) -> None:
        self._row, self._used, self._score = row, 0, 0.0

    def reply(self, text: str) -> str | None:
        self._used += 1
        sample = RewardInput(str(self._row.get("prompt")), text, self._row.get("reference"), metadata=self._row)
        self._score = procedural(sample).score
        left = self._attempts - self._used
        return None if self._score >= 1 or left <= 0 else self._again.replace("{left}", str(left))

    def get_reward(self) -> float:
        return self._score * self._discount ** max(0, self._used - 1)
