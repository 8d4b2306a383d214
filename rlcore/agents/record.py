"""The exact tokens of a rollout, as trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlcore.types import Float32, Int32, Prompt, RewardResult, Trajectory


@dataclass
class Context:
    """One context that the model has seen: the tokens it began with, and pieces (tokens, log-probs, versions) that were
    sampled, or given: without log-probs and versions.
    """

    begin: Int32
    pieces: list[tuple[Int32, Float32 | None, Int32 | None]] = field(default_factory=list)

    @property
    def tokens(self) -> Int32:
        return np.concatenate([self.begin, *(tokens for tokens, _, _ in self.pieces)])


@dataclass
class Record:
    """What was sampled in a rollout, and in which context.

    >>> record = Record(); record.begin([5, 6])
    >>> record.sampled(np.array([7], np.int32), np.array([-0.5], np.float32), np.array([3], np.int32))
    >>> record.given([8, 9]); record.tokens.tolist()
    [5, 6, 7, 8, 9]
    """

    contexts: list[Context] = field(default_factory=list)
    turns: list[Mapping[str, Any]] = field(default_factory=list)  # {"role", "text"}, and "name" of a tool
    engine: int = -1  # of the last turn
    begun_version: int = -1  # of the first turn
    cut: bool = False  # the last turn ended at its length limit

    def begin(self, ids: Sequence[int]) -> None:
        """A new context: the first one, or one that does not extend the last."""
        self.contexts.append(Context(np.asarray(ids, dtype=np.int32)))

    def sampled(self, tokens: Int32, logprobs: Float32, versions: Int32) -> None:
        self.contexts[-1].pieces.append((tokens, logprobs, versions))

    def given(self, ids: Sequence[int]) -> None:
        """Tokens that the model has not sampled: results of tools, and what a template puts around them."""
        self.contexts[-1].pieces.append((np.asarray(ids, dtype=np.int32), None, None))

    def turn(self, role: str, text: str, **more: Any) -> None:
        self.turns.append({"role": role, "text": text, **more})

    @property
    def tokens(self) -> Int32:
        """The context of the next turn."""
        return self.contexts[-1].tokens

    @property
    def breaks(self) -> int:
        return max(0, len(self.contexts) - 1)

    def trajectories(
        self, prompt: Prompt, rollout_id: str, finish_reason: str, reward: RewardResult | None = None,
        masked: bool = False,
    ) -> list[Trajectory]:
        """One for each context, in order; the last one has the turns of the rollout. Tokens after the last sampled one
        are left out.
        """
        text = next((str(t["text"]) for t in reversed(self.turns) if t["role"] == "assistant"), "")
        found = []
        for index, context in enumerate(self.contexts):
            trajectory = _trajectory(context, prompt.uid, rollout_id, index)
            trajectory.text, trajectory.finish_reason, trajectory.reward = text, finish_reason, reward
            trajectory.engine, trajectory.begun_version, trajectory.masked = self.engine, self.begun_version, masked
            found.append(trajectory)
        found[-1].turns = tuple(self.turns)
        return found


def _trajectory(context: Context, uid: str, rollout_id: str, index: int) -> Trajectory:
    pieces = context.pieces
    while pieces and pieces[-1][1] is None:
        pieces = pieces[:-1]
    tokens = np.concatenate([context.begin, *(p[0] for p in pieces)])
    mask, logprobs = np.zeros(tokens.size, dtype=np.bool_), np.zeros(tokens.size, dtype=np.float32)
    versions, end = np.full(tokens.size, -1, dtype=np.int32), context.begin.size
    for ids, found, made_by in pieces:
        here, end = slice(end, end + ids.size), end + ids.size
        if found is not None and made_by is not None:
            mask[here], logprobs[here], versions[here] = True, found, made_by
    return Trajectory(
        uid=uid,
        sample_id=rollout_id if index == 0 else f"{rollout_id}.{index}",
        tokens=tokens,
        loss_mask=mask,
        rollout_logprobs=logprobs,
        versions=versions,
        num_prompt_tokens=context.begin.size,
        finish_reason="stop",
        text="",
        rollout_id=rollout_id,
    )
