"""Console output: a live line for the current phase and one aligned row per step.

Without a terminal, or in CI, it prints one compact line per step without control codes.
"""

from __future__ import annotations

import json
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
_EVAL = re.compile(r"eval/.+/mean@\d+")


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    width: int
    names: tuple[str, ...]  # names of the metric; the first one present is shown
    show: Callable[[float], str]
    compact: str  # label without a terminal


def count(value: float) -> str:
    """Formats 12300 as 12.3k."""
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.1f}{unit}"
    return f"{value:.0f}"


COLUMNS = (
    Column("reward", 7, ("reward/mean",), "{:.3f}".format, "reward {}"),
    Column("eval", 8, (), "{:.1%}".format, "eval {}"),  # in rows of steps that were evaluated
    Column("length", 7, ("response_length/mean",), "{:.1f}".format, "len {}"),
    Column("loss", 9, ("actor/pg_loss", "actor/loss"), "{:.4f}".format, "loss {}"),
    Column("kl", 10, ("actor/kl_loss", "actor/kl", "actor/ppo_kl"), "{:.2g}".format, "kl {}"),
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
        total_steps: steps of the whole run.
        live: show live progress and a table; None: if `file` is a terminal and `CI` is not set.
    """

    def __init__(self, total_steps: int, file: IO[str] | None = None, live: bool | None = None) -> None:
        self.console = Console(file=file or sys.stdout, force_terminal=live, highlight=False, soft_wrap=True)
        in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        able = self.console.is_terminal and not self.console.is_dumb_terminal and not in_ci
        self.live = able if live is None else live
        self._total_steps, self._step, self._rows = total_steps, 0, 0
        self._durations: deque[float] = deque(maxlen=20)
        self._logged_at: float | None = None
        self._phases: list[Phase] = []
        self._spinner = Spinner("dots", style="cyan")
        # one Live for the whole run: starting one per phase is slow
        self._live = Live(get_renderable=self._progress, console=self.console, refresh_per_second=8, transient=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.perf_counter()
        if self._logged_at is not None:
            self._durations.append((now - self._logged_at) / max(1, step - self._step))
        self._logged_at, self._step = now, step
        cells = [self._cell(column, metrics) for column in COLUMNS]
        if all(cell == "-" for cell in cells):  # metrics of something other than a step, such as a stage
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
            style = "dim" if cell == "-" else "bold green" if column.title == "eval" else ""
            row.append(f"{cell:>{column.width}}", style=style)
        self._print(row)

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        """One line with the first sample, shortened to the width of the terminal; all samples go to files."""
        for group in groups[:1]:
            for sample in group.trajectories[:1]:
                score = "" if sample.reward is None else f"  reward {sample.reward.score:.3g}"
                room = max(40, self.console.width if self.live else 160) - len(score) - 16
                prompt, response = shorten(group.prompt.text, room // 2), shorten(sample.transcript, room // 2)
                self._print(Text(f"sample  {prompt} -> {response}{score}", style="dim"))

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
        """Ends the live line and restores the cursor; safe to call twice."""
        self._phases.clear()
        self._live.stop()

    @property
    def _step_width(self) -> int:
        return max(5, len(str(self._total_steps)) + 1)

    def _print(self, text: str | Text) -> None:
        with suppress(OSError, ValueError):  # the reader is gone (closed pipe); the run continues
            if self.live:
                self.console.print(Text(text) if isinstance(text, str) else text)
            else:  # rich would wrap the text and is slower
                self.console.file.write(f"{text}\n")
                self.console.file.flush()

    @staticmethod
    def _cell(column: Column, metrics: Mapping[str, float]) -> str:
        names = column.names or sorted(name for name in metrics if _EVAL.fullmatch(name))
        value = next((metrics[name] for name in names if name in metrics), None)
        return "-" if value is None else column.show(value)

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


def shorten(text: str, width: int) -> str:
    """In quotes, line breaks as \\n; a long text loses its beginning: its end is the question, or the answer."""
    text = json.dumps(text, ensure_ascii=False)
    return text if len(text) <= width else f'"...{text[4 - width :]}'


def clock(seconds: float) -> str:
    """Formats seconds as 1:02 or 3:00:07."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
