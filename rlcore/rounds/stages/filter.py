"""Filters records; each dropped row has a reason. Needs no actor; a restart begins from the start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.data.filters import FilterContext, apply, check
from rlcore.problems import Problem
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.context import StageContext, finish, joined
from rlcore.rounds.plan.config import RECORDS, Made, StageConfig
from rlcore.rounds.store.store import Artefact


@dataclass
class FilterStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # inputs of one kind
    filters: list[Any] = field(default_factory=list)  # {kind: ..., options}; see rlcore.data.filters
    against: list[str] = field(default_factory=lambda: ["heldout"])  # evaluation texts for `contamination`

    KIND: ClassVar = "filter"
    PRODUCES: ClassVar = None
    CONSUMES: ClassVar = {"data": RECORDS, "against": (Made.prompts,)}
    SEEDED: ClassVar = False

    def code(self, reward: RewardConfig, algorithm: AlgorithmConfig) -> list[str]:
        return [one["fn"].rpartition(":")[0] for one in self.filters if "fn" in one]

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        yield from check(self.filters, made.value, f"{key}.filters")


def run(context: StageContext) -> Artefact:
    config: FilterStageConfig = context.config
    texts = defaultdict[str, list[str]](list)  # over all rounds of a stage
    for one in context.inputs["against"]:
        texts[one.stage] += one.table(["prompt"])["prompt"].to_pylist()
    filter_context = FilterContext(eval_texts=texts, seed=context.seed)  # the key has no round either
    table = joined(context.inputs["data"])
    repeated = sum(one.num_rows for one in context.inputs["data"]) - table.num_rows
    kept, report = apply(table, config.filters, filter_context)
    context.live.world.tracker.message(report.render())
    return finish(context, kept, report.to_json() | {"counts": {"dropped_repeated_prompt": repeated}})
