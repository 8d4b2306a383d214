"""Trackers: metrics.jsonl, samples.jsonl, the console, wandb, TensorBoard, and the one that fans out to them."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlcore.interfaces import Tracker
from rlcore.problems import UserError
from rlcore.redact import strip_secrets as strip_secrets
from rlcore.tracking_config import TrackingConfig, WandbConfig, WandbMode
from rlcore.tracking_console import ConsoleTracker as ConsoleTracker
from rlcore.types import Group

SAMPLE_COLUMNS = ("step", "prompt", "response", "reference", "score", "status")  # of the wandb table
_log = logging.getLogger(__name__)


class TrackingError(UserError, RuntimeError):
    """A tracker that was asked for cannot work here; the message says what to install or change."""


class SilentTracker:
    """Does nothing; the base of trackers that need only a part."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def log_samples(self, step: int, groups: Sequence[Group]) -> None: ...

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        yield lambda n=1: None

    def message(self, text: str) -> None: ...
    def close(self, failed: bool = False) -> None: ...


# ---- files


class _Lines:
    """A file of one strict-JSON object per line, in the order of `step`. A line cut short by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._started = False
        self._last_step = -math.inf
        self.truncate_after(math.inf)

    def append(self, step: int, rows: Sequence[Mapping[str, Any]], join: bool = False) -> None:
        """Rows of one step; what stands there of this step and later ones moves aside first.

        `join`: rows of this step that were appended since the file was opened stay.
        """
        if step < self._last_step or (step == self._last_step and not (join and self._started)):
            self.truncate_after(step - 1)
        self._last_step, self._started = step, True
        self._file.write("".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()

    def truncate_after(self, step: float) -> int:
        """Moves the rows of later steps to `<name>.bak-<n>`; returns how many."""
        kept: list[bytes] = []
        dropped: list[bytes] = []
        torn = False
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                later = json.loads(line)["step"] > step
                torn = torn or not line.endswith(b"\n")
            except (ValueError, TypeError, KeyError):
                torn = True
                continue
            (dropped if later else kept).append(line.rstrip(b"\n") + b"\n")
        if dropped or torn:
            if dropped:
                self._backup().write_bytes(b"".join(dropped))
            aside = self.path.with_name(self.path.name + ".partial")
            aside.write_bytes(b"".join(kept))
            os.replace(aside, self.path)
            self._file.close()
            self._file = self.path.open("a", encoding="utf-8")
        self._last_step = max((json.loads(line)["step"] for line in kept[-1:]), default=-math.inf)
        return len(dropped)

    def _backup(self) -> Path:
        n = 1
        while (path := self.path.with_name(f"{self.path.name}.bak-{n}")).exists():
            n += 1
        return path

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


class JsonlTracker(SilentTracker):
    """`metrics.jsonl`: `{"step": 3, "time": 1760000000.123, "reward/mean": 0.5, ...}`, one row per step; time in
    seconds since 1970, NaN and infinities as null. A step logged again replaces its row and all later ones, which move
    to `metrics.jsonl.bak-<n>`: however a run was resumed, no step stands there twice.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = _Lines(run_dir / "metrics.jsonl")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, "time": round(time.time(), 3)}
        self._lines.append(step, [row | {name: _number(value) for name, value in metrics.items()}])

    def truncate_after(self, step: float) -> int:
        """Drops the rows of steps after `step`, keeping them in `metrics.jsonl.bak-<n>`; returns how many."""
        return self._lines.truncate_after(step)

    def close(self, failed: bool = False) -> None:
        self._lines.close()


class SamplesTracker(SilentTracker):
    """`samples.jsonl`: every logged sample, with prompt, response, reference, score, status and the score's parts."""

    def __init__(self, run_dir: Path) -> None:
        self._lines = _Lines(run_dir / "samples.jsonl")

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        self._lines.append(step, sample_rows(step, groups), join=True)

    def truncate_after(self, step: float) -> int:
        return self._lines.truncate_after(step)

    def close(self, failed: bool = False) -> None:
        self._lines.close()


