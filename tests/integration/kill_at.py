"""`rlcore train` that, once, loses a process in a named phase of a step, or stops there for its own end.

    python -m tests.integration.kill_at VICTIM PHASE NUMBER FILE OVERRIDES...

When the phase PHASE begins for the NUMBER-th time and FILE does not exist, FILE is written. VICTIM `driver`: the thread
waits there for good, and whoever started the run kills it. VICTIM `RolloutWorker` or `PolicyWorker`: that process is
killed a moment later, while the phase runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from rlcore.tracking.trackers import Trackers

MOMENT_S = 0.02


def worker_pid(name: str) -> int:
    for child in psutil.Process().children(recursive=True):
        if any(name in part for part in child.cmdline()[:1]) or child.name().startswith(f"ray::{name}"[:15]):
            return child.pid
    raise AssertionError(f"no {name} among the processes")


def main(victim: str, phase: str, number: int, file: Path) -> None:
    original, lock, seen = Trackers.phase, threading.Lock(), [0]

    def strike() -> None:
        with lock:
            seen[0] += 1
            if seen[0] != number or file.exists():
                return
            pid = os.getpid() if victim == "driver" else worker_pid(victim)
            file.write_text(f"{pid}\n")
        if victim == "driver":
            time.sleep(3600)
        threading.Timer(MOMENT_S, os.kill, (pid, signal.SIGKILL)).start()

    @contextmanager
    def watched(self: Trackers, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        with original(self, name, total) as advance:
            if name == phase:
                strike()
            yield advance

    Trackers.phase = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    sys.argv = ["rlcore", "train", *sys.argv[5:]]
    from actors.cli import main as rlcore

    rlcore()
