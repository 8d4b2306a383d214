"""The verifier processes, forked by `rlcore.processes`.

A worker reads frames (4-byte length, pickle of a list of items) from its socket and sends one JSON frame per finished
sample, so that a hang can be attributed to one sample. Answers are JSON because the trainer must not unpickle data from
reward functions.
"""

from __future__ import annotations

import builtins
import json
import pickle
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rlcore.processes.child import read_frame, send_frame
from rlcore.rewards import registry
from rlcore.rewards.composition import Item, Term, compose
from rlcore.types import RewardInput, RewardResult


def pack(items: Sequence[Item]) -> bytes:
    """Pickles items for a worker as tuples: half the cost of dataclasses, and terms are sent once."""
    terms: dict[int, int] = {}
    table: list[list[tuple[Any, ...]]] = []
    rows = []
    for item in items:
        if (index := terms.get(id(item.terms))) is None:
            index = terms[id(item.terms)] = len(table)
            table.append([(t.name, t.fn, t.weight, dict(t.options)) for t in item.terms])
        x = item.input
        row = (x.prompt, x.response, x.reference, x.finish_reason, x.num_response_tokens, dict(x.metadata))
        rows.append((index, row))
    return pickle.dumps((table, rows), pickle.HIGHEST_PROTOCOL)


def unpack(frame: bytes) -> list[Item]:
    table, rows = pickle.loads(frame)
    terms = [tuple(Term(*term) for term in entry) for entry in table]
    return [Item(terms[index], RewardInput(*row)) for index, row in rows]


def serve(sock: socket.socket, options: Mapping[str, Any]) -> None:
    """Entry point of a process; see `rlcore.processes.child`."""
    Worker(sock, options["imports"], options["memory_limit_mb"]).serve()


@dataclass
class Worker:
    """Scores samples until the other end closes. Functions are loaded on first use and cached, including failures.

    A module of a reward may have a function `prepare`, for imports that only some samples need. It is called once,
    while nothing is to be scored.
    """

    sock: socket.socket
    imports: Sequence[str]  # reward paths with files that may register more names
    memory_limit_mb: int = 0
    fns: dict[tuple[str, str | None], registry.RewardFn | registry.RewardError] = field(default_factory=dict)
    preparations: list[Callable[[], object]] = field(default_factory=list)

    def serve(self) -> None:
        registry.on_load = lambda name, finished: self._send({"loaded" if finished else "loading": name})
        watch_imports()
        while (frame := read_frame(self.sock)) is not None:
            for item in unpack(frame):
                begun = time.perf_counter()
                result = self._score(item)
                seconds = time.perf_counter() - begun
                # after running out of memory the heap may contain leaked objects: use a new process
                last = result.info.get("exception") == "MemoryError"
                self._send(encode(result) | {"last": last, "seconds": seconds})
                if last:
                    return
            while self.preparations and not select.select([self.sock], [], [], 0)[0]:
                with suppress(Exception):  # a sample that needs it reports the error
                    self.preparations.pop()()

    def _send(self, message: dict[str, Any]) -> None:
        send_frame(self.sock, json.dumps(message).encode())

    def _score(self, item: Item) -> RewardResult:
        results = []
        for term in item.terms:
            fn = self._resolve(term)
            if isinstance(fn, registry.RewardError):
                results.append(registry.failure(str(fn)))
                continue
            result = registry.call(fn, item.input, term.options)
            results.append(result)
            if result.info.get("exception") == "MemoryError":
                message = f"{result.info['error']} (the limit is {self.memory_limit_mb} MB)"
                return registry.failure(message, exception="MemoryError")
        return compose(item.terms, results)

    def _resolve(self, term: Term) -> registry.RewardFn | registry.RewardError:
        key = (term.name, term.fn)
        if key not in self.fns:
            with registry.loading(term.fn or term.name):
                try:
                    self.fns[key] = fn = self._load(term)
                    if fn.__module__.startswith("rlcore."):
                        self.preparations += filter(callable, [getattr(sys.modules[fn.__module__], "prepare", None)])
                except registry.RewardError as error:
                    self.fns[key] = error
        return self.fns[key]

    def _load(self, term: Term) -> registry.RewardFn:
        if term.fn is not None:
            return registry.load_fn(term.fn)
        if term.name not in registry.names():
            for path in self.imports:  # a file of the user may register the name
                registry.load_fn(path)
        return registry.get(term.name)


def watch_imports() -> None:
    """Reports the first import of each module by an `import` statement, for example inside a reward function."""
    plain, main = builtins.__import__, threading.main_thread()

    def watched(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level or name in sys.modules or threading.current_thread() is not main:
            return plain(name, globals, locals, fromlist, level)
        with registry.loading(name):
            return plain(name, globals, locals, fromlist, level)

    builtins.__import__ = watched


def encode(result: RewardResult) -> dict[str, Any]:
    """A result as JSON values; other values in `info` become text."""
    info = {str(key)[:200]: _plain(value) for key, value in result.info.items()}
    return {"score": result.score, "status": result.status.value, "parts": dict(result.parts), "info": info}


def _plain(value: Any) -> Any:
    try:
        if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < 1024):
            json.dumps(value)
            return value
        if isinstance(value, str):
            return str(value)[: registry.MAX_MESSAGE]
        text = json.dumps(value)
        return json.loads(text) if len(text) <= registry.MAX_MESSAGE else text[: registry.MAX_MESSAGE]
    except Exception:  # repr of a hostile or huge value may raise any exception
        try:
            return repr(value)[: registry.MAX_MESSAGE]
        except Exception:
            return f"<{type(value).__name__} that cannot be printed>"
