"""The online loop as a stage: same actors, its own algorithm, prompts, checkpoints and curve."""

from __future__ import annotations

from dataclasses import replace

from rlcore.checkpoint import Checkpoints
from rlcore.interfaces import RewardScorer
from rlcore.loops import online
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import RewardConfig
from rlcore.rewards.registry import RewardError
from rlcore.rounds.context import Job
from rlcore.rounds.plan.config import RlConfig, ScoreBy
from rlcore.rounds.store.store import Artefact


def run(job: Job) -> Artefact:
    """Reference and critic begin where the policy does. A restart goes on from the loop's own checkpoint."""
    config: RlConfig = job.config
    live, start = job.live, job.one("start")
    if (reward_model := job.maybe("reward_model")) is not None:
        live.hold_reward(reward_model)
    live.hold(start, to_train=True)
    for model in (live.world.reference, live.world.critic):
        if model is not None:
            model.initialize(start.path)
    folder = job.draft.directory / "run"
    folder.mkdir(exist_ok=True)
    prompts, dropped = job.prompts("prompts")
    planned = live.online_run(config.overrides, prompts, live.world, folder, job.seeds())
    tracker = live.open_tracker(job.folder, planned.trainer.steps)
    world = replace(
        planned.world,
        rewards=rewards_of(job),
        tracker=tracker,
        checkpoints=Checkpoints(folder / "checkpoints", planned.trainer.checkpoint.keep),
    )
    live.training()
    try:
        state = online.train(replace(planned, world=world))
    finally:
        tracker.close()
    live.sent = ""
    exported = job.draft.directory / "model"
    live.world.policy.export(exported, masters=True)
    made = job.draft.finish_folder(exported, _report(state, config.by, live.reward) | dropped)
    live.trained(made, sent=True)
    return made


def rewards_of(job: Job) -> RewardScorer:
    """The config's reward, or the reward model or the judge alone.

    Raises:
        RewardError: one that is not there.
    """
    scorer = job.live.world.rewards
    if job.config.by is ScoreBy.reward:
        return scorer
    if not isinstance(scorer, ComposedScorer):
        raise RewardError(f"by: {job.config.by.value}, but the run has verifiers alone")
    return scorer.alone(job.config.by.value)


def _report(state: online.LoopState, by: ScoreBy, reward: RewardConfig) -> dict[str, object]:
    """What verifies alone is an accuracy; a weighted sum, a reward model's or a judge's score is a reward."""
    verified = by is ScoreBy.reward and [term.weight for term in reward.terms] == [1.0]
    measured = {"accuracy": state.accuracy, "best": state.best}
    if not verified:
        best = {"step": state.best["step"], "reward": state.best["accuracy"]} if state.best else {}
        measured = {"mean_reward": state.accuracy, "best": best}
    return {"steps": state.step, **measured, **state.counters}
