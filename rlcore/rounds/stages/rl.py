"""The online loop as a stage: same actors, its own algorithm, prompts, checkpoints and curve."""

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

ALLOWED = ("algorithm", "trainer")  # what a stage may override: the actors are shared by all stages


@dataclass
class RlConfig(StageConfig):
    """The online loop, on the config of the run with `overrides` applied: `[algorithm=mdloo, trainer.steps=20]`."""

    prompts: str = "train"
    start: str = "start"
    by: ScoreBy = ScoreBy.reward  # what the reward is
    reward_model: str | None = None
    overrides: list[str] = field(default_factory=list)

    KIND: ClassVar = "rl"
    PRODUCES: ClassVar = Made.model
    CONSUMES: ClassVar = {"prompts": (Made.prompts,), "start": (Made.model,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model", "engine", "rollout", "reward", "algorithm", "trainer")
    VERSION: ClassVar = 2  # 1: every round in one order of prompts, a critic's head from the stage before

    def asks_reward(self) -> bool:
        return self.by is ScoreBy.reward

    def code(self, reward: RewardConfig, algorithm: AlgorithmConfig) -> list[str]:
        return super().code(reward, algorithm) + algorithm.files

    def problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.by is ScoreBy.model:
            cure = "train a reward_model on what a stage `score` with by: model says, and name it with by: reward_model"
            yield Problem(f"{key}.by", self.by.value, "the policy trains: it cannot answer questions meanwhile", cure)
        for override in self.overrides:
            name = override.partition("=")[0].lstrip("+~")
            if name.partition(".")[0] not in ALLOWED:
                text = "the actors of all stages are the same: this cannot differ here"
                yield Problem(f"{key}.overrides", override, text, "set it for the whole run, or leave it out")
            elif name == "trainer.warmup" or name.startswith("trainer.warmup."):
                text, cure = "a stage rl has no supervised warm-up", "add a stage sft before it"
                yield Problem(f"{key}.overrides", override, text, cure)


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
