"""Evaluates a model on held-out prompts: accuracy, and optionally the mean score of a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlcore.data import tables
from rlcore.data.batching.collate import collate_groups
from rlcore.loops.evaluate import accuracy, by_set, evaluate
from rlcore.problems import bounded
from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.types import Group


@dataclass
class EvaluateConfig(StageConfig):
    model: str = "start"
    prompts: str = "heldout"
    num_samples: int = bounded(1, ge=1)
    temperature: float = bounded(0.0, ge=0)
    max_prompts: int | None = bounded(None, ge=1)
    part: str = ""  # part of the reward that is the accuracy; empty: the score
    reward_model: str | None = None  # also reports its mean reward; required if the reward uses a reward model

    KIND: ClassVar = "evaluate"
    PRODUCES: ClassVar = Made.report
    CONSUMES: ClassVar = {"model": (Made.model,), "prompts": (Made.prompts,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model.dtype", "model.float32_head", "rollout", "reward")
    SEEDED: ClassVar = False

    def asks_reward(self) -> bool:
        return True


def run(context: StageContext) -> Artefact:
    """Reports `accuracy`, the mean score or the mean of `part`, and `mean_reward` of the reward model."""
    config: EvaluateConfig = context.config
    live, world = context.live, context.live.world
    table, dropped = context.prompts("prompts")
    prompts = tables.to_prompts(table)
    sets = by_set(prompts, config.max_prompts)
    if (reward_model := context.maybe("reward_model")) is not None:
        live.load_reward_model(reward_model)
    live.publish(context.one("model"))
    sampling = context.sampling(config.num_samples, context.seed, temperature=config.temperature)
    with live.stop.abandonable():
        metrics, groups = evaluate(world, prompts, sampling, live.reward, config.max_prompts)
    world.tracker.log_samples(context.node.round, groups)
    score = accuracy(metrics, config.num_samples)
    report = {"accuracy": score, "prompts": sum(map(len, sets.values())), **dropped, **metrics}
    if config.part:
        report["accuracy"] = mean_part(groups, config.part)
    if reward_model is not None and world.reward_model is not None:
        rows = collate_groups(groups)
        report["mean_reward"] = float(world.reward_model.rewards(rows).mean())
    return context.draft.finish_report(report)


def mean_part(groups: Sequence[Group], part: str) -> float:
    """Mean of a part over all samples; unscored samples count as 0, as in the mean score.

    Raises:
        ValueError: no sample has this part.
    """
    rewards = [t.reward for group in groups for t in group.trajectories]
    known = {name for reward in rewards if reward is not None for name in reward.parts}
    if part not in known:
        raise ValueError(f"no reward has a part {part!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return sum(r.parts.get(part, 0.0) for r in rewards if r is not None and r.ok) / len(rewards)
