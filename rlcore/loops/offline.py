"""Offline training on records, for SFT, preferences and reward models: seeded epochs, checkpoints, exact resume."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlcore import metrics as M
from rlcore.interfaces import CheckpointStore, Tracker
from rlcore.loops.config import OfflineTrainConfig
from rlcore.loops.schedule import learning_rate
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.problems import UserError
from rlcore.storage.durable import FileSums

Units = NDArray[np.int64]


class NothingToTrainOn(UserError, ValueError):
    """A stage has no records, because earlier stages kept or made none. `why`: the stage that dropped them, if known.
    """

    def __init__(self, name: str, why: str = "") -> None:
        cure = why or "`rlcore rounds status` shows which stage before it dropped what"
        super().__init__(f"{name}: there is no data to train on; {cure}")


@dataclass(frozen=True)
class OfflineRun:
    """The constants of a run. A unit is a sequence or a pair."""

    name: str  # progress label
    num_units: int
    update: Callable[[Units, float], M.Metrics]  # runs an optimizer step on these units with a learning rate
    config: OfflineTrainConfig
    progress: Tracker  # of the run: phases
    stop: StopSignal
    checkpoints: CheckpointStore | None = None  # None: an interrupted run starts over
    write: Callable[[Path], FileSums | None] = lambda folder: None  # writes model and optimizer into a checkpoint
    read: Callable[[Path], None] = lambda folder: None
    tracker: Tracker | None = None  # of the stage: one row per step
    seed: int = 0
    enough: Callable[[int], bool] | None = None  # called after every step with the number of steps; True stops the run
    after_epoch: Callable[[int], None] | None = None  # called with the number of finished epochs, also after a resume


def steps_per_epoch(config: OfflineTrainConfig, num_units: int) -> int:
    return -(-num_units // config.per_step)


def total_steps(config: OfflineTrainConfig, num_units: int) -> int:
    """Steps of a run: `steps`, or the number for `epochs`, rounded up."""
    if config.steps is not None:
        return config.steps
    return math.ceil(config.epochs * steps_per_epoch(config, num_units) - 1e-9)


def units_of(step: int, config: OfflineTrainConfig, num_units: int, seed: int) -> Units:
    """Rows of one optimizer step: every epoch a new permutation, cut into nearly equal parts."""
    per_epoch = steps_per_epoch(config, num_units)
    epoch, part = divmod(step, per_epoch)
    return np.array_split(_order(epoch, num_units, seed), per_epoch)[part]


@functools.lru_cache(maxsize=1)
def _order(epoch: int, num_units: int, seed: int) -> Units:
    order = np.random.default_rng([seed, epoch]).permutation(num_units)
    order.flags.writeable = False  # equal for all steps of the epoch
    return order


def train(run: OfflineRun) -> dict[str, float]:
    """Runs to the end, from the latest checkpoint if any; returns the metrics of the last step and `steps`.

    Raises:
        Interrupted: a checkpoint of the last completed step has been written.
        NothingToTrainOn: no units.
    """
    config, step, done = run.config, 0, 0
    if run.num_units < 1:
        raise NothingToTrainOn(run.name)
    last: dict[str, float] = {}
    if run.checkpoints is not None and (found := run.checkpoints.load_latest()) is not None:
        directory, state = found
        run.read(directory)
        step, last = int(state["step"]), dict(state["last"])
        run.progress.message(f"{run.name}: resuming at step {step}")
    steps, saved = total_steps(config, run.num_units), step
    with run.progress.phase(run.name, total=steps) as advance:
        advance(step)
        try:
            over = step > 0 and run.enough is not None and run.enough(step)  # a signal may have arrived during the call
            while step < steps and not over:
                run.stop.check()
                epoch = step // steps_per_epoch(config, run.num_units)
                if run.after_epoch is not None and epoch > done:
                    run.after_epoch(epoch)
                done = epoch
                last = one_step(run, step, steps)
                step += 1
                advance()
                over = run.enough is not None and run.enough(step)
                if config.checkpoint_every and step % config.checkpoint_every == 0 and step < steps:
                    saved = save(run, step, last)
        except Interrupted:
            if saved != step:
                save(run, step, last)
            raise
    return last | {"steps": float(step)}


def one_step(run: OfflineRun, step: int, steps: int) -> dict[str, float]:
    units = units_of(step, run.config, run.num_units, run.seed)
    metrics = M.values(run.update(units, learning_rate(run.config.learning_rate, step, steps)))
    if run.tracker is not None:
        run.tracker.log(step + 1, metrics)
    return metrics


def save(run: OfflineRun, step: int, last: dict[str, float]) -> int:
    if run.checkpoints is not None:
        run.checkpoints.save(step, {"step": step, "last": last}, run.write)
    return step
