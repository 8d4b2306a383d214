"""The console: a moving line for the phase under way, one aligned row per step.

Without a terminal, or in CI, one compact line per step and no control codes.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rlcore.types import Group

HEADER_EVERY = 20  # rows
_ACCURACY = re.compile(r"eval/.+/mean@\d+")


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    width: int
    names: tuple[str, ...]  # of the metric; the first one present counts
    show: Callable[[float], str]
    compact: str  # in the line without a terminal


def count(value: float) -> str:
    """12300 as 12.3k."""
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.1f}{unit}"
    return f"{value:.0f}"


COLUMNS = (
    Column("reward", 7, ("reward/mean",), "{:.3f}".format, "reward {}"),
    Column("accuracy", 9, (), "{:.1%}".format, "acc {}"),  # the newest evaluation
    Column("length", 7, ("response_length/mean",), "{:.1f}".format, "len {}"),
    Column("loss", 8, ("actor/pg_loss", "actor/loss"), "{:.4f}".format, "loss {}"),
    Column("kl", 8, ("actor/kl_loss", "actor/kl", "actor/ppo_kl"), "{:.2g}".format, "kl {}"),
    Column("mismatch", 9, ("rollout/logprob_diff_max",), "{:.2g}".format, "mismatch {}"),
    Column("grad norm", 10, ("actor/grad_norm",), "{:.3g}".format, "gnorm {}"),
    Column("tokens/s", 9, ("perf/throughput",), count, "{} tok/s"),
    Column("seconds", 8, ("timing_s/step",), "{:.2f}".format, "{} s"),
)


@dataclass(slots=True)
class Phase:
    name: str
    total: int | None
    done: int = 0
    started: float = field(default_factory=time.perf_counter)


class ConsoleTracker:
    """Prints to `file` (standard output by default); implements `interfaces.Tracker`.

    Args:
        total_steps: of the whole run.
        live: moving progress and table; None: when `file` is a terminal and `CI` is not set.
    """

    def __init__(self, total_steps: int, file: IO[str] | None = None, live: bool | None = None) -> None:
        self.console = Console(file=file or sys.stdout, force_terminal=live, highlight=False, soft_wrap=True)
        in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        able = self.console.is_terminal and not self.console.is_dumb_terminal and not in_ci
        self.live = able if live is None else live
        self._total_steps, self._step, self._rows = total_steps, 0, 0
        self._accuracy = math.nan
        self._durations: deque[float] = deque(maxlen=20)
        self._logged_at: float | None = None
        self._phases: list[Phase] = []
        self._spinner = Spinner("dots", style="cyan")
        # one Live for the whole run: starting one per phase would cost more than the phase's own bookkeeping
        self._live = Live(get_renderable=self._progress, console=self.console, refresh_per_second=8, transient=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.perf_counter()
        if self._logged_at is not None:
            self._durations.append((now - self._logged_at) / max(1, step - self._step))
        self._logged_at, self._step = now, step
        evaluated = [metrics[name] for name in sorted(metrics) if _ACCURACY.fullmatch(name)]
        self._accuracy = evaluated[0] if evaluated else self._accuracy
        cells = [self._cell(column, metrics) for column in COLUMNS]
        if all(cell == "-" for cell in cells):  # a row of other metrics than a step's, such as a stage's
            return
        if not self.live:
            parts = [column.compact.format(cell) for column, cell in zip(COLUMNS, cells, strict=True) if cell != "-"]
            self._print(f"step {step}/{self._total_steps}  " + "  ".join(parts))
            return
        if self._rows % HEADER_EVERY == 0:
            titles = "".join(f"{column.title:>{column.width}}" for column in COLUMNS)
            self._print(Text(f"{'step':>{self._step_width}}{titles}", style="bold"))
        self._rows += 1
        row = Text(f"{step:>{self._step_width}}")
        for column, cell in zip(COLUMNS, cells, strict=True):
            fresh = column.title == "accuracy" and evaluated
            row.append(f"{cell:>{column.width}}", style="bold green" if fresh else "dim" if cell == "-" else "")
        self._print(row)

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        """Samples go to files and to wandb, not to the console."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        phase = Phase(name, total)
        self._phases.append(phase)
        if self.live and not self._live.is_started:
            self._live.start()

        def advance(n: int = 1) -> None:
            phase.done += n

        try:
            yield advance
        finally:
            self._phases.remove(phase)

    def message(self, text: str) -> None:
        self._print(text)

    def close(self, failed: bool = False) -> None:
        """Ends the moving line and shows the cursor again; safe to call twice."""
        self._phases.clear()
        self._live.stop()

    @property
    def _step_width(self) -> int:
        return max(5, len(str(self._total_steps)) + 1)

    def _print(self, text: str | Text) -> None:
        with suppress(OSError, ValueError):  # nobody reads any more: no reason to lose the run
            if self.live:
                self.console.print(Text(text) if isinstance(text, str) else text)
            else:  # rich would wrap and cost more
                self.console.file.write(f"{text}\n")
                self.console.file.flush()

    def _cell(self, column: Column, metrics: Mapping[str, float]) -> str:
        held = (metrics[name] for name in column.names if name in metrics)
        value = self._accuracy if column.title == "accuracy" else next(held, None)
        if value is None or (column.title == "accuracy" and math.isnan(value)):
            return "-"
        return column.show(value)

    def _progress(self) -> RenderableType:
        phases = list(self._phases)
        if not phases:
            return Text("")
        phase = phases[-1]
        elapsed = time.perf_counter() - phase.started
        line = Table.grid(padding=(0, 1))
        name = Text(f"{phase.name:<15}", style="cyan")
        line.add_row(self._spinner, name, *self._bar(phase), Text(clock(elapsed)), self._eta())
        return line

    @staticmethod
    def _bar(phase: Phase) -> list[RenderableType]:
        if not phase.total:
            return [Text(str(phase.done) if phase.done else "")]
        return [ProgressBar(total=phase.total, completed=phase.done, width=24), Text(f"{phase.done}/{phase.total}")]

    def _eta(self) -> Text:
        done = f"step {self._step}/{self._total_steps}"
        if self._durations and self._step < self._total_steps:
            left = sum(self._durations) / len(self._durations) * (self._total_steps - self._step)
            done += f", about {clock(left)} left"
        return Text(done, style="dim")


def clock(seconds: float) -> str:
    """Seconds as 1:02 or 3:00:07."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
