"""The verifier side of one zygote: starts it and runs one program at a time; every wait has a deadline."""

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
from rlcore.rewards.sandbox.records import Limits, SandboxError, SandboxLost

START_TIMEOUT_S = 30.0
GRACE_S = 0.7  # time for a zygote to report an overdue child, before the zygote is killed
RESERVE_S = 0.4
PREFIX, SETTLED_S = "rlcore-sandbox-", 60.0
KILL_S = 2.0  # wait for a killed program to free its memory, if the deadline allows
HURRY_S = 0.2
MESSAGE = 1 << 16
# deterministic set order; no threads of preloaded libraries
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Launch:
    """Start command of a zygote; `{scratch}` and `{fd}` are substituted."""

    command: Sequence[str]
    landlock: bool
    seccomp: bool
    own_uid: bool  # processes are counted separately from the caller's (user namespace)
    drop_root: bool
    readable: Sequence[str]
    python_path: Sequence[str] = ()
    preload: Sequence[str] = ()


@dataclass(slots=True)
class Exit:
    code: int  # negative signal number
    cause: str | None  # "cpu", "idle", "wall", "told", or None: the program exited
    seconds: float = 0.0

    @property
    def timed_out(self) -> bool:
        return self.cause in ("cpu", "idle", "wall") or (self.cause is None and self.code == -signal.SIGXCPU)


_dying: list[subprocess.Popen[bytes]] = []  # killed but not waited for, because a verdict was due


