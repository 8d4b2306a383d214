"""Ctrl-C and SIGTERM: write a checkpoint, then exit. A second signal exits immediately."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was interrupted; the last completed step is saved."""


class StopSignal:
    """Raises `Interrupted` after a signal, at a place where no work is lost.

    Inside `with stop.abandonable():` (sampling, scoring, evaluation: work that a resumed run repeats) the signal raises
    immediately; elsewhere (an optimizer step, a sync, a checkpoint) it is deferred until `check()`.
    """

    def __init__(self, notify: Callable[[str], None] = print) -> None:
        self.requested: str | None = None
        self._notify = notify
        self._abandonable = False

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handles SIGINT and SIGTERM inside the block; main thread only."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        self.check()
        self._abandonable = True
        try:
            yield
        finally:
            self._abandonable = False

    def check(self) -> None:
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested is not None:
            raise KeyboardInterrupt(f"second {name}: leaving without a checkpoint")
        self.requested = name
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # Ctrl-C also ends a `tee` that reads our output
            self._notify(f"{name}: saving a checkpoint, then leaving (once more to leave at once)")
        if self._abandonable:
            self._abandonable = False
            raise Interrupted(name)
