"""The restart policy of failed workers, shared by rollout engines, judges and verifier hosts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from actors.placement.group import ActorError, ActorGroup, DeadlineExceeded, WorkerError
from actors.weights.sender import WeightSyncError
from rlcore.problems import UserError

WINDOW_S = 6 * 3600.0  # older failures do not count, because a run of weeks may lose some workers
REQUEST_ERRORS = (ValueError, TypeError, LookupError)  # caused by the request, on every worker
SHOWN = 400  # characters of an error in messages
_RAISED = re.compile(r"\b(?!Actor|Ray|Node)\w*(?:Error|Exception): .*")

Failure = BaseException | str


class WorkerFailed(UserError, RuntimeError):
    """A worker fails repeatedly, or a restart cannot help; the message contains the last failure."""


@dataclass
class RestartPolicy:
    """Limits restarts of the workers of one group. Thread-safe.

    No restart happens, and the run ends, if

    - the request caused the error (`REQUEST_ERRORS`): a new worker would raise it again;
    - a worker fails before its first answer, and another worker, or the same one before its restart, did so with the
    same error;
    - a worker failed more than `max_restarts` times within `WINDOW_S`, or could not be started within the deadline.

    Args:
        restart: starts new processes of these ranks and waits until they are ready.
        key: config key of `max_restarts`, for messages.
        expendable: workers beyond `max_restarts` are dropped (`lost`) as long as one is left.
    """

    group: ActorGroup[Any]
    restart: Callable[[Sequence[int]], None]
    max_restarts: int
    key: str
    message: Callable[[str], None]
    expendable: bool = False
    clock: Callable[[], float] = time.monotonic
    lost: set[int] = field(default_factory=set, init=False)
    _failed_at: dict[int, list[float]] = field(default_factory=dict, init=False)
    _starts: dict[int, int] = field(default_factory=dict, init=False)
    _served: set[int] = field(default_factory=set, init=False)  # workers that answered since their last start
    _first_errors: set[str] = field(default_factory=set, init=False)  # errors of workers without any answer
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def starts(self, rank: int) -> int:
        """Number of restarts of a worker: read it before a call, and pass it to `recover` if the call fails."""
        return self._starts.get(rank, 0)

    def served(self, rank: int) -> None:
        """Records that a worker answered a request. Never waits for a restart."""
        if rank not in self._served:
            self._served.add(rank)
            self._first_errors.clear()

    def paused(self) -> AbstractContextManager[object]:
        """Inside of the block this thread alone restarts workers. Waits for a restart under way."""
        return self._lock

    def refusal(self, error: WorkerError) -> WorkerFailed:
        """The error of a request that no worker can serve."""
        name = f"{self.group.name}[{error.rank}]"
        return WorkerFailed(f"{name} cannot serve its request in phase {error.phase}: {_summary(error)}")

    def recover(self, failures: Mapping[int, Failure], starts: Mapping[int, int] | None = None) -> None:
        """Restarts failed workers, and others that died.

        Args:
            failures: rank -> error.
            starts: rank -> `starts` before the failed call; workers restarted since are skipped.

        Raises:
            WorkerFailed: see the class docstring.
        """
        with self._lock:
            seen = self._starts if starts is None else starts
            todo: dict[int, Failure] = {r: e for r, e in failures.items() if seen.get(r, 0) == self.starts(r)}
            if not todo:
                return
            todo |= {rank: "found dead" for rank in self._dead() if rank not in todo}
            ranks: set[int] = set()
            while todo:
                for rank, error in todo.items():
                    self._count(rank, error, starting=bool(ranks))
                ranks = (ranks | set(todo)) - self.lost
                for rank in ranks:
                    self._starts[rank] = self.starts(rank) + 1
                    self._served.discard(rank)
                todo = self._restarted(sorted(ranks))

    def _restarted(self, ranks: Sequence[int]) -> dict[int, Failure]:
        """Restarts workers; returns new failures."""
        try:
            if ranks:
                self.restart(ranks)
        except ActorError as error:
            if isinstance(error.__cause__, WeightSyncError):
                return dict(error.__cause__.failed)
            if error.role != self.group.name:
                raise
            return {error.rank: error}
        return {}

    def _count(self, rank: int, error: Failure, starting: bool) -> None:
        name, summary = f"{self.group.name}[{rank}]", _summary(error)
        if isinstance(error, WorkerError) and isinstance(error.__cause__, REQUEST_ERRORS):
            raise self.refusal(error) from error
        if rank not in self._served and (same := _RAISED.search(summary)):
            key = re.sub(r"\d+", "0", same[0])
            if key in self._first_errors:
                raise WorkerFailed(
                    f"{name} failed before its first answer, with the same error as before: {summary}. Another "
                    "restart would not help"
                ) from (error if isinstance(error, BaseException) else None)
            self._first_errors.add(key)
        now = self.clock()
        recent = self._failed_at[rank] = [t for t in self._failed_at.get(rank, []) if now - t < WINDOW_S] + [now]
        count, hopeless = len(recent), starting and isinstance(error, DeadlineExceeded)
        if count <= self.max_restarts and not hopeless:
            self.message(f"{name} failed ({summary}): restart {count} of {self.max_restarts}")
            return
        why = "could not be started" if hopeless else f"failed {count} times in {WINDOW_S / 3600:g} hours ({self.key})"
        if self.expendable and len(self.group) - len(self.lost) > 1:
            self.lost.add(rank)
            self.message(f"{name} {why} and is dropped; {len(self.group) - len(self.lost)} remain. Last: {summary}")
            return
        raise WorkerFailed(f"{name} {why}; the last failure: {error}") from None

    def _dead(self) -> list[int]:
        return [info.rank for info in self.group.infos if info.state == "DEAD" and info.rank not in self.lost]


def _summary(error: Failure) -> str:
    """The error as one line."""
    if isinstance(error, WorkerError) and error.__cause__ is not None:
        text = f"{type(error.__cause__).__name__}: {error.__cause__}"
    else:
        text = str(error)
    return (text.strip().splitlines() or ["no reason given"])[0][:SHOWN]
