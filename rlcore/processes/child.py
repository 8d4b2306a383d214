"""The zygote, started by exec, and the workers that it forks.

`python -P -m rlcore.processes.child FD` is the zygote. FD is a SOCK_SEQPACKET socket with JSON commands:

    {"op": "fork", "warm": [module, ...]} + one descriptor  ->  {"pid": N}     a worker that serves the descriptor
    {"op": "reap", "pid": N, "grace_s": x}                  ->  {"cause": "killed by SIGSEGV"}
    end of file                                             ->  all workers are killed, the zygote exits

What a worker does is a function of rlcore, named by the first message: `serve(socket, options)`. The zygote has no
threads and imports no user code, so it is safe to fork. Only the zygote kills and reaps workers, so that no process id
is reused before it is reaped.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.rewards.sandbox import zygote as sandboxes

HEADER = struct.Struct("!I")
CONTROL_BYTES = 65536
PR_SET_PDEATHSIG = 1

Serve = Callable[[socket.socket, Mapping[str, Any]], None]  # returns when the other end has closed


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


@dataclass
class Zygote:
    """Forks, kills and reaps workers; single-threaded, one command at a time."""

    control: socket.socket
    serve: Serve
    options: Mapping[str, Any]
    memory_limit_mb: int
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
        os.setpgid(0, 0)  # processes of the user's code end with the worker
        self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != zygote:
            os._exit(1)
        self.control.close()
        os.set_inheritable(fd, False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.memory_limit_mb:
            limit = self.memory_limit_mb << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.serve(socket.socket(fileno=fd), self.options)

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
    os.dup2(2, 1)  # print() of the user's code goes to the log, like its errors
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    settings = json.loads(control.recv(CONTROL_BYTES))
    sys.path += [path for path in settings["sys_path"] if path not in sys.path]
    module, _, function = settings["serve"].partition(":")
    serve: Serve = getattr(importlib.import_module(module), function)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    Zygote(control, serve, settings["options"], settings["memory_limit_mb"], prctl).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
