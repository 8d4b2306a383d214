"""The verifier's side of one zygote: starts it, has it run one program at a time, and never waits without an end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.rewards.sandbox import values
from rlcore.rewards.sandbox.records import Limits, SandboxError

START_TIMEOUT_S = 30.0
GRACE_S = 0.7  # what a zygote may take to kill a child that is overdue, before it is killed itself
RESERVE_S = 0.4
PREFIX, SETTLED_S = "rlcore-sandbox-", 60.0
KILL_S = 2.0  # what freeing the memory of a killed program may take on a busy machine
MESSAGE = 1 << 16
# equal sets in every run; no threads where preloaded libraries would start them
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a zygote is started: `{scratch}` and `{fd}` in the command are filled in."""

    command: Sequence[str]
    landlock: bool
    seccomp: bool
    own_uid: bool  # the user's processes are counted apart from the caller's (a user namespace)
    drop_root: bool
    readable: Sequence[str]
    python_path: Sequence[str] = ()
    preload: Sequence[str] = ()


@dataclass(slots=True)
class Exit:
    code: int  # minus the signal's number
    cause: str | None  # "cpu", "idle", "wall", "told", or None: it ended by itself
    seconds: float = 0.0

    @property
    def timed_out(self) -> bool:
        return self.cause in ("cpu", "idle", "wall") or (self.cause is None and self.code == -signal.SIGXCPU)


class Zygote:
    """A running zygote. Not thread-safe: one program at a time.

    Raises:
        SandboxError: it does not come up; the message has its last words.
    """

    def __init__(self, launch: Launch) -> None:
        sweep()
        self.scratch = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
        self._hold = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._hold, fcntl.LOCK_EX)  # says that somebody lives who will remove it
        self.programs = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.memfd_create("log")
        try:
            with theirs:
                fill = {"{scratch}": self.scratch, "{fd}": str(theirs.fileno())}
                self.process = subprocess.Popen(
                    [fill.get(part, part) for part in launch.command],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=ENVIRONMENT,
                    cwd="/",
                )
            self.control = ours
            settings = {name: getattr(launch, name) for name in ("landlock", "seccomp", "own_uid", "drop_root")}
            settings |= {name: list(getattr(launch, name)) for name in ("readable", "python_path", "preload")}
            self.facts = self._greet(settings | {"scratch": self.scratch}, log)
        except BaseException as error:
            ours.close()
            if hasattr(self, "process"):
                self._end_process()
            self._remove()
            if isinstance(error, OSError):
                raise SandboxError(f"{launch.command[0]} cannot be started: {error}") from error
            raise
        finally:
            os.close(log)

    def _greet(self, settings: dict[str, Any], log: int) -> dict[str, Any]:
        data = b""
        with contextlib.suppress(OSError):
            self.control.settimeout(START_TIMEOUT_S)
            self.control.send(json.dumps(settings).encode())
            data = self.control.recv(MESSAGE)
        if not data:
            self._end_process()
            size = os.fstat(log).st_size
            words = os.pread(log, 600, max(0, size - 600)).decode(errors="replace").strip()
            raise SandboxError(f"the sandbox did not start (exit code {self.process.returncode}): {words}")
        return dict(json.loads(data)["ready"])

    def start(self, mode: str, spec: dict[str, Any], limits: Limits, left_s: float, fds: Sequence[int]) -> Running:
        """Forks a program; `fds` become 0, 1, 2 and, if a fourth is there, 3. The caller closes them."""
        self.programs += 1
        sent = memory_file(json.dumps(spec).encode())
        message = {
            "op": "start",
            "mode": mode,
            "memory_mb": limits.memory_mb,
            "output_mb": limits.output_mb,
            "cpu_cap_s": left_s + 1,
            **clocks(limits.time_s, left_s),
        }
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], [sent, *fds])
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}") from error
        finally:
            os.close(sent)
        return Running(self)

    def close(self) -> None:
        """Ends the zygote and its child, and removes its folder. May be called twice."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self._end_process()
        self.control.close()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def _end_process(self) -> None:
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def sweep(owner: int | None = None) -> None:
    """Removes the folders of verifiers that were killed: nobody holds their lock any more.

    Args:
        owner: process id of one that has just ended; None: of any, if the folder is not quite new.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*" if owner is None else f"{PREFIX}{owner}-*"):
        with contextlib.suppress(OSError):
            if owner is None and time.time() - folder.stat().st_mtime < SETTLED_S:
                continue  # perhaps just made, and not locked yet
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)


