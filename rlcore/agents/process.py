"""The process of an environment: an instance of the user's class, driven by requests. Forked by `rlcore.processes`.

Requests are pickles, answers JSON: {"value": ...} or {"raised": text}, and "printed": the end of what was printed.
Whatever the user's code does to its process is seen by the other side as a silence or as its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from rlcore.agents import ENVIRONMENTS
from rlcore.agents.builtin import MODULES
from rlcore.agents.client import Model, Task
from rlcore.agents.tools import schemas, tool_names
from rlcore.processes.child import read_frame, send_frame
from rlcore.registry import describe, load_file
from rlcore.rewards.child import encode
from rlcore.types import RewardResult

SHOWN_OUTPUT = 2000  # characters of what an environment prints, from the end
ENV_LIST = "RLCORE_ENVIRONMENT_ENV"  # comma-separated names of additional variables for environments


def serve(sock: socket.socket, options: Mapping[str, Any]) -> None:
    """Entry point of a process; see `rlcore.processes.child`."""
    Host(sock, options["fn"], options["files"], options["options"], options["max_result_chars"]).run()


@dataclass
class Host:
    sock: socket.socket
    fn: str
    files: list[str]
    options: Mapping[str, Any]  # of the class
    max_chars: int
    _instance: Any = None
    _tools: list[str] = field(default_factory=list)

    def run(self) -> None:
        pid, output = os.getpid(), os.memfd_create("output")
        os.dup2(output, 1)
        os.dup2(output, 2)
        while (frame := read_frame(self.sock)) is not None:
            operation, arguments = pickle.loads(frame)
            try:
                answer: dict[str, Any] = {"value": getattr(self, f"do_{operation}")(**arguments)}
            except Exception as error:
                answer = {"raised": describe(error)}
            if os.getpid() != pid:  # the user's code has forked, and its child returned
                os._exit(0)
            send_frame(self.sock, json.dumps(answer | {"printed": _printed(output)}).encode())
        with contextlib.suppress(Exception):
            if callable(close := getattr(self._instance, "close", None)):
                _finished(close())

    def do_describe(self) -> dict[str, Any]:
        """Name, schemas of the tools, and the optional methods that the class has; of a function only its name."""
        cls = self._loaded()
        if not isinstance(cls, type):
            function = getattr(cls, "__name__", self.fn)
            return {"name": function, "schemas": [], "reply": False, "get_reward": False, "is_rollout": True}
        have = {name: callable(getattr(cls, name, None)) for name in ("reply", "get_reward")}
        found = _finished(self._made().list_tools()) if hasattr(cls, "list_tools") else schemas(cls)
        return {"name": cls.__name__, "schemas": found, "is_rollout": False} | have

    def do_reset(self, row: Mapping[str, Any]) -> str | None:
        instance = self._made()
        found = _finished(instance.reset(**_accepted(instance.reset, row)))
        return None if found is None else self._text(found)

    def do_call(self, name: str, arguments: Mapping[str, Any]) -> str:
        if hasattr(self._instance, "call_tool"):
            return self._text(_finished(self._instance.call_tool(name, arguments)))
        if name not in self._tools:
            raise ValueError(f"there is no tool {name!r}; the tools are {', '.join(self._tools)}")
        tool = getattr(self._instance, name)
        try:
            inspect.signature(tool).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
        return self._text(_finished(tool(**arguments)))

    def do_reply(self, text: str) -> str | None:
        found = _finished(self._instance.reply(text))
        return None if found is None else self._text(found)

    def do_reward(self) -> float:
        return _number(_finished(self._instance.get_reward()), "get_reward()")

    def do_rollout(self, row: Mapping[str, Any], base_url: str, api_key: str, timeout_s: float) -> Any:
        task = Task(row["prompt"], row["reference"], row)
        found = _finished(self._loaded()(task, Model(base_url, api_key, timeout_s)))
        if found is None or isinstance(found, RewardResult):
            return None if found is None else encode(found)
        return encode(RewardResult(_number(found, "the rollout function")))

    def _loaded(self) -> Any:
        """The class or function. Files that may register the name are imported first."""
        for file in self.files:
            load_file(file, "environment")
        if self.fn in MODULES:
            import_module(MODULES[self.fn])
        return ENVIRONMENTS.get(self.fn)

    def _made(self) -> Any:
        if self._instance is None:
            cls = self._loaded()
            self._tools, self._instance = tool_names(cls), cls(**self.options)
        return self._instance

    def _text(self, value: Any) -> str:
        text = value if isinstance(value, str) else _as_json(value)
        text = text.encode("utf-8", "replace").decode()
        if len(text) <= self.max_chars:
            return text
        return f"{text[: self.max_chars]}... ({len(text) - self.max_chars} more characters)"


def _accepted(reset: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a `reset` without ** takes; otherwise all."""
    parameters = inspect.signature(reset).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(row)
    return {name: value for name, value in row.items() if name in {p.name for p in parameters}}


def _number(value: Any, what: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} returned {number}")
    return number


def _as_json(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        with contextlib.suppress(TypeError, ValueError):
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _finished(value: Any) -> Any:
    """The result of a method of the user, which may be a coroutine; one event loop runs them all."""
    if not inspect.isawaitable(value):
        return value
    return _event_loop().run_until_complete(_awaited(value))


async def _awaited(value: Any) -> Any:
    return await value


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _printed(output: int) -> str:
    """What was printed since the last time, from its end; the file is emptied."""
    size = os.lseek(output, 0, os.SEEK_END)
    text = os.pread(output, SHOWN_OUTPUT, max(0, size - SHOWN_OUTPUT)).decode("utf-8", "replace")
    os.ftruncate(output, 0)
    os.lseek(output, 0, os.SEEK_SET)
    return text
