"""Supervised fine-tuning on the policy workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.data import tables
from rlcore.data.batching.records import samples_batch
from rlcore.loops.config import OfflineTrainConfig
from rlcore.loops.evaluate import accuracy, evaluate
from rlcore.loops.offline import Units
from rlcore.problems import Problem, bounded
from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.stages.evaluate import mean_part
from rlcore.rounds.store.store import Artefact
from rlcore.rounds.training import finish_model, token_ids, train
from rlcore.types import TrainBatch

MIX = 0x3147  # random stream of rows drawn by weight


@dataclass
class SftConfig(StageConfig):
    data: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # weights of the entries of `data`; empty: all rows of each
    start: str = "start"
    stop_at_accuracy: float | None = bounded(None, ge=0, le=1)  # greedy, on `measured_on`; None: run all steps
    measured_on: str | None = None  # prompts
    check_every: int = bounded(10, ge=1)  # steps between measurements of the accuracy
    part: str = ""  # part of the reward that is the accuracy; empty: the score
    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)

    KIND: ClassVar = "sft"
    PRODUCES: ClassVar = Made.model
    CONSUMES: ClassVar = {"data": (Made.samples,), "start": (Made.model,), "measured_on": (Made.prompts,)}
    READS: ClassVar = ("model", "engine")

    def reads(self) -> tuple[str, ...]:
        return self.READS if self.stop_at_accuracy is None else (*self.READS, "rollout", "reward")

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.stop_at_accuracy is not None and self.measured_on is None:
            text, cure = "stop_at_accuracy needs prompts", "for example measured_on: heldout"
            yield Problem(f"{key}.measured_on", None, text, cure)


def run(context: StageContext) -> Artefact:
    """Trains on the negative log-likelihood of the responses, averaged over the tokens of a step."""
    config: SftConfig = context.config
    table = mixed([a.table() for a in context.inputs["data"]], weights_of(context), context.seeds(MIX))
    ignored = token_ids(context.live.tokenizer, config.train.ignore_tokens)

    def batch(units: Units) -> TrainBatch:
        return samples_batch(table.take(units), ignored)

    context.live.load_policy(context.one("start"), to_train=True)
    policy, objective = context.live.world.policy, SupervisedObjective()
    enough = reached(context) if config.stop_at_accuracy is not None else None
    last = train(context, table.num_rows, lambda units, rate: policy.update(batch(units), rate, objective), enough)
    return finish_model(context, {"sequences": table.num_rows, **last})


def reached(context: StageContext) -> Callable[[int], bool]:
    """True if the current policy has the accuracy at which the stage stops. Measured every `check_every` steps."""
    config, live = context.config, context.live
    prompts = tables.to_prompts(context.prompts("measured_on")[0])
    sampling = context.sampling(1, context.seed, temperature=0.0)

    def enough(step: int) -> bool:
        if step % config.check_every:
            return False
        live.engine_weights = ""
        with live.stop.abandonable():
            live.world.weights.publish()
            metrics, groups = evaluate(live.world, prompts, sampling, live.reward)
        found = mean_part(groups, config.part) if config.part else accuracy(metrics, 1)
        return bool(found >= config.stop_at_accuracy)

    return enough


def weights_of(context: StageContext) -> list[float]:
    """One weight per artefact of `data`; artefacts of the same entry share its weight."""
    sources, weights = context.node.inputs["data"], context.config.weights
    counts = [sum(s.entry == entry for s in sources) for entry in range(len(weights))]
    return [weights[s.entry] / counts[s.entry] for s in sources] if weights else []


def mixed(parts: Sequence[pa.Table], weights: Sequence[float], seed: int) -> pa.Table:
    """All rows; with weights the same total number of rows, split in proportion to the weights (largest remainder).
    Each part uses all its rows before it repeats one.
    """
    if not weights:
        return tables.concat(parts)
    total, shares = sum(p.num_rows for p in parts), np.array(weights) / sum(weights)
    counts = np.floor(total * shares).astype(int)
    for i in np.argsort(-(total * shares - counts), kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    drawn = []
    for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if count and not part.num_rows:
            raise ValueError(f"entry {i} of `data` has weight {weights[i]} and no rows")
        rounds = -(-count // max(1, part.num_rows))
        rng = np.random.default_rng([seed, i])
        rows = np.concatenate([rng.permutation(part.num_rows) for _ in range(rounds)] or [np.array([], dtype=int)])
        drawn.append(part.take(np.sort(rows[:count])))
    return tables.concat(drawn)