class Zygote:
    """A running zygote. Not thread-safe; runs one program at a time.

    Args:
        deadline: (time.monotonic) for the start; None: `START_TIMEOUT_S` from now.

    Raises:
        SandboxError: it does not start; the message has its last log lines.
    """

    def __init__(self, launch: Launch, deadline: float | None = None) -> None:
        sweep()
        _dying[:] = [process for process in _dying if process.poll() is None]
        left_s = START_TIMEOUT_S if deadline is None else deadline + GRACE_S - time.monotonic()
        self.scratch = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
        self._hold = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._hold, fcntl.LOCK_EX)  # a lock that shows that the owner of the folder is alive
        self.programs = self.answered = 0  # number of started programs; number of the last exit that was read
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
            self.facts = self._greet(settings | {"scratch": self.scratch}, log, min(left_s, START_TIMEOUT_S))
        except BaseException as error:
            ours.close()
            if hasattr(self, "process"):
                self._end_process(0.0)
            self._remove()
            if isinstance(error, OSError):
                raise SandboxError(f"{launch.command[0]} cannot be started: {error}") from error
            raise
        finally:
            os.close(log)

    def _greet(self, settings: dict[str, Any], log: int, left_s: float) -> dict[str, Any]:
        data = b""
        with contextlib.suppress(OSError):
            self.control.settimeout(max(0.1, left_s))
            self.control.send(json.dumps(settings).encode())
            data = self.control.recv(MESSAGE)
        if not data:
            self._end_process(HURRY_S)  # a failed zygote exits with its own code
            size = os.fstat(log).st_size
            words = os.pread(log, 600, max(0, size - 600)).decode(errors="replace").strip()
            code = self.process.returncode
            kind = SandboxLost if code is not None and -code in (signal.SIGKILL, signal.SIGTERM) else SandboxError
            raise kind(f"the sandbox did not start (exit code {code}): {words}")
        return dict(json.loads(data)["ready"])

    @property
    def pending(self) -> bool:
        """True if a started program is not known to be reaped."""
        return self.answered != self.programs

    def alive(self) -> bool:
        return self.process.poll() is None

    def start(self, mode: str, spec: dict[str, Any], limits: Limits, deadline: float, fds: Sequence[int]) -> Running:
        """Forks a program; `fds` become its descriptors 0, 1, 2 and, if given, 3. The caller closes them.

        Args:
            deadline: (time.monotonic) of the verdict.
        """
        self.programs += 1
        sent = memory_file(json.dumps(spec).encode())
        message = {
            "op": "start",
            "number": self.programs,
            "mode": mode,
            "memory_mb": limits.memory_mb,
            "output_mb": limits.output_mb,
            "cpu_cap_s": max(0.0, deadline - time.monotonic()) + 1,
            **clocks(limits.time_s, deadline),
        }
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], [sent, *fds])
        except OSError as error:
            raise SandboxLost(f"the sandbox is gone: {error}") from error
        finally:
            os.close(sent)
        return Running(self, deadline)

    def hear(self, wait_s: float) -> dict[str, Any] | None:
        """The next report on the last program: overdue, or its exit; None: no report yet.

        Raises:
            SandboxError: the zygote is gone.
        """
        until = time.monotonic() + wait_s
        while True:
            self.control.settimeout(max(0.001, until - time.monotonic()))
            try:
                data = self.control.recv(MESSAGE)
            except TimeoutError:
                return None
            except OSError as error:
                raise SandboxLost(f"the sandbox is gone: {error}") from error
            if not data:
                raise SandboxLost("the sandbox ended")
            answer = dict(json.loads(data))
            if "exit" in answer:
                self.answered = answer["number"]
            if answer["number"] == self.programs:  # otherwise of a program that was abandoned before
                return answer

    def close(self, hurry: bool = False) -> None:
        """Stops the zygote and its child, and removes its folder. Safe to call twice.

        Args:
            hurry: the zygote failed and a verdict is due: kills it at once, without a long wait.
        """
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self._end_process(0.0 if hurry else 1.0, HURRY_S if hurry else 10.0)
        self.control.close()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def _end_process(self, by_itself_s: float, killed_s: float = HURRY_S) -> None:
        try:
            self.process.wait(timeout=by_itself_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            try:
                self.process.wait(timeout=killed_s)
            except subprocess.TimeoutExpired:
                _dying.append(self.process)


def sweep(owner: int | None = None) -> None:
    """Removes the folders of killed verifiers, which no process locks.

    Args:
        owner: process id of a verifier that has just ended; None: any, except new folders.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*" if owner is None else f"{PREFIX}{owner}-*"):
        with contextlib.suppress(OSError):
            if owner is None and time.time() - folder.stat().st_mtime < SETTLED_S:
                continue  # may be new and not locked yet
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)


def clocks(time_s: float, deadline: float) -> dict[str, float]:
    """(`limit_s`, `until`): the limit of the program's time, and the time (time.monotonic) of its kill: ten times the
    limit, for a busy machine.

    `until` is slightly before the deadline, because the zygote may also wait for a core. It is an absolute time,
    because the zygote may read it late.
    """
    now = time.monotonic()
    left_s = max(0.01, deadline - now - RESERVE_S, 0.8 * (deadline - now))
    return {"limit_s": min(time_s, left_s), "until": now + min(10 * time_s, left_s)}


@dataclass
class Running:
    """A program in a zygote, until it has exited or is reported overdue.

    Killing a program and freeing its memory can take seconds on a busy machine; the verdict does not wait for that.
    """

    zygote: Zygote
    deadline: float  # deadline of the verdict (time.monotonic)
    ended: Exit | None = None
    buffer: bytearray = field(default_factory=bytearray)

    def wait(self) -> Exit:
        """Waits for its exit until the deadline plus a grace time.

        Raises:
            SandboxError: no exit in time; the zygote must be closed.
        """
        if self.ended is None:
            answer = self.zygote.hear(self._left())
            if answer is None:
                raise SandboxError("the sandbox did not end a program that was overdue")
            self._take(answer)
        assert self.ended is not None
        return self.ended

    def _left(self) -> float:
        return max(0.0, self.deadline + GRACE_S - time.monotonic())

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("unset"):
            raise SandboxError(f"a program could not be locked up: {answer['unset']}")
        if self.ended is None:
            self.ended = Exit(answer.get("exit", -signal.SIGKILL), answer["cause"], answer["cpu"])

    def arm(self, time_s: float) -> None:
        """Restarts the clocks for the next call."""
        self._tell({"op": "arm", **clocks(time_s, self.deadline)})

    def kill(self) -> Exit:
        """Kills the program if it runs, and waits until it is reaped if the deadline allows (otherwise see `pending`).

        Raises:
            SandboxError: the zygote is gone, so the end of the program is unknown.
        """
        if self.ended is None:
            self._tell({"op": "kill"})
        now = time.monotonic()
        until = now + min(KILL_S, max(0.05, self.deadline - now))
        try:
            while self.zygote.pending and (answer := self.zygote.hear(until - time.monotonic())) is not None:
                self._take(answer)
        except SandboxError:
            if self.ended is None:
                raise
        self.ended = self.ended or Exit(-signal.SIGKILL, "told")
        return self.ended

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.zygote.control.send(json.dumps(message).encode())
        except OSError as error:
            raise SandboxLost(f"the sandbox is gone: {error}") from error

    def receive(self, channel: socket.socket, max_bytes: int) -> dict[str, Any] | None:
        """The next frame of the program; None if it exited (see `ended`) or sent an invalid or too long frame.

        Raises:
            SandboxError: no frame, and no report of the zygote in time.
        """
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
            overdue = self.ended is not None and self.ended.timed_out  # a frame sent in time is still read
            left = 0.0 if overdue else self._left()
            ready = {fd for fd, _ in poller.poll(left * 1000)}
            if not ready and overdue:
                return None
            if not ready or (left <= 0 and self.ended is None):
                raise SandboxError("the sandbox did not end a program that was overdue")
            if channel.fileno() in ready:
                try:
                    piece = channel.recv(1 << 18)
                except ConnectionError:
                    piece = b""
                if not piece:
                    self.wait()  # closed by the exit of the program, or by the program
                    return None
                self.buffer += piece
                if len(self.buffer) > max_bytes + values.HEADER.size:
                    return None
            elif (answer := self.zygote.hear(0.0)) is not None:
                self._take(answer)
                poller.unregister(self.zygote.control)

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
    """Descriptor of an unnamed, sealed file, at position 0."""
    fd = os.memfd_create("input", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd
