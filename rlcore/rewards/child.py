"""The verifier processes: a clean zygote, started by exec, and the workers it forks.

`python -P -m rlcore.rewards.child FD` is the zygote. FD is a SOCK_SEQPACKET socket with JSON commands:

    {"op": "fork", "warm": [module, ...]} + one descriptor  ->  {"pid": N}     a worker that serves the descriptor
    {"op": "reap", "pid": N, "grace_s": x}                  ->  {"cause": "killed by SIGSEGV"}
    end of file                                             ->  all workers are killed, the zygote exits

A worker reads frames (4-byte length, pickle of a list of items) from its socket and sends one JSON frame per finished
sample, so that a hang can be attributed to one sample. Answers are JSON because the trainer must not unpickle data from
reward functions. The zygote has no threads and imports no user code, so it is safe to fork. Only the zygote kills and
reaps workers, so that no process id is reused before it is reaped.
"""

from __future__ import annotations

import builtins
import ctypes
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.rewards import registry
from rlcore.rewards.composition import Item, Term, compose
from rlcore.rewards.sandbox import zygote as sandboxes
from rlcore.types import RewardInput, RewardResult

HEADER = struct.Struct("!I")
CONTROL_BYTES = 65536
PR_SET_PDEATHSIG = 1


def send_frame(sock: socket.socket, payload: bytes) -> None:
    sock.sendall(HEADER.pack(len(payload)) + payload)


def read_frame(sock: socket.socket) -> bytes | None:
    """One frame, or None at the end of the stream."""
    header = _read_exactly(sock, HEADER.size)
    return None if header is None else _read_exactly(sock, HEADER.unpack(header)[0])


def _read_exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


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


@dataclass
class Worker:
    """Scores samples until the other end closes. Functions are loaded on first use and cached, including failures."""

    sock: socket.socket
    imports: Sequence[str]  # reward paths with files that may register more names
    memory_limit_mb: int = 0
    fns: dict[tuple[str, str | None], registry.RewardFn | registry.RewardError] = field(default_factory=dict)

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
                    self.fns[key] = self._load(term)
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


@dataclass
class Zygote:
    """Forks, kills and reaps workers; single-threaded, one command at a time."""

    control: socket.socket
    memory_limit_mb: int
    imports: Sequence[str]
    prctl: Callable[..., int]
    children: set[int] = field(default_factory=set)

    def run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.control, CONTROL_BYTES, 1)
            if not data:
                break
            command = json.loads(data)
            if command["op"] == "fork":
                reply: dict[str, Any] = {"pid": self.fork(fds[0], command["warm"])}
            else:
                reply = {"cause": self.reap(command["pid"], command["grace_s"])}
            try:
                self.control.send(json.dumps(reply).encode())
            except OSError:
                break
        for pid in list(self.children):
            self.reap(pid, 0.0)

    def fork(self, fd: int, warm: Sequence[str]) -> int:
        for module in warm:
            if module.startswith("rlcore."):  # no user code, which may start threads or hang
                importlib.import_module(module)
        gc.collect()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._become_worker(fd)
                status = 0
            except (OSError, EOFError):
                pass  # the other end is gone
            finally:
                sys.stdout.flush()
                os._exit(status)
        os.setpgid(pid, pid)  # here and in the worker, because either may run first
        os.close(fd)
        self.children.add(pid)
        return pid

    def _become_worker(self, fd: int) -> None:
        zygote = os.getppid()
        os.setpgid(0, 0)  # processes of the reward end with the worker
        self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != zygote:
            os._exit(1)
        self.control.close()
        os.set_inheritable(fd, False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.memory_limit_mb:
            limit = self.memory_limit_mb << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        Worker(socket.socket(fileno=fd), self.imports, self.memory_limit_mb).serve()

    def reap(self, pid: int, grace_s: float) -> str:
        """Waits up to `grace_s` for a worker to exit, kills its process group, and returns how it ended."""
        if pid not in self.children:
            return "was reaped before"
        deadline = time.monotonic() + grace_s
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                break
            time.sleep(0.002)
        try:
            os.killpg(pid, signal.SIGKILL)  # not yet reaped, so the number still identifies this group
        except (ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self.children.discard(pid)
        sandboxes.sweep(pid)  # a killed worker could not remove its folders
        code = os.waitstatus_to_exitcode(status)
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def main(fd: int) -> None:
    os.dup2(2, 1)  # print() of a reward goes to the log, like its errors
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    settings = json.loads(control.recv(CONTROL_BYTES))
    sys.path += [path for path in settings["sys_path"] if path not in sys.path]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    Zygote(control, settings["memory_limit_mb"], settings["imports"], prctl).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
