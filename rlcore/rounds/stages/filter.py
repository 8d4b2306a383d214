"""Filters, each drop with its reason. No actor takes part; a restart begins anew."""

from __future__ import annotations

from collections import defaultdict

from rlcore.data.filters import FilterContext, apply
from rlcore.rounds.context import Job, joined
from rlcore.rounds.plan.config import FilterStageConfig
from rlcore.rounds.stages.select import finish
from rlcore.rounds.store.store import Artefact


def run(job: Job) -> Artefact:
    config: FilterStageConfig = job.config
    texts = defaultdict[str, list[str]](list)  # of all rounds of a stage
    for one in job.inputs["against"]:
        texts[one.stage] += one.table(["prompt"])["prompt"].to_pylist()
    context = FilterContext(eval_texts=texts, seed=job.seed)  # the key of a filter knows no round
    table = joined(job.inputs["data"])
    repeated = sum(one.num_rows for one in job.inputs["data"]) - table.num_rows
    kept, report = apply(table, config.filters, context)
    job.live.world.tracker.message(report.render())
    return finish(job, kept, report.to_json() | {"counts": {"dropped_repeated_prompt": repeated}})
