"""Supervised warm-up before RL, on the policy workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.interfaces import PromptSource, World
from rlcore.loops.config import WarmupConfig
from rlcore.loops.schedule import learning_rate
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
    loss, step = float("nan"), -1
    with world.tracker.phase("warmup", total=config.steps) as advance:
        for step in range(config.steps):
            stop.check()
            batch = make_batch(prompts.take(config.sequences_per_step))
            rate = learning_rate(config.learning_rate, step, config.steps)
            loss = M.values(world.policy.update(batch, rate, SupervisedObjective()))["sft/loss"]
            advance()
            if reached(config, step + 1, accuracy):
                break
    size = config.sequences_per_step
    world.tracker.message(f"warm-up: {step + 1} steps of {size} sequences, last loss {loss:.3f} nats per token")
    return loss


def reached(config: WarmupConfig, steps: int, accuracy: Callable[[], float] | None) -> bool:
    if accuracy is None or config.stop_at_accuracy is None or steps % config.check_every:
        return False
    return accuracy() >= config.stop_at_accuracy
