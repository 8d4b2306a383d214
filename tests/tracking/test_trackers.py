"""Fan-out, phases, timings, and the trackers of a config."""

from __future__ import annotations

import io
import threading
import time

import pytest

from rlcore.tracking.base import SilentTracker
from rlcore.tracking.config import TrackingConfig, WandbConfig, WandbMode
from rlcore.tracking.console import ConsoleTracker
from rlcore.tracking.files import JsonlTracker, SamplesTracker
from rlcore.tracking.trackers import Trackers, build_tracker, spread
from tests.tracking.cases import group, rows_of, steps_of


def test_phases_nest_repeat_and_reset():
    trackers = Trackers([])
    with trackers.phase("step"):
        for _ in range(2):
            with trackers.phase("gen", total=2) as advance:
                time.sleep(0.02)
                advance()
                advance(3)
    timings = trackers.take_timings()
    assert timings.keys() == {"timing_s/step", "timing_s/gen"}
    assert 0.04 <= timings["timing_s/gen"] <= timings["timing_s/step"] < 5
    assert trackers.take_timings() == {}


def test_phase_that_fails_is_timed_and_ended_everywhere():
    seen = []

    class Witness(SilentTracker):
        def phase(self, name, total=None):
            seen.append(("begin", name, total))
            return super().phase(name, total)

    trackers = Trackers([Witness()])
    with pytest.raises(KeyError), trackers.phase("gen", total=7):
        raise KeyError("x")
    assert seen == [("begin", "gen", 7)]
    assert "timing_s/gen" in trackers.take_timings()


def test_phases_of_threads_add_up():
    trackers = Trackers([ConsoleTracker(1, file=io.StringIO(), live=False)])

    def work():
        for _ in range(50):
            with trackers.phase("ref") as advance:
                advance()

    with trackers.phase("step"):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert trackers.take_timings().keys() == {"timing_s/ref", "timing_s/step"}


def test_log_takes_timings_along_and_derives_speed(tmp_path):
    trackers = Trackers([JsonlTracker(tmp_path)])
    with trackers.phase("step"):
        time.sleep(0.01)
    trackers.log(1, {"batch/tokens_generated": 100.0, "batch/samples_generated": 10.0})
    trackers.log(2, {"timing_s/step": 2.0, "batch/tokens_generated": 100.0, "perf/throughput": 7.0})
    trackers.log(3, {"batch/tokens_generated": 100.0})
    first, second, third = rows_of(tmp_path / "metrics.jsonl")
    assert first["perf/throughput"] == pytest.approx(100 / first["timing_s/step"])
    assert first["perf/completions_per_s"] == pytest.approx(10 / first["timing_s/step"])
    assert second["perf/throughput"] == 7.0, "what the loop says counts"
    assert "perf/throughput" not in third
    assert "timing_s/step" not in third


def test_close_reaches_every_tracker():
    closed = []

    class Bad(SilentTracker):
        def close(self, failed=False):
            closed.append(failed)
            raise OSError("disk")

    trackers = Trackers([Bad(), Bad()])
    with pytest.raises(OSError, match="disk"):
        trackers.close(failed=True)
    assert closed == [True, True]


def test_samples_are_spread_over_groups():
    groups = [group("a", 1, 0, 1), group("b", 0, 1), group("c", 1, 1, 1)]

    def ids(limit):
        return [t.sample_id for g in spread(groups, limit) for t in g.trajectories]

    assert ids(2) == ["a#1.0", "b#1.0"]
    assert ids(5) == ["a#1.0", "a#1.1", "b#1.0", "b#1.1", "c#1.0"]
    assert len(ids(None)) == len(ids(100)) == 8
    assert ids(0) == []


def test_build_takes_only_what_is_asked_for(tmp_path):
    off = WandbConfig(mode=WandbMode.disabled)
    trackers = build_tracker(TrackingConfig(console=False, wandb=off), tmp_path / "a", {}, 10, 0)
    assert [type(t) for t in trackers.trackers] == [JsonlTracker, SamplesTracker]
    trackers = build_tracker(TrackingConfig(wandb=off), tmp_path / "b", {}, 10, 0)
    assert [type(t) for t in trackers.trackers] == [JsonlTracker, SamplesTracker, ConsoleTracker]
    assert not list(tmp_path.rglob("wandb*"))


def test_new_run_in_an_old_folder_starts_from_nothing(tmp_path):
    """No checkpoint was written before the kill: even step 0 is logged again."""
    config = TrackingConfig(console=False, wandb=WandbConfig(mode=WandbMode.disabled))
    for _ in range(2):
        trackers = build_tracker(config, tmp_path, {}, 10, start_step=None)
        for step in range(3):
            trackers.log(step, {"x": 1})
        trackers.close()
    assert steps_of(tmp_path / "metrics.jsonl") == steps_of(tmp_path / "metrics.jsonl.bak-1") == [0, 1, 2]