def sample_rows(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One JSON-able row per sample; score and status are null where nothing was scored."""
    rows = []
    for group in groups:
        for t in group.trajectories:
            row = {"step": step, "sample_id": t.sample_id, "prompt": group.prompt.text, "response": t.text}
            row |= {"reference": group.prompt.reference, "score": t.reward and _number(t.reward.score)}
            row |= {"status": t.reward and t.reward.status.value, "finish_reason": t.finish_reason}
            row["response_tokens"] = t.num_response_tokens
            row["parts"] = {name: _number(part) for name, part in t.reward.parts.items()} if t.reward else {}
            rows.append({k: _text(v) if isinstance(v, str) else v for k, v in row.items()})
    return rows


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return int(value)
    number = float(value)  # numpy and torch scalars too
    return number if math.isfinite(number) else None


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()  # byte-level tokenizers can give lone surrogates


# ---- services


class WandbTracker(SilentTracker):
    """Weights & Biases. Everything happens on a thread of its own, in order, so that training never waits for it.

    Offline runs need no account; `wandb sync` sends them later. The run's id lies in `wandb-id`, so a resumed run goes
    on under it. wandb's own step only ever grows, so charts run over the metric `step` instead. Any failure of wandb
    is reported once, and the run goes on without it.

    Args:
        run_config: with secrets stripped (`strip_secrets`).
    """

    def __init__(self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._run: Any = None
        self._broken = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()
        self._jobs.put(lambda: self._start(config, run_dir, run_config))

    def _start(self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        import wandb

        if config.mode is WandbMode.online and not wandb.api.api_key:  # wandb would ask for it and wait
            raise TrackingError("no API key: set WANDB_API_KEY, run `wandb login`, or use tracking.wandb.mode=offline")
        if "weave" not in sys.modules:  # else it advertises weave on the console wherever vLLM has imported openai
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        run_dir.mkdir(parents=True, exist_ok=True)
        id_file = run_dir / "wandb-id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        # neither the command line nor the repository's address go along: both may hold secrets
        settings = wandb.Settings(silent=True, console="off", x_disable_meta=True, disable_git=True, disable_code=True)
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            tags=list(config.tags) or None,
            dir=str(run_dir),
            id=id_file.read_text().strip(),
            name=run_dir.name,
            config=dict(run_config),
            mode=config.mode.value,
            resume="allow",
            settings=settings,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._broken:
                continue
            try:
                job()
            except (Exception, SystemExit) as error:
                self._broken = True
                _log.warning("wandb failed, the run goes on without it: %s: %s", type(error).__name__, error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self._jobs.put(lambda: self._run.log(row))

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        rows = [[row[name] for name in SAMPLE_COLUMNS] for row in sample_rows(step, groups)]

        def job() -> None:
            import wandb

            self._run.log({"step": step, "samples": wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)})

        self._jobs.put(job)

    def close(self, failed: bool = False, timeout_s: float = 60.0) -> None:
        """Sends what is left, waiting at most `timeout_s` seconds; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(lambda: self._run.finish(exit_code=int(failed)))
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("wandb did not finish in %.0f s; what it holds lies in the run folder", timeout_s)


class TensorboardTracker(SilentTracker):
    """TensorBoard event files in `<run_dir>/tensorboard`. Earlier points of steps >= `first_step` are hidden.

    Raises:
        TrackingError: the package tensorboard is not installed.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrackingError(
                "tracking.tensorboard=true needs the package tensorboard: pip install tensorboard, or set it to false"
            ) from error
        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool = False) -> None:
        self._writer.close()


# ---- all of them


class Trackers:
    """Fans out to `trackers` and owns the clock; implements `interfaces.Tracker`.

    Phases may nest, overlap over threads, and repeat: equal names add up until the next `log`, which takes them along
    as `timing_s/<name>` unless `take_timings` did before. `log` also derives, where the loop gave none,
    `perf/throughput` (generated tokens) and `perf/completions_per_s` (samples) per second of `timing_s/step`.
    """

    def __init__(self, trackers: Sequence[Tracker], num_samples: int | None = None) -> None:
        """`num_samples`: rows at most of one `log_samples`, spread over the groups; None: all."""
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
        """Closes every tracker, even when one of them fails; then raises the first failure."""
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
    """The trackers a config asks for. Files and TensorBoard always forget what lies after `start_step`.

    Args:
        start_step: completed steps of the checkpoint the run goes on from; None for a new run; earlier rows
            that the folder may hold are moved aside altogether.

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
