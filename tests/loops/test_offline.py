"""Training on records: epochs, schedule, checkpoints, and a run that was stopped or killed against one that was not."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore import metrics as M
from rlcore.loops import offline
from rlcore.loops.config import LearningRateConfig, OfflineTrainConfig, Schedule
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.storage.checkpoint import Checkpoints
from tests.fakes import FakeTracker

# ---- which rows, how many steps


@pytest.mark.parametrize(
    ("num_units", "per_step", "epochs", "wanted"),
    [
        (7, 3, 1.0, 3),  # 3 + 2 + 2
        (6, 3, 2.0, 4),
        (1, 64, 3.0, 3),
        (10, 1, 0.25, 3),  # 2.5 steps, rounded up
        (7, 3, 0.5, 2),
        (30, 3, 0.3, 3),  # 3.0000000000000004 in floats
        (100, 10, 0.1 + 0.2, 3),
        (7, 3, 1e-6, 1),
    ],
)
def test_steps_of_so_many_epochs(num_units, per_step, epochs, wanted):
    assert offline.total_steps(OfflineTrainConfig(epochs=epochs, per_step=per_step), num_units) == wanted


def test_steps_that_are_set_win_over_epochs():
    config = OfflineTrainConfig(epochs=2.0, steps=5, per_step=4)
    assert offline.total_steps(config, 100) == 5
    assert offline.steps_per_epoch(config, 100) == 25


def test_an_epoch_is_one_permutation_cut_into_nearly_equal_parts():
    """7 units, at most 3 a step: the seeded order of the epoch, cut behind 3 and behind 5."""
    config = OfflineTrainConfig(per_step=3)
    for epoch in range(3):
        order = np.random.default_rng([11, epoch]).permutation(7).tolist()
        parts = [offline.units_of(3 * epoch + part, config, 7, 11).tolist() for part in range(3)]
        assert parts == [order[:3], order[3:5], order[5:]]


@settings(max_examples=60, deadline=None)
@given(num_units=st.integers(1, 60), per_step=st.integers(1, 70), epoch=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_every_epoch_has_every_unit_once(num_units, per_step, epoch, seed):
    config = OfflineTrainConfig(per_step=per_step)
    count = offline.steps_per_epoch(config, num_units)
    parts = [offline.units_of(count * epoch + part, config, num_units, seed) for part in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_units))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) <= per_step
    assert max(sizes) - min(sizes) <= 1


def test_an_epoch_is_permuted_once(monkeypatch):
    offline._order.cache_clear()
    drawn, real = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed))
    for step in range(10):
        offline.units_of(step, OfflineTrainConfig(per_step=4), 20, 3)
    assert drawn == [[3, 0], [3, 1]]


def test_orders_differ_by_epoch_and_by_seed():
    config = OfflineTrainConfig(per_step=64)
    orders = {tuple(offline.units_of(epoch, config, 40, seed)) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25


# ---- the loop


class Progress(FakeTracker):
    """Notes what the phase was told."""

    def __init__(self):
        super().__init__()
        self.totals, self.advanced = [], []

    @contextmanager
    def phase(self, name, total=None):
        self.phases.append(name)
        self.totals.append(total)
        yield lambda n=1: self.advanced.append(n)


class Kept:
    """Checkpoints without the care for power cuts; what is kept is what JSON keeps."""

    def __init__(self, folder):
        self.folder, self.newest = folder, None

    def save(self, step, state, write):
        write(self.folder / str(step))
        self.newest = (self.folder / str(step), json.dumps(state))

    def load_latest(self):
        return self.newest and (self.newest[0], json.loads(self.newest[1]))


class Scene:
    """One number fitted to the mean of the rows' numbers, 1/2 (w - mean)^2 with momentum, and all that was done."""

    def __init__(self, folder, **config):
        self.config = OfflineTrainConfig(**{"epochs": 3, "per_step": 3, "checkpoint_every": 2} | config)
        self.data = np.random.default_rng(1).normal(size=8)
        self.folder, self.checkpoints = folder, Kept(folder)
        self.w = self.momentum = 0.0
        self.seen, self.epochs, self.saves, self.asked = [], [], [], []
        self.tracker, self.progress = FakeTracker(), Progress()
        self.stop = StopSignal(notify=lambda text: None)
        self.before_update = lambda step: None
        self.enough = None

    def update(self, units, rate):
        self.before_update(len(self.seen))
        gradient = self.w - self.data[units].mean()
        self.momentum = 0.5 * self.momentum + gradient
        self.w -= rate * self.momentum
        self.seen.append((units.tolist(), rate))
        return {"loss": M.Mean(float(gradient**2) * len(units), len(units)), "w": M.Last(self.w)}

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps([self.w, self.momentum]))
        self.saves.append(len(self.seen))

    def read(self, folder):
        self.w, self.momentum = json.loads((folder / "model.json").read_text())

    def run(self, **changes):
        run = offline.OfflineRun(
            name="fit", num_units=len(self.data), update=self.update, config=self.config,
            write=self.write, read=self.read, checkpoints=self.checkpoints, tracker=self.tracker,
            progress=self.progress, stop=self.stop, seed=5, enough=self.enough, after_epoch=self.epochs.append,
        )  # fmt: skip
        return offline.train(replace(run, **changes))

    def again(self):
        """The next start of the same run, in a process of its own."""
        other = Scene(self.folder)
        other.config, other.enough, other.tracker = self.config, self.enough, self.tracker
        other.checkpoints = self.checkpoints
        return other

    def press(self):
        """Ctrl-C."""
        self.stop._handle(signal.SIGINT, None)


