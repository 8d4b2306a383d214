"""Filters, each drop with its reason. No actor takes part; a restart begins anew."""

from __future__ import annotations

from rlcore.rounds.config import FilterStageConfig
from rlcore.rounds.job import Job, joined
from rlcore.rounds.stages.select import finish
from rlcore.rounds.store import Artefact


def run(job: Job) -> Artefact:
    from rlcore.data.filters import FilterContext, apply

    config: FilterStageConfig = job.config
    context = FilterContext(eval_texts=[t for a in job.inputs["against"] for t in a.table(["prompt"])["prompt"].to_pylist()])
    kept, report = apply(joined(job.inputs["data"]), config.filters, context)
    job.live.world.tracker.message(report.render())
    return finish(job, kept, report.as_dict())
