"""One rollout against an environment: sample a turn, run its tools, continue from the exact tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.agents.environments import Description, Environment, ToolError
from rlcore.agents.record import Record
from rlcore.agents.renderers import Renderer, messages_of
from rlcore.agents.tools import Call
from rlcore.data.sources.render import MESSAGES
from rlcore.types import Int32, Prompt, Trajectory

Ask = Callable[[Int32, int], Awaitable[Trajectory]]  # (context, most new tokens) -> one sampled turn after it


@dataclass
class Played:
    """A finished rollout."""

    record: Record
    finish_reason: str  # "stop"; "length": it reached a limit
    score: float | None = None  # of the environment
    calls: int = 0
    tool_errors: int = 0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Player:
    """Plays rollouts against one kind of environment.

    Args:
        columns: names under which `reset` gets prompt and reference, in addition to `prompt` and `reference`.
        max_tokens: of a context, prompt included.
        max_new_tokens: of one turn.
    """

    description: Description
    renderer: Renderer
    max_turns: int
    max_tokens: int
    max_new_tokens: int
    columns: Mapping[str, str] = field(default_factory=dict)

    async def play(self, prompt: Prompt, environment: Environment, ask: Ask) -> Played:
        """Raises EnvironmentFailure, and what `ask` raises."""
        played = Played(Record(), "length")
        record = played.record
        more = await environment.reset(self.row(prompt))
        ids, conversation = self.renderer.opening(prompt, more)
        record.begin(ids)
        if more is not None:
            record.turn("environment", more)
        for _ in range(self.max_turns):
            context = record.tokens
            room = min(self.max_new_tokens, self.max_tokens - context.size)
            if room <= 0:
                break
            turn = await self._sample(context, room, ask, record)
            text, calls = self.renderer.parse(turn)
            record.turn("assistant", text)
            if record.cut:
                break
            results = await self._results(environment, text, calls, played)
            if not results:
                played.finish_reason = "stop"
                break
            follows = self.renderer.following(conversation, turn, results)
            (record.begin if follows.breaks else record.given)(follows.ids)
        if self.description.get_reward:
            played.score = await environment.reward()
        if environment.printed:
            played.info["printed"] = environment.printed
        return played

    async def _sample(self, context: Int32, room: int, ask: Ask, record: Record) -> Sequence[int]:
        sampled = await ask(context, room)
        start = sampled.num_prompt_tokens
        record.sampled(sampled.tokens[start:], sampled.rollout_logprobs[start:], sampled.versions[start:])
        record.cut, record.engine = sampled.finish_reason == "length", sampled.engine
        if record.begun_version < 0:
            record.begun_version = sampled.begun_version
        return list(map(int, sampled.tokens[start:]))

    async def _results(
        self, environment: Environment, text: str, calls: Sequence[Call], played: Played
    ) -> list[tuple[str, str]]:
        """Names and results of the turn's calls; empty: the rollout ends."""
        if self.description.reply:
            answer = await environment.reply(text)
            if answer is not None:
                played.record.turn("environment", answer)
            return [] if answer is None else [("", answer)]
        results = []
        for call in calls:
            played.calls += 1
            try:
                if call.error:
                    raise ToolError(call.error)
                result = await environment.call(call.name, call.arguments)
            except ToolError as error:
                played.tool_errors += 1
                result = f"error: {error}"
            played.record.turn("tool", result, name=call.name)
            results.append((call.name, result))
        return results

    def row(self, prompt: Prompt) -> dict[str, Any]:
        """The arguments of `reset`: prompt, reference and all other columns of the row."""
        asked = messages_of(prompt)
        own = {"prompt": asked if MESSAGES in prompt.metadata else prompt.text, "reference": prompt.reference}
        named = {column: own[kind] for kind, column in self.columns.items() if column}
        return {**{k: v for k, v in prompt.metadata.items() if k != MESSAGES}, **named, **own}
