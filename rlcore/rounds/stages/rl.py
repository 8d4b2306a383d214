"""The online loop as a stage: same actors, its own algorithm, prompts, checkpoints and curve."""

from __future__ import annotations

from dataclasses import replace

from rlcore.checkpoint import Checkpoints
from rlcore.interfaces import RewardScorer
from rlcore.loops import online
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import RewardConfig
from rlcore.rewards.registry import RewardError
from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import RlConfig, ScoreBy
from rlcore.rounds.store.store import Artefact


def run(context: StageContext) -> Artefact:
    """Reference and critic begin where the policy does. A restart resumes from the loop's own checkpoint."""
    config: RlConfig = context.config
    live, start = context.live, context.one("start")
    if (reward_model := context.maybe("reward_model")) is not None:
        live.hold_reward(reward_model)
    live.hold(start, to_train=True)
    for model in (live.world.reference, live.world.critic):
        if model is not None:
            model.initialize(start.path)
    folder = context.draft.directory / "run"
    folder.mkdir(exist_ok=True)
    prompts, dropped = context.prompts("prompts")
    planned = live.online_run(config.overrides, prompts, live.world, folder, context.seeds())
    tracker = live.open_tracker(context.folder, planned.trainer.steps)
    world = replace(
        planned.world,
        rewards=rewards_of(context),
        tracker=tracker,
        checkpoints=Checkpoints(folder / "checkpoints", planned.trainer.checkpoint.keep),
    )
    live.training()
    try:
        state = online.train(replace(planned, world=world))
    finally:
        tracker.close()
    live.sent = ""
    exported = context.draft.directory / "model"
    live.world.policy.export(exported, masters=True)
    made = context.draft.finish_folder(exported, _report(state, config.by, live.reward) | dropped)
    live.trained(made, sent=True)
    return made


def rewards_of(context: StageContext) -> RewardScorer:
    """The config's reward, or the reward model or the judge alone.

    Raises:
        RewardError: one that is not there.
    """
    scorer = context.live.world.rewards
    if context.config.by is ScoreBy.reward:
        return scorer
    if not isinstance(scorer, ComposedScorer):
        raise RewardError(f"by: {context.config.by.value}, but the run has verifiers alone")
    return scorer.alone(context.config.by.value)


def _report(state: online.LoopState, by: ScoreBy, reward: RewardConfig) -> dict[str, object]:
    """What verifies alone is an accuracy; a weighted sum, a reward model's or a judge's score is a reward."""
    verified = by is ScoreBy.reward and [term.weight for term in reward.terms] == [1.0]
    measured = {"accuracy": state.accuracy, "best": state.best}
    if not verified:
        best = {"step": state.best["step"], "reward": state.best["accuracy"]} if state.best else {}
        measured = {"mean_reward": state.accuracy, "best": best}
    return {"steps": state.step, **measured, **state.counters}
