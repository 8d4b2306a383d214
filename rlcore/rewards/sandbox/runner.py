"""The zygote: a clean interpreter with common imports that forks one confined child per program.

`python -s -S -P runner.py FD`. FD is a SOCK_SEQPACKET socket; messages are JSON, the verifier speaks first:

    settings                                        ->  {"ready": {...}}
    {"op": "start", "number", "mode", limits} + fds ->  {"number", "overdue": True, "cause", "cpu": s} if so; then
                                                        {"number", "exit": code or -signal, "cause", "cpu", "rss": KiB,
                                                         "unset": why the child could not be locked up, or ""}
        meanwhile {"op": "arm", "limit_s", "until"}     restarts the clocks (no answer)
        meanwhile {"op": "kill"}                        ends the child; its exit is the answer
    end of file                                     ->  the child is killed, the zygote ends

The descriptors of a start: its JSON (with the program), then the descriptors 0, 1, 2 and, for calls, 3 of the child.
One child at a time. The zygote runs no foreign code. The child cannot reach it: seccomp and Landlock or a pid namespace
deny signals and inspection, and the zygote reads nothing that the child writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
import types
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
for _name, _folder in (("rlcore", "../.."), ("rlcore.rewards", ".."), ("rlcore.rewards.sandbox", ".")):
    if _name not in sys.modules:  # packages without the imports of their __init__
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__path__ = [os.path.normpath(os.path.join(HERE, _folder))]

from rlcore.rewards.sandbox import checker, landlock, program, seccomp  # noqa: E402

MESSAGE = 1 << 16
MB = 1 << 20
RECHECK_S = 0.02
PRELOAD = (
    "collections", "heapq", "bisect", "itertools", "functools", "math", "cmath", "re", "string", "random", "datetime",
    "time", "json", "typing", "decimal", "fractions", "operator", "copy", "statistics", "array", "queue", "threading",
    "dataclasses", "enum", "abc", "io", "types", "contextlib", "numbers", "textwrap", "struct", "hashlib", "traceback",
    "linecache", "locale", "calendar", "_strptime", "encodings.idna",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
OWN_UID = 61_000  # first uid for programs if the zygote is root


class Zygote:
    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control, self.settings = control, settings
        self.scratch: str = settings["scratch"]
        sys.path += settings["python_path"]
        for module in (*PRELOAD, *settings["preload"]):
            importlib.import_module(module)
        landlock.libc.prctl(36, 1, 0, 0, 0)  # subreaper: orphans of a program become our children
        self.note = self._drop_root()
        self.ruleset = -1
        if settings["landlock"]:
            self.ruleset = landlock.ruleset([*self._readable(), *self._devices()])

    def _readable(self) -> list[tuple[str, int]]:
        return [(path, landlock.READ) for path in (*self.settings["readable"], self.scratch)]

    def _devices(self) -> list[tuple[str, int]]:
        rights = landlock.READ_FILE | landlock.WRITE_FILE | landlock.TRUNCATE
        return [(path, rights if path == "/dev/null" else landlock.READ_FILE) for path in DEVICES]

    def _drop_root(self) -> str:
        """Changes from root to another uid, or at least drops capabilities: root ignores RLIMIT_NPROC and owns system
        files.
        """
        if os.getuid() != 0 or not self.settings["drop_root"]:
            return ""
        uid = OWN_UID + os.getpid() % 4000
        readable = all(_readable_by_others(p) for p in (os.__file__, HERE, *self.settings["python_path"]))
        try:
            if readable:
                os.chown(self.scratch, uid, uid)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                return f"as uid {uid}"
        except OSError:
            pass
        landlock.libc.prctl(28, 0x2F, 0, 0, 0)  # securebits: uid 0 has no privileges, locked
        for capability in range(64):
            landlock.libc.prctl(24, capability, 0, 0, 0)
        header, none = b"\x22\x05\x08\x20" + bytes(4), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this process
        if landlock.libc.capset(header, none):
            raise OSError("root's capabilities cannot be dropped")
        return "as root without capabilities: other users cannot read the interpreter"

    def run(self) -> None:
        gc.collect()
        gc.freeze()
        facts = {"pid": os.getpid(), "landlock": landlock.abi(), "note": self.note}
        self.control.send(json.dumps({"ready": facts}).encode())
        while True:
            data, fds, _, _ = socket.recv_fds(self.control, MESSAGE, 8)
            if not data:
                return
            message = json.loads(data)
            if message["op"] == "start":
                words, says = os.pipe()  # closed before the program runs: it cannot fake a sandbox failure
                pid = self._fork(message, fds, says)
                for fd in (*fds, says):
                    os.close(fd)
                answer = Watch(self.control, pid, message).wait()
                self._sweep()
                if answer is None:
                    return
                answer |= {"number": message["number"]}
                answer["unset"] = os.read(words, 1000).decode(errors="replace")
                os.close(words)
                self.control.send(json.dumps(answer).encode())
            # a late kill or arm refers to a child that is already reaped

    def _fork(self, message: dict[str, Any], fds: list[int], says: int) -> int:
        zygote = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # here and in the child, because either may run first
            return pid
        try:
            child = Child(self, message, fds, zygote, says)
            try:
                start = child.become()
            except BaseException as error:
                os.write(child.says, f"{type(error).__name__}: {error}"[:900].encode())
                os._exit(1)
            start()
        finally:
            os._exit(1)
        raise AssertionError

    def _sweep(self) -> None:
        """Kills orphans of the last program; seccomp prevents any."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                for orphan in self._children():
                    with contextlib.suppress(OSError):
                        os.kill(orphan, signal.SIGKILL)
                time.sleep(0.001)

    def _children(self) -> list[int]:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []


