"""The trainer's side of a zygote and of the processes that it forks; see `rlcore.processes.child` for the other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rlcore
from rlcore.processes.child import CONTROL_BYTES

LOAD_TIMEOUT_S = 120.0  # import of the user's file or of sympy
KEPT_ENV = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


class ZygoteLost(OSError):
    """The zygote does not answer."""


class Zygote:
    """One zygote. Thread-safe.

    Args:
        name: for error messages, for example "verifier".
        serve: `module:function` of rlcore that a forked process runs, see `rlcore.processes.child.Serve`.
        options: its second argument; JSON-able.
        memory_limit_mb: address space of a forked process (RLIMIT_AS), in MiB; 0: no limit.
        cwd: working directory, the base of relative paths; None: the caller's.
        env_list: environment variable with the names of additional variables to pass on, separated by commas.
        python: another interpreter, with packages of its own; None: this one, with this process's sys.path.

    Raises:
        OSError: the interpreter cannot be started.
    """

    def __init__(
        self, name: str, serve: str, options: Mapping[str, Any], memory_limit_mb: int, cwd: str | None, env_list: str,
        python: str | None = None,
    ) -> None:  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = str(Path(rlcore.__file__).resolve().parent.parent)
        names = [*KEPT_ENV, *filter(None, os.environ.get(env_list, "").split(","))]
        env = {n: os.environ[n] for n in names if n in os.environ}
        env |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [python or sys.executable, "-P", "-m", "rlcore.processes.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=env,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C reaches only the trainer, which closes in order
            )
        self._name, self._control, self._lock = name, ours, threading.Lock()
        ours.settimeout(LOAD_TIMEOUT_S)
        paths = [os.path.abspath(p) for p in (cwd or ".", *(() if python else sys.path)) if p is not None]
        settings = {
            "sys_path": paths, "memory_limit_mb": memory_limit_mb, "serve": serve, "options": dict(options),
        }  # fmt: skip
        with contextlib.suppress(OSError):  # if it is dead, the first request fails
            ours.send(json.dumps(settings).encode())

    def fork(self, warm: Sequence[str] = ()) -> tuple[int, socket.socket]:
        """A new process: its id, and the socket that it serves.

        Args:
            warm: modules of rlcore to import first.

        Raises:
            ZygoteLost: the zygote is dead, or does not answer in time.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                return self._request({"op": "fork", "warm": list(warm)}, theirs.fileno())["pid"], ours
        except BaseException:
            ours.close()
            raise

    def reap(self, pid: int, grace_s: float) -> str:
        """Kills a process and its group after `grace_s` seconds, and returns how it ended."""
        return str(self._request({"op": "reap", "pid": pid, "grace_s": grace_s})["cause"])

    def _request(self, command: dict[str, Any], *fds: int) -> dict[str, Any]:
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(command).encode()], fds)
                reply = self._control.recv(CONTROL_BYTES)
            except OSError as error:
                raise ZygoteLost(f"the {self._name}'s zygote does not answer: {error}") from error
        if not reply:
            raise ZygoteLost(f"the {self._name}'s zygote ended (exit code {self.process.poll()})")
        return json.loads(reply)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stops the zygote, which first kills and reaps its processes."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:  # stuck in an import; its workers end with it (PR_SET_PDEATHSIG)
            self.process.kill()
            self.process.wait()
        self._control.close()