def test_against_a_loop_written_out(tmp_path):
    """Three epochs of 8 rows in steps of at most 3, linear decay: the same rows, rates and weights."""
    rate = LearningRateConfig(peak=0.5, schedule=Schedule.linear, warmup_steps=2, final_share=0.2)
    scene = Scene(tmp_path, learning_rate=rate)
    last = scene.run()
    w = momentum = 0.0
    rates = [0.25, 0.5] + [0.5 * (0.2 + 0.8 * (1 - i / 6)) for i in range(7)]
    seen = []
    for step in range(9):
        order = list(np.random.default_rng([5, step // 3]).permutation(8))
        rows = [int(r) for r in (order[:3], order[3:6], order[6:])[step % 3]]
        gradient = w - sum(scene.data[r] for r in rows) / len(rows)
        momentum = 0.5 * momentum + gradient
        w -= rates[step] * momentum
        seen.append((rows, pytest.approx(rates[step])))
        assert scene.tracker.rows[step + 1] == {"loss": pytest.approx(gradient**2), "w": pytest.approx(w)}
    assert scene.seen == seen
    assert last == {"loss": pytest.approx(gradient**2), "w": pytest.approx(w), "steps": 9.0}
    assert sorted(scene.tracker.rows) == list(range(1, 10))
    assert (scene.progress.phases, scene.progress.totals, sum(scene.progress.advanced)) == (["fit"], [9], 9)


@pytest.mark.parametrize(("every", "wanted"), [(2, [2, 4, 6, 8]), (3, [3, 6]), (9, []), (0, []), (100, [])])
def test_checkpoints_on_schedule_none_at_the_end(tmp_path, every, wanted):
    """The end is the exported model's; a checkpoint there would be written for nobody."""
    scene = Scene(tmp_path, checkpoint_every=every)
    scene.run()
    assert scene.saves == wanted


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("every", [0, 2])
def test_stopped_at_any_step_it_ends_as_if_it_had_not_been(tmp_path, at, every):
    whole = Scene(tmp_path / "whole", checkpoint_every=every)
    wanted = whole.run()
    scene = Scene(tmp_path / "stopped", checkpoint_every=every)
    scene.before_update = lambda step: scene.press() if step == at else None
    if at == 8:  # in the last step: there is nothing left to stop before
        assert scene.run() == wanted
        return
    with pytest.raises(Interrupted, match="SIGINT"):
        scene.run()
    assert len(scene.seen) == at + 1  # the step that was running is completed, and saved
    assert scene.saves.count(at + 1) == 1  # on schedule or not: once
    after = scene.again()
    assert after.run() == wanted
    assert scene.seen + after.seen == whole.seen
    assert scene.tracker.rows == whole.tracker.rows
    assert after.progress.messages == [f"fit: resuming at step {at + 1}"]
    assert (after.progress.advanced[0], sum(after.progress.advanced)) == (at + 1, 9)


def test_with_checkpoints_on_disk(tmp_path):
    scene = Scene(tmp_path / "stopped")
    scene.checkpoints = Checkpoints(tmp_path / "stopped", keep=1)
    scene.before_update = lambda step: scene.press() if step == 4 else None
    with pytest.raises(Interrupted):
        scene.run()
    after = scene.again()
    after.checkpoints = Checkpoints(tmp_path / "stopped", keep=1)
    assert after.run() == Scene(tmp_path / "whole").run()
    assert len(after.seen) == 4


def test_stopped_before_the_first_step_nothing_is_written(tmp_path):
    scene = Scene(tmp_path)
    scene.press()
    with pytest.raises(Interrupted):
        scene.run()
    assert not scene.seen
    assert not scene.saves
    assert scene.again().run() == Scene(tmp_path / "whole").run()


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8])
def test_an_error_repeats_the_steps_behind_the_newest_checkpoint(tmp_path, at):
    whole = Scene(tmp_path / "whole")
    wanted = whole.run()
    scene = Scene(tmp_path / "failed")

    def fail(step):
        if step == at:
            raise RuntimeError("no memory")

    scene.before_update = fail
    with pytest.raises(RuntimeError, match="no memory"):
        scene.run()
    kept = at // 2 * 2
    assert scene.saves == list(range(2, kept + 1, 2))  # none of a state that an error may have spoilt
    after = scene.again()
    assert after.run() == wanted
    assert after.seen == whole.seen[kept:]


def test_a_run_that_was_stopped_behind_its_last_step_tells_its_figures(tmp_path):
    """Ctrl-C in the last look at whether it is enough: the next start has no step to do."""
    scene = Scene(tmp_path, steps=4, checkpoint_every=0)

    def enough(step):
        scene.asked.append(step)
        if step == 4 and not scene.stop.requested:
            scene.press()
            scene.stop.check()
        return False

    scene.enough = enough
    with pytest.raises(Interrupted):
        scene.run()
    assert scene.saves == [4]
    after = scene.again()
    assert after.run() == scene.tracker.rows[4] | {"steps": 4.0}
    assert not after.seen
    assert scene.asked == [1, 2, 3, 4, 4]


def test_enough_ends_it_early_and_is_asked_first_after_a_resume(tmp_path):
    scene = Scene(tmp_path, checkpoint_every=1)
    scene.enough = lambda step: scene.asked.append(step) or step >= 4
    assert scene.run()["steps"] == 4
    assert scene.asked == [1, 2, 3, 4]  # never before the first step
    after = scene.again()
    after.run()
    assert not after.seen
    assert scene.asked == [1, 2, 3, 4, 4]


def test_behind_every_epoch_but_the_last(tmp_path):
    scene = Scene(tmp_path)
    scene.run()
    assert scene.epochs == [1, 2]


@pytest.mark.parametrize(
    ("at", "before", "after"), [(1, [], [1, 2]), (2, [], [1, 2]), (3, [1], [1, 2]), (6, [1, 2], [2])]
)
def test_behind_an_epoch_again_after_a_resume(tmp_path, at, before, after):
    """Stopped in step `at` (0-based) of 3 a epoch: whoever is called keeps by itself what it has done."""
    scene = Scene(tmp_path, checkpoint_every=0)
    scene.before_update = lambda step: scene.press() if step == at else None
    with pytest.raises(Interrupted):
        scene.run()
    assert scene.epochs == before
    second = scene.again()
    second.run()
    assert second.epochs == after


def test_nothing_to_train_on_is_said_before_anything_is_read(tmp_path):
    scene = Scene(tmp_path)
    with pytest.raises(
        offline.NothingToTrainOn, match="fit: there is no data to train on; `rlcore rounds status` shows"
    ):
        scene.run(num_units=0)
    assert not scene.progress.phases
