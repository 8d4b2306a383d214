"""Runs the online loop as a stage, on the shared actors, with a separate algorithm, prompts, checkpoints and curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.interfaces import RewardScorer
from rlcore.loops import online
from rlcore.problems import Problem
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import RewardConfig
from rlcore.rewards.registry import RewardError
from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import Made, ScoreBy, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.storage.checkpoint import Checkpoints

ALLOWED = ("algorithm", "trainer")  # groups that a stage may override, since all stages share the actors


@dataclass
class RlConfig(StageConfig):
    """The online loop with `overrides` applied to the config of the run: `[algorithm=mdloo, trainer.steps=20]`."""

    prompts: str = "train"
    start: str = "start"
    by: ScoreBy = ScoreBy.reward  # source of the reward
    reward_model: str | None = None
    overrides: list[str] = field(default_factory=list)

    KIND: ClassVar = "rl"
    PRODUCES: ClassVar = Made.model
    CONSUMES: ClassVar = {"prompts": (Made.prompts,), "start": (Made.model,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model", "engine", "rollout", "reward", "algorithm", "trainer")
    VERSION: ClassVar = 2  # 1: equal prompt order in every round; critic head of the previous stage

    def asks_reward(self) -> bool:
        return self.by is ScoreBy.reward

    def code(self, reward: RewardConfig, algorithm: AlgorithmConfig) -> list[str]:
        return super().code(reward, algorithm) + algorithm.files

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.by is ScoreBy.model:
            cure = "train a reward_model on the output of a stage `score` with by: model, and use by: reward_model"
            yield Problem(f"{key}.by", self.by.value, "the policy is training and cannot answer questions", cure)
        for override in self.overrides:
            name = override.partition("=")[0].lstrip("+~")
            if name.partition(".")[0] not in ALLOWED:
                text = "all stages share the actors, so this cannot differ here"
                yield Problem(f"{key}.overrides", override, text, "set it for the whole run, or remove it")
            elif name == "trainer.warmup" or name.startswith("trainer.warmup."):
                text, cure = "stage rl has no supervised warm-up", "add a stage sft before it"
                yield Problem(f"{key}.overrides", override, text, cure)


def run(context: StageContext) -> Artefact:
    """Reference and critic start from the policy. A restart resumes from the checkpoint of the loop."""
    config: RlConfig = context.config
    live, start = context.live, context.one("start")
    if (reward_model := context.maybe("reward_model")) is not None:
        live.load_reward_model(reward_model)
    live.load_policy(start, to_train=True)
    for model in (live.world.reference, live.world.critic):
        if model is not None:
            model.initialize(start.path)
    folder = context.draft.directory / "run"
    folder.mkdir(exist_ok=True)
    prompts, dropped = context.prompts("prompts")
    planned = live.online_run(config.overrides, prompts, live.world, folder, context.seeds())
    tracker = live.open_tracker(context.folder)
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
    live.engine_weights = ""
    exported = context.draft.directory / "model"
    live.world.policy.export(exported, masters=True)
    made = context.draft.finish_folder(exported, _report(state, config.by, live.reward) | dropped)
    live.trained(made, synced=True)
    return made


def rewards_of(context: StageContext) -> RewardScorer:
    """The reward of the config, or only the reward model or the judge.

    Raises:
        RewardError: it is not running.
    """
    scorer = context.live.world.rewards
    if context.config.by is ScoreBy.reward:
        return scorer
    if not isinstance(scorer, ComposedScorer):
        raise RewardError(f"by: {context.config.by.value}, but the run has only verifiers")
    return scorer.alone(context.config.by.value)


def _report(state: online.LoopState, by: ScoreBy, reward: RewardConfig) -> dict[str, object]:
    """"accuracy" for a single verifier; "reward" for a weighted sum, a reward model or a judge."""
    verified = by is ScoreBy.reward and [term.weight for term in reward.terms] == [1.0]
    measured = {"accuracy": state.accuracy, "best": state.best}
    if not verified:
        best = {"step": state.best["step"], "reward": state.best["accuracy"]} if state.best else {}
        measured = {"mean_reward": state.accuracy, "best": best}
    return {"steps": state.step, **measured, **state.counters}
