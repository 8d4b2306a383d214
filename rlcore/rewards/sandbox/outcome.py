"""Runs a program in a zygote and reports the outcome."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from rlcore.rewards.sandbox.records import Ending, Limits, Outcome
from rlcore.rewards.sandbox.zygote import Exit, Zygote, memory_file

MAX_ERROR = 600  # characters of the last output of a program
TOO_LATE = Outcome(Ending.skipped, error="the deadline came first")


def feed(zygote: Zygote, mode: str, spec: dict[str, Any], text: str, limits: Limits, deadline: float) -> Outcome:
    """Runs a program with `text` as standard input until it exits; its output is kept in memory."""
    short = cut_short(limits, deadline)
    fds = [memory_file(text.encode("utf-8", "surrogatepass")), os.memfd_create("output"), os.memfd_create("errors")]
    try:
        running = zygote.start(mode, spec, limits, deadline, fds)
        running.wait()
        ended = running.kill()
        output = os.pread(fds[1], limits.output_mb << 20, 0).decode("utf-8", "replace")
        return ending(ended, fds[2], output, short)
    finally:
        for fd in fds:
            os.close(fd)


def cut_short(limits: Limits, deadline: float) -> bool:
    """True if too little time is left for a test that starts now. A test that had half of the whole time to the
    deadline and used it up counts as slow instead.
    """
    return deadline - time.monotonic() < min(limits.time_s, limits.deadline_s / 2)


def ending(ended: Exit, errors: int, output: str = "", short: bool = False) -> Outcome:
    """The outcome of an exited program."""
    size = os.fstat(errors).st_size
    words = os.pread(errors, 4 * MAX_ERROR, max(0, size - 4 * MAX_ERROR)).decode("utf-8", "replace")[-MAX_ERROR:]
    if ended.timed_out and short:
        return Outcome(Ending.skipped, output, error=TOO_LATE.error, seconds=ended.seconds)
    if ended.timed_out:
        return Outcome(Ending.timeout, output, error="the time of the test is used up", seconds=ended.seconds)
    if ended.code == 0:
        return Outcome(Ending.done, output, seconds=ended.seconds)
    name = f"exit code {ended.code}" if ended.code > 0 else f"killed by {_signal(-ended.code)}"
    return Outcome(Ending.error, output, error=f"{name}\n{words}".strip(), seconds=ended.seconds)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
