"""Filters, each drop with its reason. No actor takes part; a restart begins anew."""

from __future__ import annotations

from rlcore.data.filters import FilterContext, apply
from rlcore.rounds.config import FilterStageConfig
from rlcore.rounds.job import Job, joined
from rlcore.rounds.stages.select import finish
from rlcore.rounds.store import Artefact


def run(job: Job) -> Artefact:
    config: FilterStageConfig = job.config
    texts = {a.stage: a.table(["prompt"])["prompt"].to_pylist() for a in job.inputs["against"]}
    context = FilterContext(eval_texts=texts, seed=job.seeds())
    kept, report = apply(joined(job.inputs["data"]), config.filters, context)
    job.live.world.tracker.message(report.render())
    return finish(job, kept, report.to_json())
