"""Supervised warm-up before RL, on the policy workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.interfaces import PromptSource, World
from rlcore.loops.config import OfflineTrainConfig, WarmupConfig
from rlcore.loops.offline import OfflineRun, Units, train
from rlcore.loops.stop import StopSignal
from rlcore.types import Prompt, TrainBatch


def warm_up(
    world: World,
    prompts: PromptSource,
    make_batch: Callable[[Sequence[Prompt]], TrainBatch],
    config: WarmupConfig,
    stop: StopSignal,
    accuracy: Callable[[], float] | None = None,
) -> float:
    """Trains on the answers of the data for `config.steps` steps; returns the loss of the last step (nats per token).

    With `config.stop_at_accuracy` it ends when `accuracy()`, sampled on held-out prompts, reaches it: RL needs a start
    model that is sometimes right, and the necessary steps vary with the seed.

    Raises:
        Interrupted: between two steps; the warm-up starts over on resume.
    """
    size, wanted = config.sequences_per_step, config.stop_at_accuracy

    def update(_: Units, rate: float) -> M.Metrics:
        return world.policy.update(make_batch(prompts.take(size)), rate, SupervisedObjective())

    def enough(step: int) -> bool:
        return accuracy is not None and wanted is not None and step % config.check_every == 0 and accuracy() >= wanted

    settings = OfflineTrainConfig(steps=config.steps, per_step=size, learning_rate=config.learning_rate)
    last = train(OfflineRun("warmup", size, update, settings, world.tracker, stop, enough=enough))
    loss, steps = last["sft/loss"], last["steps"]
    world.tracker.message(f"warm-up: {steps:g} steps of {size} sequences, last loss {loss:.3f} nats per token")
    return loss
