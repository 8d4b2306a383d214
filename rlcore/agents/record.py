"""The exact tokens of a rollout, as trajectories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlcore.types import Float32, Int32, Prompt, RewardResult, Trajectory

Ask = Callable[[Int32, int], Awaitable[Trajectory]]  # (context, most new tokens) -> one sampled turn after it


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

    def sampled(self, tokens: Int32, logprobs: Float32, versions: Int32) -> None:
        self.pieces.append((tokens, logprobs, versions))

    def given(self, ids: Sequence[int]) -> None:
        """Tokens that the model has not sampled: results of tools, and what a template puts around them."""
        self.pieces.append((np.asarray(ids, dtype=np.int32), None, None))


@dataclass
class Record:
    """What was sampled in a rollout, and in which context.

    >>> record = Record(); context = record.begin([5, 6])
    >>> context.sampled(np.array([7], np.int32), np.array([-0.5], np.float32), np.array([3], np.int32))
    >>> context.given([8, 9]); context.tokens.tolist()
    [5, 6, 7, 8, 9]
    """

    contexts: list[Context] = field(default_factory=list)
    turns: list[Mapping[str, Any]] = field(default_factory=list)  # {"role", "text"}, and "name" of a tool
    engine: int = -1  # of the last turn
    begun_version: int = -1  # of the first turn
    cut: bool = False  # the last turn ended at its length limit

    def begin(self, ids: Sequence[int]) -> Context:
        """A new context: the first one, or one that does not extend an earlier one."""
        self.contexts.append(Context(np.asarray(ids, dtype=np.int32)))
        return self.contexts[-1]

    def turn(self, role: str, text: str, **more: Any) -> None:
        self.turns.append({"role": role, "text": text, **more})

    async def sample(self, context: Context, most: int, ask: Ask) -> list[int]:
        """Samples a turn of up to `most` tokens after a context, and records it."""
        sampled = await ask(context.tokens, most)
        start = sampled.num_prompt_tokens
        context.sampled(sampled.tokens[start:], sampled.rollout_logprobs[start:], sampled.versions[start:])
        self.cut, self.engine = sampled.finish_reason == "length", sampled.engine
        if self.begun_version < 0:
            self.begun_version = sampled.begun_version
        return list(map(int, sampled.tokens[start:]))

    @property
    def num_tokens(self) -> int:
        return max((context.tokens.size for context in self.contexts), default=0)

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
        found: list[Trajectory] = []
        seen = [c for c in self.contexts if any(logprobs is not None for _, logprobs, _ in c.pieces)]
        for index, context in enumerate(seen or self.contexts[:1]):
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