def _readable_by_others(path: str) -> bool:
    path = os.path.realpath(path)
    if not os.stat(path).st_mode & 0o004:
        return False
    while (path := os.path.dirname(path)) != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


class Child:
    """A fork of the zygote before it becomes a program."""

    def __init__(self, zygote: Zygote, message: dict[str, Any], fds: list[int], parent: int, says: int) -> None:
        self.zygote, self.message, self.parent, self.says = zygote, message, parent, says
        self.sent, *self.fds = fds
        self.spec: dict[str, Any] = {}

    def become(self) -> Callable[[], None]:
        """Confines this process permanently and returns the job to run."""
        with open(self.sent, "rb", closefd=False) as file:
            file.seek(0)
            self.spec = json.loads(file.read())
        os.setpgid(0, 0)
        landlock.libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # ends with the zygote
        if os.getppid() != self.parent:
            os._exit(1)
        landlock.libc.prctl(4, 1, 0, 0, 0)  # dumpable again after the change of uid, for /dev/stdin
        mode, settings = self.message["mode"], self.zygote.settings
        command = mode == "command"
        self._limit(command)
        os.chdir(self.zygote.scratch)
        os.umask(0o077)
        ruleset = self._command_ruleset() if command and settings["landlock"] else self.zygote.ruleset
        if settings["landlock"]:
            landlock.restrict(ruleset)
        self._take_descriptors()
        if settings["seccomp"]:
            writes = self.spec.get("writes", False)
            strict = seccomp.strict(os.getpid(), creates=settings["landlock"])
            seccomp.install(seccomp.broad(os.getpid(), forks=writes) if command else strict)
        spec = self.spec
        if command:
            os.execve(spec["argv"][0], spec["argv"], spec["env"])
        program.prepare()
        os.close(self.says)
        if mode == "stdin":
            return lambda: program.run(spec["source"])
        if mode == "calls":
            return lambda: program.host(spec["source"], spec["setup"], 3)
        return lambda: checker.check(spec["setup"], spec["asserts"], 3)

    def _command_ruleset(self) -> int:
        read, scratch = landlock.READ | landlock.EXECUTE, landlock.READ | landlock.EXECUTE
        if self.spec["writes"]:
            scratch |= landlock.handled(landlock.abi())
        rules = [(path, read) for path in (*self.zygote.settings["readable"], *self.spec["readable"])]
        return landlock.ruleset([*rules, *self.zygote._devices(), (self.zygote.scratch, scratch)])

    def _take_descriptors(self) -> None:
        """Sets the sent descriptors from 0 on and closes all others except `says`, which closes on exec."""
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in self.fds]
        self.says = fcntl.fcntl(self.says, fcntl.F_DUPFD_CLOEXEC, 64)
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(len(high), self.says)
        os.closerange(self.says + 1, 1 << 20)

    def _limit(self, command: bool) -> None:
        message = self.message
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_CPU: int(message["cpu_cap_s"]) + 2,  # later than the zygote's clock
            resource.RLIMIT_FSIZE: message["output_mb"] * MB,
            resource.RLIMIT_DATA if self.spec.get("reserves") else resource.RLIMIT_AS: message["memory_mb"] * MB,
            resource.RLIMIT_STACK: min(256, message["memory_mb"] // 2) * MB,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
        }
        if self.zygote.settings["own_uid"] or self.zygote.note.startswith("as uid"):
            limits[resource.RLIMIT_NPROC] = 256
        for kind, limit in limits.items():
            _, hard = resource.getrlimit(kind)
            value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (value, value))


