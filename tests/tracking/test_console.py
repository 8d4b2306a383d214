"""The console, plain and live."""

from __future__ import annotations

import io
import re

import pytest

from rlcore.tracking.console import COLUMNS, ConsoleTracker, clock, count
from tests.tracking.cases import METRICS, Terminal, group


def test_plain_console_has_one_line_per_step_and_no_control_codes(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    tracker = ConsoleTracker(total_steps=30, file=out, live=False)
    for step in range(30):
        with tracker.phase("gen", total=3) as advance:
            advance()
        tracker.log(step, METRICS if step == 0 else {"reward/mean": step / 30})
    tracker.message("resumed at step 3 [bold]")
    tracker.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 31
    assert lines[0] == (
        "step 0/30  reward 0.250  eval 50.0%  len 4.2  loss -0.0123  mismatch 1.5e-06  gnorm 0.3  12.3k tok/s  1.75 s"
    )
    assert lines[2] == "step 2/30  reward 0.067", "no evaluation in this step"
    assert lines[30] == "resumed at step 3 [bold]"
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


@pytest.mark.parametrize(
    ("stream", "environment", "live"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"CI": "true"}, False),
        (Terminal(), {"CI": "false"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_when_the_console_moves(monkeypatch, stream, environment, live):
    for name in ("CI", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ConsoleTracker(1, file=stream).live is live


def visible(text: str) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text)]


def test_live_console(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    tracker = ConsoleTracker(total_steps=100, file=out, live=True)
    for step in range(1, 43):
        with tracker.phase("step"), tracker.phase("gen", total=64) as advance:
            advance(34)
            if step in (1, 42):
                tracker._live.refresh()  # otherwise a thread does, eight times a second
        tracker.log(step, METRICS)
    tracker.message("saved [bold]")
    tracker.close()
    tracker.close()
    lines = visible(out.getvalue())
    header = [line for line in lines if "grad norm" in line]
    assert len(header) == 3, "before rows 1, 21 and 41"
    shown = [line for line in lines if re.match(r"\s+\d+\s+0\.250", line)]
    assert len(shown) == 42
    for column in COLUMNS:
        end = header[0].index(column.title) + len(column.title)
        assert shown[0][end - 1] != " ", f"{column.title} ends where its numbers end"
        assert end == len(header[0]) or shown[0][end] == " "
    assert len(header[0]) <= 82
    assert any("gen" in line and "34/64" in line and "0:00" in line for line in lines)
    assert any(re.search(r"step 41/100, about 0:0\d left", line) for line in lines)
    assert any(line.startswith("saved [bold]") for line in lines)
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1, "the cursor is back"


def test_columns_never_touch():
    worst = {"reward/mean": -0.123, "eval/heldout/mean@1": 1.0, "response_length/mean": 4096.5,
             "actor/pg_loss": -12.3456, "actor/kl": -0.00049, "rollout/logprob_diff_max": 1.5e-05,
             "actor/grad_norm": 1.23e-05, "perf/throughput": 123456.0, "timing_s/step": 1234.56}  # fmt: skip
    cells = [ConsoleTracker._cell(column, worst) for column in COLUMNS]
    assert "-" not in cells
    assert [cell for cell, column in zip(cells, COLUMNS, strict=True) if len(cell) >= column.width] == []


def test_a_sample_is_one_line():
    out = io.StringIO()
    tracker = ConsoleTracker(total_steps=1, file=out, live=False)
    tracker.log_samples(1, [group("p", 0.5, text="line\n" + "2" * 500)])
    (line,) = out.getvalue().splitlines()
    assert line.startswith('sample  "1+2=" -> "...222')
    assert line.endswith('222"  reward 0.5')
    assert len(line) < 160


def test_numbers_for_people():
    assert [count(n) for n in (0, 999, 9999, 12_345, 2_500_000)] == ["0", "999", "9999", "12.3k", "2.5M"]
    assert [clock(s) for s in (0.4, 61, 3725)] == ["0:00", "1:01", "1:02:05"]
