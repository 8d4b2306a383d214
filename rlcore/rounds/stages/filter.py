"""Filters, each drop with its reason. No actor takes part; a restart begins anew."""

from __future__ import annotations

from collections import defaultdict

from rlcore.data.filters import FilterContext, apply
from rlcore.rounds.context import StageContext, joined
from rlcore.rounds.plan.config import FilterStageConfig
from rlcore.rounds.stages.select import finish
from rlcore.rounds.store.store import Artefact


def run(context: StageContext) -> Artefact:
    config: FilterStageConfig = context.config
    texts = defaultdict[str, list[str]](list)  # of all rounds of a stage
    for one in context.inputs["against"]:
        texts[one.stage] += one.table(["prompt"])["prompt"].to_pylist()
    filter_context = FilterContext(eval_texts=texts, seed=context.seed)  # the key of a filter knows no round
    table = joined(context.inputs["data"])
    repeated = sum(one.num_rows for one in context.inputs["data"]) - table.num_rows
    kept, report = apply(table, config.filters, filter_context)
    context.live.world.tracker.message(report.render())
    return finish(context, kept, report.to_json() | {"counts": {"dropped_repeated_prompt": repeated}})
