"""A rollout engine whose samples are rollouts of several turns, played against environments.

Each rollout is a coroutine of one event loop: it waits for the engines or for its environment, and none waits for
another. Turns of all rollouts share the engines' queue, so an engine never waits for a tool.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from rlcore import metrics as M
from rlcore.agents.config import EnvironmentConfig, Overlong
from rlcore.agents.environments import Environment, EnvironmentFailure, EnvironmentPool
from rlcore.agents.play import Played, Player
from rlcore.agents.record import Record
from rlcore.interfaces import RolloutAbandoned, Sampling
from rlcore.problems import UserError
from rlcore.types import Group, Int32, Prompt, RewardResult, Status, Trajectory

CLOSE_S = 10.0
T = TypeVar("T")


class OverlongRollout(UserError, RuntimeError):
    """A rollout reached a limit, with `environment.on_overlong=fail`."""


class TurnEngine(Protocol):
    """The part of a rollout engine that plays turns."""

    def generating(self) -> AbstractContextManager[None]:
        """Engines are awake in this block."""
        ...

    def submit(self, prompt: Prompt, sampling: Sampling, engine: int = -1) -> Future[Group]:
        """Samples one prompt, preferably on the engine that has its beginning in its cache; cancelling the future drops
        the request.
        """
        ...

    def metrics(self) -> M.Metrics: ...


class AgentRollout:
    """`RolloutEngine` over a `TurnEngine` and environments.

    A rollout of which the environment fails is played again from its beginning, up to `config.retries` times; then it
    is a sample without a score, with the reason as its status.

    Args:
        pool: makes the environments, in the event loop.
    """

    def __init__(
        self,
        engine: TurnEngine,
        config: EnvironmentConfig,
        player: Player,
        pool: Callable[[], EnvironmentPool],
    ) -> None:
        self._engine, self._config, self._player = engine, config, player
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="agents")
        self._thread.start()
        self._calls: set[Future[Any]] = set()
        self._lock, self._seen = threading.Lock(), list[M.Metrics]()
        self._pool = self._run(self._made(pool))
        self._run(player.start())

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        arrived: queue.Queue[Group] = queue.Queue()
        with self._engine.generating():
            call = asyncio.run_coroutine_threadsafe(self._groups(prompts, sampling, arrived.put), self._loop)
            with self._lock:
                self._calls.add(call)
            try:
                for _ in prompts:
                    yield self._next(arrived, call)
            finally:
                call.cancel()
                with self._lock:
                    self._calls.discard(call)

    def abandon(self) -> None:
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def metrics(self) -> M.Metrics:
        """Those of the engines, and `agent/...` of the rollouts that ended since the last call: means of `turns`,
        `calls`, `model_s` and `environment_s` (seconds waited for either), shares `tool_errors` (of calls) and
        `overlong`, and the counts `breaks`, `retries` and `failed`.
        """
        with self._lock:
            seen, self._seen = self._seen, []
        return M.merge([self._engine.metrics(), *seen])

    def close(self) -> None:
        """Ends all rollouts and processes."""
        if not self._thread.is_alive():
            return
        self.abandon()
        try:
            self._run(self._player.close(), CLOSE_S)
            self._run(self._pool.close(), CLOSE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)

    def _run(self, coroutine: Any, timeout_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _next(self, arrived: queue.Queue[Group], call: Future[None]) -> Group:
        while True:
            try:
                return arrived.get(timeout=0.5)  # short, so that signals are handled
            except queue.Empty:
                if call.cancelled():
                    raise RolloutAbandoned("gen: a call of rollouts was abandoned") from None
                if call.done():
                    call.result()

    # ---- the event loop

    async def _made(self, pool: Callable[[], EnvironmentPool]) -> EnvironmentPool:
        return pool()

    async def _groups(self, prompts: Sequence[Prompt], sampling: Sampling, put: Callable[[Group], None]) -> None:
        await _all(self._group(prompt, sampling, put) for prompt in prompts)

    async def _group(self, prompt: Prompt, sampling: Sampling, put: Callable[[Group], None]) -> None:
        found = await _all(self._rollout(prompt, sampling, k) for k in range(sampling.num_samples))
        put(Group(prompt, [trajectory for rollout in found for trajectory in rollout]))

    async def _rollout(self, prompt: Prompt, sampling: Sampling, k: int) -> list[Trajectory]:
        rollout_id = f"{prompt.uid}#{sampling.step}.{k}"
        turn = _Turns(self._engine, prompt, dataclasses.replace(sampling, num_samples=1, seed=None))
        for attempt in range(self._config.retries + 1):
            try:
                async with self._pool.environment() as environment:
                    played = await self._player.play(prompt, environment, turn.sample, sampling.max_new_tokens)
                    break
            except EnvironmentFailure as error:
                failure = error
                self._note({"agent/retries": M.Sum(float(attempt < self._config.retries))})
        else:
            self._note({"agent/failed": M.Sum(1.0)})
            return _failed(prompt, rollout_id, failure)
        return self._finished(prompt, rollout_id, played, turn, environment)

    def _finished(
        self, prompt: Prompt, rollout_id: str, played: Played, turn: _Turns, environment: Environment
    ) -> list[Trajectory]:
        record, overlong = played.record, played.finish_reason == "length"
        sampled = sum(t["role"] == "assistant" for t in record.turns)
        self._note(
            {
                "agent/turns": M.Mean(float(sampled), 1),
                "agent/calls": M.Mean(float(played.calls), 1),
                "agent/tool_errors": M.Mean(float(played.tool_errors), played.calls),
                "agent/breaks": M.Sum(float(record.breaks)),
                "agent/overlong": M.Mean(float(overlong), 1),
                "agent/model_s": M.Mean(turn.seconds, 1),
                "agent/environment_s": M.Mean(environment.seconds, 1),
            }
        )
        if overlong and self._config.on_overlong is Overlong.fail:
            raise OverlongRollout(
                f"rollout {rollout_id} ended after {sampled} turns and {record.num_tokens} tokens without an answer "
                "(environment.on_overlong=fail): raise environment.max_turns, environment.max_tokens or "
                "rollout.max_new_tokens, or set on_overlong to mask or keep"
            )
        masked = overlong and self._config.on_overlong is Overlong.mask
        return record.trajectories(prompt, rollout_id, played.finish_reason, played.reward, masked)

    def _note(self, metrics: M.Metrics) -> None:
        with self._lock:
            self._seen.append(metrics)


class _Turns:
    """Samples the turns of one rollout."""

    def __init__(self, engine: TurnEngine, prompt: Prompt, sampling: Sampling) -> None:
        self._engine, self._prompt, self._sampling = engine, prompt, sampling
        self.seconds, self._last = 0.0, -1  # waited for the engines; rank of the last one

    async def sample(self, context: Int32, most: int) -> Trajectory:
        begun = time.monotonic()
        prompt = Prompt(self._prompt.uid, tuple(context.tolist()), "")
        future = self._engine.submit(prompt, dataclasses.replace(self._sampling, max_new_tokens=most), self._last)
        (found,) = (await asyncio.wrap_future(future)).trajectories
        self.seconds += time.monotonic() - begun
        self._last = found.engine
        return found


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results; if one raises, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _failed(prompt: Prompt, rollout_id: str, failure: EnvironmentFailure) -> list[Trajectory]:
    """A rollout without a score, and without tokens to train on."""
    record = Record()
    record.begin(prompt.token_ids)
    status = Status.TIMEOUT if failure.status is Status.TIMEOUT else Status.ERROR
    return record.trajectories(prompt, rollout_id, "stop", RewardResult(0.0, status, info={"error": str(failure)}))
