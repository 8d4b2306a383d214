"""Base class and errors of trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rlcore.problems import UserError
from rlcore.types import Group


class TrackingError(UserError, RuntimeError):
    """A configured tracker cannot work; the message says what to install or change."""


class SilentTracker:
    """A tracker that does nothing; base class of trackers with few methods."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def log_samples(self, step: int, groups: Sequence[Group]) -> None: ...

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        yield lambda n=1: None

    def message(self, text: str) -> None: ...
    def close(self, failed: bool = False) -> None: ...
