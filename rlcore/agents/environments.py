"""Environments in processes of their own, many at once: each call has a deadline, after which its process is killed.

All coroutines run in one event loop; only the forks and kills are done by threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rlcore.agents.config import EnvironmentConfig
from rlcore.agents.process import ENV_LIST
from rlcore.agents.tools import InvalidEnvironment
from rlcore.processes.child import HEADER
from rlcore.processes.zygote import Zygote, ZygoteLost
from rlcore.types import RewardResult, Status

GRACE_S = 0.5  # from the end of a process's socket to the end of the process
CLOSE_S = 1.0  # for the `close` of environments
MAX_ANSWER = 64 << 20  # bytes


class EnvironmentFailure(Exception):
    """An environment did not do what it was asked: late, dead, or an error outside of a tool."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class ToolError(Exception):
    """A tool raised; the model is shown the message."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an environment class offers."""

    name: str
    schemas: Sequence[Mapping[str, Any]]
    reply: bool = False
    get_reward: bool = False
    is_rollout: bool = False  # a function with the agent's own loop


class Environment:
    """One process with an instance of the user's class, for one rollout at a time."""

    def __init__(self, config: EnvironmentConfig, zygote: Zygote, pid: int, sock: socket.socket, name: str) -> None:
        self._config, self._zygote, self._pid, self._sock, self._name = config, zygote, pid, sock, name
        sock.setblocking(False)
        self.printed = ""  # end of the output of the last call
        self.dead = False
        self.seconds = 0.0  # waited for it

    async def reset(self, row: Mapping[str, Any]) -> str | None:
        """The text of `reset(**row)`, or None.

        Raises:
            EnvironmentFailure: it raised, was late, or ended its process.
        """
        limit = self._config.reset_timeout_s
        found: str | None = await self._sure("reset", limit, "environment.reset_timeout_s", row=dict(row))
        return found

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result of a tool.

        Raises:
            ToolError: the tool raised, or there is no such tool.
            EnvironmentFailure: it was late, or ended its process.
        """
        return str(await self._step("call", what=name, name=name, arguments=dict(arguments)))

    async def reply(self, text: str) -> str | None:
        """The text after a turn; None: the rollout ends. Raises EnvironmentFailure."""
        limit = self._config.step_timeout_s
        found: str | None = await self._sure("reply", limit, "environment.step_timeout_s", text=text)
        return found

    async def reward(self) -> float:
        """Raises EnvironmentFailure."""
        return float(await self._sure("reward", self._config.step_timeout_s, "environment.step_timeout_s"))

    async def rollout(self, row: Mapping[str, Any], base_url: str, api_key: str) -> RewardResult | None:
        """Runs a rollout function; None: it leaves the reward to the config. Raises EnvironmentFailure."""
        limit = self._config.rollout_timeout_s
        arguments = {"row": dict(row), "base_url": base_url, "api_key": api_key, "timeout_s": limit}
        found = await self._sure("rollout", limit, "environment.rollout_timeout_s", **arguments)
        if found is None:
            return None
        return RewardResult(found["score"], Status(found["status"]), found["parts"], found["info"])

    async def describe(self) -> Description:
        try:
            found = await self._ask("describe", "describe", self._config.reset_timeout_s, "environment.reset_timeout_s")
        except ToolError as error:
            raise InvalidEnvironment(str(error)) from None
        return Description(**found)

    async def _step(self, operation: str, what: str, **arguments: Any) -> Any:
        limit = self._config.step_timeout_s
        return await self._ask(operation, what, limit, "environment.step_timeout_s", **arguments)

    async def _sure(self, operation: str, limit_s: float, key: str, **arguments: Any) -> Any:
        """A call that must not raise."""
        try:
            return await self._ask(operation, operation, limit_s, key, **arguments)
        except ToolError as error:
            await self.kill()  # its state is unknown
            raise EnvironmentFailure(f"{self._name}.{operation}: {error}", Status.ERROR) from None

    async def _ask(self, operation: str, what: str, limit_s: float, key: str, **arguments: Any) -> Any:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._exchange(pickle.dumps((operation, arguments)))
        except TimeoutError:
            await self.kill()
            text = f"{self._name}.{what}: no answer within {limit_s:g} s ({key}); its process was killed"
            raise EnvironmentFailure(text, Status.TIMEOUT) from None
        except (EOFError, OSError, ValueError) as error:
            cause = await self.kill(GRACE_S)
            text = f"{self._name}.{what}: its process {cause}" if isinstance(error, EOFError) else f"{what}: {error}"
            raise EnvironmentFailure(text, Status.ERROR) from None
        except BaseException:  # cancelled in the middle of an answer
            await self.kill()
            raise
        finally:
            self.seconds += time.monotonic() - begun
        self.printed = str(answer["printed"])
        if "raised" in answer:
            raise ToolError(str(answer["raised"]))
        return answer["value"]

    async def _exchange(self, request: bytes) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, HEADER.pack(len(request)) + request)
        (size,) = HEADER.unpack(await self._read(HEADER.size))
        if size > MAX_ANSWER:
            raise ValueError(f"an answer of {size} bytes; the limit is {MAX_ANSWER}")
        answer = json.loads(await self._read(size))
        if not isinstance(answer, dict) or "printed" not in answer:
            raise ValueError("an answer in another form: the environment wrote to the socket of its process")
        return answer

    async def _read(self, size: int) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        while len(data) < size:
            piece = await loop.sock_recv(self._sock, min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    async def kill(self, grace_s: float = 0.0) -> str:
        """Ends the process with all that it started, and returns how it ended."""
        self.dead = True
        self._sock.close()

        def reap() -> str:
            with contextlib.suppress(ZygoteLost):
                return self._zygote.reap(self._pid, grace_s)
            return "ended with its zygote"

        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, reap))


class EnvironmentPool:
    """Processes of an environment; at most `concurrency` at a time. Use from one event loop.

    Args:
        cwd: working directory of the processes, the base of relative paths; None: the caller's.

    The processes have only PATH, HOME, the locale and similar environment variables; list others that an environment
    needs in the variable RLCORE_ENVIRONMENT_ENV, separated by commas.
    """

    def __init__(self, config: EnvironmentConfig, cwd: str | None = None) -> None:
        self._config, self._cwd = config, cwd
        self._lock, self._zygote = threading.Lock(), self._start_zygote()
        self._free: list[Environment] = []
        self._slots = asyncio.Semaphore(config.concurrency)
        self._closed = False

    @asynccontextmanager
    async def environment(self) -> AsyncIterator[Environment]:
        """A process for one rollout, once one is free. It is used again if nothing went wrong.

        Raises:
            EnvironmentFailure: no process can be started.
        """
        async with self._slots:
            env = self._free.pop() if self._free else await asyncio.to_thread(self._fork)
            env.seconds = 0.0
            try:
                yield env
            except BaseException:
                if not env.dead:
                    await env.kill()
                raise
            if self._closed and not env.dead:
                await env.kill()
            elif not env.dead:
                self._free.append(env)

    def _fork(self) -> Environment:
        for attempt in range(2):
            zygote = self._zygote
            try:
                pid, sock = zygote.fork()
                return Environment(self._config, zygote, pid, sock, _name(self._config.fn or ""))
            except ZygoteLost as error:
                if attempt or self._closed:
                    text = f"processes of the environment cannot be started: {error}; see the log"
                    raise EnvironmentFailure(text, Status.ERROR) from error
                with self._lock:
                    if self._zygote is zygote:  # otherwise another thread has replaced it
                        zygote.close()
                        self._zygote = self._start_zygote()
        raise AssertionError("unreachable")

    def _start_zygote(self) -> Zygote:
        config, limit = self._config, self._config.memory_limit_mb
        options = {
            "fn": config.fn, "files": list(config.files), "options": dict(config.options),
            "max_result_chars": config.max_result_chars,
        }  # fmt: skip
        serve = "rlcore.agents.process:serve"
        return Zygote("environment", serve, options, limit, self._cwd, ENV_LIST, config.python)

    async def close(self) -> None:
        """Lets idle environments close, then ends all processes. Safe to call twice."""
        self._closed = True
        idle, self._free = self._free, []
        for env in idle:
            env._sock.shutdown(socket.SHUT_WR)  # it reads the end, and calls the environment's `close`
        if idle:
            await asyncio.gather(*(env.kill(CLOSE_S) for env in idle), return_exceptions=True)
        await asyncio.to_thread(self._zygote.close)


def _name(fn: str) -> str:
    """The class in `path/to/file.py:Class`, or the registered name."""
    return fn.rpartition(":")[2]
