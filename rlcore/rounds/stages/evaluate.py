"""A model on held-out prompts: accuracy, and the mean of a reward model where one is named."""

from __future__ import annotations

from rlcore.data import tables
from rlcore.loops.evaluate import evaluate
from rlcore.rounds.config import EvaluateConfig
from rlcore.rounds.job import Job
from rlcore.rounds.store import Artefact


def run(job: Job) -> Artefact:
    config: EvaluateConfig = job.config
    prompts = tables.to_prompts(job.one("prompts").table())[: config.max_prompts]
    if (reward_model := job.maybe("reward_model")) is not None:
        job.live.hold_reward(reward_model)
    job.live.publish(job.one("model"))
    sampling = job.sampling(config.num_samples, job.seed, temperature=config.temperature)
    with job.live.stop.abandonable():
        metrics, groups = evaluate(job.live.world, prompts, sampling, job.live.reward)
    job.live.world.tracker.log_samples(job.node.round, groups)
    accuracy = metrics[f"eval/heldout/mean@{config.num_samples}"]
    return job.draft.finish_report({"accuracy": accuracy, "prompts": len(prompts), **metrics})
