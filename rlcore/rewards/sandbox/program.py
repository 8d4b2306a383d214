"""Runs in a confined, forked child: executes the program and answers calls to it.

This code shares a process with hostile code, so nothing it sends is trusted: a received value is a claim of the program
about its return value.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import contextlib
import operator
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from rlcore.rewards.sandbox import values

NAME = "solution.py"
MAX_ERROR = 2000
# imports that LeetCode and similar sites put before a `class Solution`
PREAMBLE = """
from typing import *
from collections import *
from itertools import *
from functools import *
from bisect import *
from heapq import *
from string import *
from operator import *
from math import *
import typing, collections, itertools, functools, bisect, heapq, string, operator, math, random, re
from math import pow as _pow
pow = __builtins__["pow"] if isinstance(__builtins__, dict) else __builtins__.pow
"""
CLASS_RECURSION = 20_000


def prepare() -> None:
    """Resets the forked zygote to the state of a fresh interpreter: streams, `exit`, `sys.argv`, environment."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "rlcore"]:
        del sys.modules[name]
    sys.stdin, sys.stdout = _stream(0, "r", "surrogateescape"), _stream(1, "w", "surrogateescape")
    sys.stderr = _stream(2, "w", "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    for name in ("exit", "quit"):  # python -S has none
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    sys.argv = [NAME]
    sys.set_int_max_str_digits(100_000)
    os.environ.clear()


def _stream(fd: int, mode: str, errors: str) -> Any:
    return open(fd, mode, encoding="utf-8", errors=errors, closefd=False)


def leave(code: int) -> None:
    """Exits like the interpreter, without cleanup of inherited state."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = code or 120
    finally:
        os._exit(code)


def run(source: str) -> None:
    """Runs a program as `__main__` and exits with its exit code."""
    module = _module("__main__")
    code = 1
    try:
        exec(compile(source, NAME, "exec"), module.__dict__)
        code = 0
    except SystemExit as error:
        code = _exit_code(error.code)
    except BaseException as error:
        report(error)
    leave(code)


def report(error: BaseException) -> None:
    try:
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without the frames of this file
        text = "".join(traceback.format_exception(type(error), error, frames, limit=-6))[-MAX_ERROR:]
    except BaseException:
        text = type(error).__name__
    sys.stderr.write(text)


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(str(code)[:MAX_ERROR])
    return 1


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(__builtins__=builtins, __file__=NAME)
    sys.modules[name] = module
    return module


def describe(error: BaseException) -> list[str]:
    try:
        return [type(error).__name__, str(error)[:300]]
    except BaseException:
        return ["Exception", "its message cannot be printed"]


class Channel:
    """Frames over a socket."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)

    def send(self, message: Any) -> None:
        self.sock.sendall(values.dumps(message))

    def receive(self) -> dict[str, Any]:
        (size,) = values.HEADER.unpack(self._exactly(values.HEADER.size))
        return values.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                os._exit(0)  # the other end is closed
            data += piece
        return bytes(data)


class Host:
    """A loaded program that answers calls until the other side closes."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.objects: list[Any] = []
        self.scope: dict[str, Any] = {}
        self.classes: dict[str, type] = {}

    def load(self, source: str, setup: str) -> None:
        """Runs the shared definitions of the tests and reports that, before the program can send anything; then the
        program.
        """
        self.scope = _module("solution").__dict__
        if "class Solution" in source:
            exec(PREAMBLE, self.scope)
            sys.setrecursionlimit(CLASS_RECURSION)
        try:
            exec(compile(setup, "setup.py", "exec"), self.scope)
            self.classes = {n: c for n, c in self.scope.items() if isinstance(c, type) and c.__module__ == "solution"}
        except BaseException as error:
            self.channel.send({"broken": describe(error)})
            os._exit(1)
        self.channel.send({"ready": True})
        try:
            exec(compile(source, NAME, "exec"), self.scope)
        except BaseException as error:
            report(error)
            self.channel.send({"e": describe(error)})
            os._exit(1)
        # if the program repeats the definitions, instances have its class
        self.classes = {n: self.scope[n] for n in self.classes if isinstance(self.scope.get(n), type)}
        self.channel.send({"v": None})

    def serve(self) -> None:
        while True:
            self._respond(self.channel.receive())

    def _respond(self, request: dict[str, Any]) -> None:
        try:
            if "exception" in request:
                answer = {"v": _bases(self.decode(request["exception"]))}
            else:
                answer = self.answer(request)
        except BaseException as error:
            answer = {"e": describe(error), "bases": _bases(type(error))}
        self.channel.send(answer)

    def _call_back(self, number: int) -> Callable[..., Any]:
        """Proxy of a test function, which runs in the checker and may call the program."""

        def function(*args: Any) -> Any:
            self.channel.send({"call": number, "args": [self.encode(a) for a in args]})
            while "back" not in (request := self.channel.receive()):
                if "raise" in request:
                    name, text = request["raise"]
                    kind = getattr(builtins, name, None)
                    raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else Exception)(text)
                self._respond(request)
            return self.decode(request["back"])

        return function

    def encode(self, value: Any) -> Any:
        return values.encode(value, self._keep, self.classes)

    def _keep(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1

    def decode(self, data: Any) -> Any:
        return values.decode(data, self._held, self.classes)

    def _held(self, number: int, name: str) -> Any:
        if number >= 0:
            return self.objects[number]
        return getattr(builtins, name) if number == -1 else self._call_back(-2 - number)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The requested value; if a call returned None, on request also its changed arguments."""
        args = [self.decode(a) for a in request.get("args", ())]
        if "do" in request:
            do: Callable[..., Any] = getattr(operator, request["do"], None) or getattr(builtins, request["do"])
            return {"v": self.encode(do(*args))}
        if "name" in request:
            found = self.find(request["name"])
            if "args" not in request:
                return {"v": self.encode(found)}
        else:
            found = args.pop(0)
        result = found(*args, **{key: self.decode(value) for key, value in request.get("kwargs", {}).items()})
        answer = {"v": self.encode(result)}
        if result is None and request.get("after"):
            answer["after"] = [self.encode(a) for a in args[-request["after"] :]]
        return answer

    def find(self, path: str) -> Any:
        """A function of the program by name, otherwise the method of its class Solution."""
        name, *rest = path.split(".")
        if not rest and "Solution" in self.scope and hasattr(self.scope["Solution"], name):
            return getattr(self.scope["Solution"](), name)
        if name not in self.scope:
            raise NameError(f"name '{name}' is not defined")
        found = self.scope[name]
        for part in rest:
            if isinstance(found, type) and isinstance(vars(found).get(part), types.FunctionType):
                with contextlib.suppress(TypeError):  # a method of a class without constructor arguments
                    found = found()
            found = getattr(found, part)
        return found


def _bases(kind: Any) -> list[str]:
    """Names of the base classes of an exception class; empty for other objects."""
    found = type.mro(kind) if isinstance(kind, type) and issubclass(kind, Exception) else []
    return [base.__name__[:80] for base in found[1:20]]


def host(source: str, setup: str, fd: int) -> None:
    """Loads a program and answers calls over the socket `fd`."""
    server = Host(Channel(fd))
    server.load(source, setup)
    server.serve()