def clocks(time_s: float, left_s: float) -> dict[str, float]:
    """`limit_s` of the program's own time, `wall_s` of all: on a starved machine it gets ten times as long.

    A program is ended somewhat before the deadline, as the zygote, too, may have to wait for a core.
    """
    left_s = max(0.01, left_s - RESERVE_S, 0.8 * left_s)
    return {"limit_s": min(time_s, left_s), "wall_s": min(10 * time_s, left_s)}


@dataclass
class Running:
    """A program in a zygote, until its exit has been read."""

    zygote: Zygote
    ended: Exit | None = None
    buffer: bytearray = field(default_factory=bytearray)

    def wait(self, wall_s: float) -> Exit:
        """Its exit, which comes within `wall_s` and a grace.

        Raises:
            SandboxError: it did not; the zygote must be closed.
        """
        if self.ended is None:
            self.zygote.control.settimeout(max(0.01, wall_s) + GRACE_S)
            try:
                data = self.zygote.control.recv(MESSAGE)
            except OSError as error:
                raise SandboxError(f"the sandbox does not answer: {error}") from error
            if not data:
                raise SandboxError("the sandbox ended")
            answer = json.loads(data)
            if answer["unset"]:
                raise SandboxError(f"a program could not be locked up: {answer['unset']}")
            self.ended = Exit(answer["exit"], answer["cause"], answer["cpu"])
        return self.ended

    def arm(self, time_s: float, left_s: float) -> None:
        """Restarts the clocks, for the next call."""
        self._tell({"op": "arm", **clocks(time_s, left_s)})

    def kill(self) -> Exit:
        if self.ended is None:
            self._tell({"op": "kill"})
        return self.wait(KILL_S - GRACE_S)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.zygote.control.send(json.dumps(message).encode())
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}") from error

    def receive(self, channel: socket.socket, wall_s: float, max_bytes: int) -> dict[str, Any] | None:
        """The next frame of the program; None when it ended (see `ended`), or sent what is too long or no frame.

        Raises:
            SandboxError: no frame, and the zygote did not end the program in time either.
        """
        deadline = time.monotonic() + max(0.01, wall_s) + GRACE_S
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        if self.ended is None:
            poller.register(self.zygote.control, select.POLLIN)
        while True:
            if (payload := self._frame()) is not None:
                try:
                    return values.loads(payload)
                except values.ValueRefused:
                    return None
            left = deadline - time.monotonic()
            ready = {fd for fd, _ in poller.poll(max(0.0, left) * 1000)}
            if channel.fileno() in ready:
                try:
                    piece = channel.recv(1 << 18)
                except ConnectionError:
                    piece = b""
                if piece:
                    self.buffer += piece
                    if len(self.buffer) > max_bytes + values.HEADER.size:
                        return None
                    continue
                self.wait(max(0.0, left))  # closed by the program's end, or by itself
                return None
            if self.zygote.control.fileno() in ready:
                self.wait(0.0)
                poller.unregister(self.zygote.control)
                continue  # what it sent before is still to be read; then the channel is at its end
            raise SandboxError("the sandbox did not end a program that was overdue")

    def _frame(self) -> bytes | None:
        size = values.HEADER.size
        if len(self.buffer) < size:
            return None
        end = size + values.HEADER.unpack_from(self.buffer)[0]
        if len(self.buffer) < end:
            return None
        payload = bytes(self.buffer[size:end])
        del self.buffer[:end]
        return payload


def memory_file(content: bytes) -> int:
    """A descriptor of an unnamed file that nobody can change, at its beginning."""
    fd = os.memfd_create("input", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd
