"""The tracker of a run: all configured trackers, and the clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlcore.interfaces import Tracker
from rlcore.redact import strip_secrets
from rlcore.tracking.config import TrackingConfig, WandbMode
from rlcore.tracking.console import ConsoleTracker
from rlcore.tracking.files import JsonlTracker, SamplesTracker
from rlcore.tracking.tensorboard import TensorboardTracker
from rlcore.tracking.wandb import WandbTracker
from rlcore.types import Group


class Trackers:
    """Fans out to `trackers` and owns the clock; implements `interfaces.Tracker`.

    Phases may nest, overlap over threads, and repeat: equal names add up until the next `log`, which logs them as
    `timing_s/<name>` unless `take_timings` was called. If the loop did not, `log` also adds `perf/throughput`
    (generated tokens) and `perf/completions_per_s` (samples) per second of `timing_s/step`.
    """

    def __init__(self, trackers: Sequence[Tracker], num_samples: int | None = None) -> None:
        """`num_samples`: maximum rows per `log_samples`, spread over the groups; None: all."""
        self.trackers = list(trackers)
        self._num_samples = num_samples
        self._timings: dict[str, float] = {}
        self._lock = threading.Lock()

    def take_timings(self) -> dict[str, float]:
        """Wall seconds per phase since the last call, as `{"timing_s/gen": 1.5}`; resets them."""
        with self._lock:
            timings, self._timings = self._timings, {}
        return {f"timing_s/{name}": seconds for name, seconds in timings.items()}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {**self.take_timings(), **metrics}
        if seconds := row.get("timing_s/step"):
            for name, amount in (("throughput", "tokens_generated"), ("completions_per_s", "samples_generated")):
                if f"batch/{amount}" in row:
                    row.setdefault(f"perf/{name}", row[f"batch/{amount}"] / seconds)
        for tracker in self.trackers:
            tracker.log(step, row)

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        chosen = spread(groups, self._num_samples)
        for tracker in self.trackers:
            tracker.log_samples(step, chosen)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        started = time.perf_counter()
        try:
            with ExitStack() as stack:
                advances = [stack.enter_context(tracker.phase(name, total)) for tracker in self.trackers]

                def advance(n: int = 1) -> None:
                    for each in advances:
                        each(n)

                yield advance
        finally:
            with self._lock:
                self._timings[name] = self._timings.get(name, 0.0) + time.perf_counter() - started

    def message(self, text: str) -> None:
        for tracker in self.trackers:
            tracker.message(text)

    def close(self, failed: bool = False) -> None:
        """Closes every tracker, even if one fails; then raises the first failure."""
        with ExitStack() as stack:
            for tracker in reversed(self.trackers):
                stack.callback(tracker.close, failed)


def spread(groups: Sequence[Group], limit: int | None) -> list[Group]:
    """At most `limit` samples: the first of every group, then the second of every group, and so on."""
    if limit is None:
        return list(groups)
    order = [(k, i) for i, group in enumerate(groups) for k in range(len(group.trajectories))]
    chosen = sorted((i, k) for k, i in sorted(order)[: max(0, limit)])
    by_group: dict[int, list[int]] = {}
    for i, k in chosen:
        by_group.setdefault(i, []).append(k)
    return [Group(groups[i].prompt, [groups[i].trajectories[k] for k in ks]) for i, ks in by_group.items()]


def build_tracker(
    config: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], total_steps: int, start_step: int | None
) -> Trackers:
    """Opens the configured trackers. Files and TensorBoard drop rows after `start_step`.

    Args:
        start_step: completed steps of the checkpoint that the run resumes from; None for a new run, which moves all
            existing rows aside.

    Raises:
        TrackingError: a package that the config needs is missing.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics, samples = JsonlTracker(run_dir), SamplesTracker(run_dir)
    for files in (metrics, samples):
        files.truncate_after(-math.inf if start_step is None else start_step)
    trackers: list[Tracker] = [metrics, samples]
    if config.tensorboard:
        trackers.append(TensorboardTracker(run_dir, 0 if start_step is None else start_step + 1))
    if config.wandb.mode is not WandbMode.disabled:
        trackers.append(WandbTracker(config.wandb, run_dir, strip_secrets(run_config)))
    if config.console:
        trackers.append(ConsoleTracker(total_steps))
    return Trackers(trackers, config.num_samples)
