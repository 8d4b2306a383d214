"""One rollout against an environment: sample a turn, run its tools, continue from the exact tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlcore.agents.capture import CaptureServer, Session
from rlcore.agents.environments import Description, Environment, EnvironmentFailure, ToolError
from rlcore.agents.record import Ask, Record
from rlcore.agents.renderers import ChatRenderer, Message, Renderer, messages_of
from rlcore.agents.tools import Call
from rlcore.data.sources.render import MESSAGES
from rlcore.types import Prompt, RewardResult, Status


@dataclass
class Played:
    """A finished rollout."""

    record: Record
    finish_reason: str  # "stop"; "length": it reached a limit
    reward: RewardResult | None = None  # of the environment
    calls: int = 0
    tool_errors: int = 0


class Player(Protocol):
    """Plays rollouts. `start` and `close` are called in the event loop."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def play(self, prompt: Prompt, environment: Environment, ask: Ask, max_new_tokens: int) -> Played:
        """Plays one rollout. Raises EnvironmentFailure, and what `ask` raises.

        Args:
            max_new_tokens: of one turn.
        """
        ...


@dataclass(frozen=True)
class EnvironmentPlayer:
    """Plays rollouts against an environment class.

    Args:
        columns: names under which `reset` gets prompt and reference, in addition to `prompt` and `reference`.
        max_tokens: of a context, prompt included.
    """

    description: Description
    renderer: Renderer
    max_turns: int
    max_tokens: int
    columns: Mapping[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def play(self, prompt: Prompt, environment: Environment, ask: Ask, max_new_tokens: int) -> Played:
        """See `Player.play`."""
        played = Played(Record(), "length")
        record = played.record
        more = await environment.reset(row_of(prompt, self.columns))
        ids, conversation = self.renderer.opening(prompt, more)
        context = record.begin(ids)
        if more is not None:
            record.turn("environment", more)
        for _ in range(self.max_turns):
            room = min(max_new_tokens, self.max_tokens - context.tokens.size)
            if room <= 0:
                break
            turn = await record.sample(context, room, ask)
            text, calls = self.renderer.parse(turn)
            record.turn("assistant", text)
            if record.cut:
                break
            results = await self._results(environment, text, calls, played)
            if not results:
                played.finish_reason = "stop"
                break
            follows = self.renderer.following(conversation, turn, results)
            if follows.breaks:
                context = record.begin(follows.ids)
            else:
                context.given(follows.ids)
        if self.description.get_reward:
            score = await environment.reward()
            info = {"printed": environment.printed} if environment.printed else {}
            played.reward = RewardResult(score, parts={"environment": score}, info=info)
        return played

    async def _results(
        self, environment: Environment, text: str, calls: Sequence[Call], played: Played
    ) -> list[Message]:
        """What the environment says to the turn; empty: the rollout ends."""
        if self.description.reply:
            answer = await environment.reply(text)
            if answer is not None:
                played.record.turn("environment", answer)
            return [] if answer is None else [{"role": "user", "content": answer}]
        results: list[Message] = []
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
            results.append({"role": "tool", "name": call.name, "content": result})
        return results


@dataclass(frozen=True)
class AgentPlayer:
    """Plays rollouts of an agent's own loop, which calls the model at a captured address.

    Args:
        renderer: for the tools of a request.
        max_turns, max_tokens: limits of a session; the agent sees an error.
        columns: see `EnvironmentPlayer`.
    """

    renderer: Callable[[Sequence[Mapping[str, Any]]], ChatRenderer]
    max_turns: int
    max_tokens: int
    server: CaptureServer
    columns: Mapping[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        await self.server.start()

    async def close(self) -> None:
        await self.server.close()

    async def play(self, prompt: Prompt, environment: Environment, ask: Ask, max_new_tokens: int) -> Played:
        """See `Player.play`."""
        session = Session(self.renderer, ask, self.max_tokens, max_new_tokens, self.max_turns)
        try:
            async with self.server.session(session) as url:
                reward = await environment.rollout(row_of(prompt, self.columns), url, self.server.token)
        except EnvironmentFailure:
            if session.failure is not None:  # the function only passed on what the engines raised
                raise session.failure from None
            raise
        if not session.turns:
            raise EnvironmentFailure("the rollout function returned without a call of the model", Status.ERROR)
        over = "length" if session.overlong or session.record.cut else "stop"
        return Played(session.record, over, reward, session.calls)


def row_of(prompt: Prompt, columns: Mapping[str, str]) -> dict[str, Any]:
    """Prompt, reference and all other columns of a row."""
    asked = messages_of(prompt) if MESSAGES in prompt.metadata else prompt.text
    own = {"prompt": asked, "reference": prompt.reference}
    named = {column: own[kind] for kind, column in columns.items() if column}
    return {**{k: v for k, v in prompt.metadata.items() if k != MESSAGES}, **named, **own}