class Watch:
    """Waits for a child; kills it at its time limit, on request, or if the verifier is gone."""

    def __init__(self, control: socket.socket, pid: int, message: dict[str, Any]) -> None:
        self.control, self.pid, self.number = control, pid, message["number"]
        self.clock = (~pid << 3) | 2  # CPU time of the whole process, see clock_getcpuclockid(3)
        self.cpu_cap_s: float = message["cpu_cap_s"]
        self.began = time.monotonic()
        self.arm(message)

    def arm(self, message: dict[str, Any]) -> None:
        self.limit_s: float = message["limit_s"]
        self.until: float = message["until"]
        self.start, self.cpu_start, self.starved = time.monotonic(), self._cpu(), self._starved()[0]

    def _cpu(self) -> float:
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            return 0.0

    def _starved(self) -> tuple[float, bool]:
        """(seconds, running): the longest time that a thread was ready without a core, and if a thread is ready or
        running now, with a wait that is not counted yet.
        """
        longest, ready = 0.0, False
        with contextlib.suppress(OSError):
            for task in itertools.islice(os.scandir(f"/proc/{self.pid}/task"), 64):
                with contextlib.suppress(OSError, IndexError, ValueError):
                    with open(f"{task.path}/schedstat", "rb") as file:
                        longest = max(longest, int(file.read().split()[1]) / 1e9)
                    with open(f"{task.path}/stat", "rb") as file:
                        ready = ready or file.read().rpartition(b")")[2].split()[0] == b"R"
        return longest, ready

    def _overdue(self) -> tuple[str | None, float]:
        """The limit that the child reached, or the seconds until the next check."""
        cpu, now = self._cpu(), time.monotonic()
        wall = now - self.start
        left = self.limit_s - (cpu - self.cpu_start)
        if left <= 0 or cpu >= self.cpu_cap_s:
            return "cpu", 0.0
        if now >= self.until:
            return "wall", 0.0
        if wall < self.limit_s:
            return None, max(0.002, min(left, self.limit_s - wall, self.until - now))
        starved, ready = self._starved()
        asleep = wall - (starved - self.starved)
        if asleep >= self.limit_s and not ready:
            return "idle", 0.0
        pause = RECHECK_S if ready else min(left, self.limit_s - asleep)
        return None, max(0.002, min(pause, self.until - now))

    def wait(self) -> dict[str, Any] | None:
        pidfd = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(self.control, select.POLLIN)
        cause, deaf = None, False
        try:
            while True:
                ready = {fd for fd, _ in poller.poll(self._pause() * 1000)}
                if pidfd in ready:
                    break
                if self.control.fileno() in ready:
                    data = self.control.recv(MESSAGE)
                    message = json.loads(data) if data else {"op": "kill"}
                    deaf = not data
                    if message["op"] == "arm":
                        self.arm(message)
                        continue
                    cause = "told"
                    break
                cause, _ = self._overdue()
                if cause:  # reported before the kill, which may take long
                    self._say({"overdue": True, "cause": cause, "cpu": self._cpu()})
                    break
        finally:
            os.close(pidfd)
        answer = self._end(cause)
        return None if deaf else answer

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the verifier is gone; the next read notices it
            self.control.send(json.dumps(message | {"number": self.number}).encode())

    def _pause(self) -> float:
        cause, pause = self._overdue()
        return 0.0 if cause else pause

    def _end(self, cause: str | None) -> dict[str, Any]:
        """Kills the process group of the child. The child is its unreaped leader, so the number is still valid."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        return {
            "exit": os.waitstatus_to_exitcode(status),
            "cause": cause,
            "cpu": usage.ru_utime + usage.ru_stime,
            "rss": usage.ru_maxrss,
            "wall": time.monotonic() - self.began,
        }


def main(fd: int) -> None:
    control = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    if os.getpid() == 1:  # of a namespace; bwrap's outer process does not forward SIGKILL
        landlock.libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    settings = json.loads(control.recv(MESSAGE))
    try:
        Zygote(control, settings).run()
    finally:
        shutil.rmtree(settings["scratch"], ignore_errors=True)  # if the verifier was killed and cannot do it


if __name__ == "__main__":
    main(int(sys.argv[1]))
