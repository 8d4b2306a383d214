"""Rounds on the in-process world: every stage for real, a table as policy; started, stopped, started again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcore.algorithms.config import AlgorithmConfig, CorrectionConfig
from rlcore.data import tables
from rlcore.data.sources.prompts import PromptStream
from rlcore.interfaces import Sampling, World
from rlcore.loops.config import CheckpointConfig, EvalConfig, LearningRateConfig, OfflineTrainConfig, TrainerConfig
from rlcore.loops.ledger import Ledger
from rlcore.loops.online import OnlineRun
from rlcore.loops.stop import StopSignal
from rlcore.rewards.config import RewardConfig
from rlcore.rounds import runner
from rlcore.rounds.context import RunContext
from rlcore.rounds.plan.config import BUILT_IN, Made, ScoreBy, StageConfig
from rlcore.rounds.plan.graph import Node, plan
from rlcore.rounds.stages.average import AverageConfig
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.reward_model import RewardModelStageConfig
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.score import ScoreConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.rounds.store.store import Artefact, ArtefactStore
from rlcore.storage.checkpoint import Checkpoints
from rlcore.types import Group, Prompt, RewardResult, Sample
from tests.fakes import (
    EOS,
    FakePolicy,
    FakeRewardModel,
    FakeRewards,
    FakeRollout,
    FakeTokenizer,
    FakeTracker,
    FakeWeights,
    V,
    prompts,
    write_model,
)

Stages = Mapping[str, StageConfig]
Event = tuple[Any, ...]
Keys = dict[tuple[int, str], Artefact]


class Killed(BaseException):
    """Stands for an end of the process that nobody catches."""


class Rollout(FakeRollout):
    """Notes each call that was answered; says what it is told to say where a stage rewrites."""

    def __init__(self, log: list[Event], say: Callable[[Prompt], str] | None) -> None:
        super().__init__()
        self.log, self.say = log, say

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        for group in super().generate(prompts, sampling):
            if self.say is not None and "~" in group.prompt.uid:  # asked by a rewriting stage
                group.trajectories[0].text = self.say(group.prompt)
            yield group
        self.log.append(("generate", tuple(p.uid for p in prompts), sampling.num_samples, sampling.seed))


class Rewards(FakeRewards):
    def __init__(self, log: list[Event], judge: Callable[..., RewardResult] | None) -> None:
        super().__init__(judge)
        self.log = log

    def submit(self, group: Group) -> Any:
        self.log.append(("reward", group.prompt.uid, tuple(t.text for t in group.trajectories)))
        return super().submit(group)


@dataclass
class Stand:
    """A run folder, and what is the same each time the run is started there.

    Attributes:
        log: what the actors did, over all starts.
        reads: the part of the run's config that the keys see.
        code: the user's Python that every stage runs.
        at: called with a word at every place where work is done; it may raise, or press Ctrl-C by `stop`.
    """

    run_dir: Path
    stages: Stages
    count: int = 1
    seed: int = 3
    reads: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[..., RewardResult] | None = None
    scorer: Any = None  # World.judge
    say: Callable[[Prompt], str] | None = None
    prompts: Sequence[Prompt] = field(default_factory=lambda: prompts(10))
    at: Callable[[str], None] = lambda place: None
    exact: bool = True
    reward: RewardConfig = field(default_factory=RewardConfig)
    max_prompt_tokens: int = 10_000
    log: list[Event] = field(default_factory=list)
    live: RunContext | None = None

    def nodes(self) -> list[Node]:
        listed = {name: [config] * self.count for name, config in self.stages.items()}
        return plan(listed, self.count, BUILT_IN | {"other": Made.model})

    def start_model(self, name: str = "start", seed: int = 0) -> Path:
        folder = self.run_dir / name
        if not folder.exists():
            write_model(0.3 * torch.randn(V, V, generator=torch.Generator().manual_seed(seed)), folder)
        return folder

    def roots(self, store: ArtefactStore) -> dict[str, Artefact]:
        known = [(p, p.reference or "0") for p in self.prompts]
        answers = [Sample(p, f"{p.uid}#reference", text, (int(text), EOS)) for p, text in known]
        return {
            "start": store.adopt_folder("start", self.start_model(), Made.model),
            "other": store.adopt_folder("other", self.start_model("other", 1), Made.model),
            "train": store.adopt_table("train", tables.from_prompts(self.prompts), Made.prompts),
            "heldout": store.adopt_table("heldout", tables.from_prompts(self.prompts), Made.prompts),
            "answers": store.adopt_table("answers", tables.from_samples(answers), Made.samples),
        }

    def run(self) -> Keys:
        """One start of the command, on actors of its own."""
        with ArtefactStore(runner.folder_of(self.run_dir)) as store:
            reads, code = lambda node: self.reads, lambda node: self.code
            index = runner.StageIndex(self.nodes(), store, self.roots(store), reads, self.seed, code)
            self.live = self.actors(index.roots["start"])
            return runner.run(index, self.live)

    def artefacts(self) -> dict[str, str]:
        """Folder name, which begins with round, stage and key, -> content hash, of all finished ones."""
        with ArtefactStore(runner.folder_of(self.run_dir)) as store:
            return {one.name: one.hash for one in store.artefacts()}

    def artefacts_of(self, stage: str) -> str:
        """Content hash of what a stage made in round 1."""
        (found,) = (content for name, content in self.artefacts().items() if name.startswith(f"r01-{stage}-"))
        return found

    def actors(self, start: Artefact) -> RunContext:
        policy = FakePolicy()
        policy.initialize(start.path)
        policy.loaded.clear()
        rollout, reward_model = Rollout(self.log, self.say), FakeRewardModel()
        for model in (policy, reward_model):
            model.before_update = lambda: self.at("update")
        rollout.before_group = lambda i: self.at("group")
        update = policy.update

        def noted(batch: Any, rate: float, objective: Any, *rows: Any) -> Any:
            found = update(batch, rate, objective, *rows)
            self.log.append(("update", repr(objective), tuple(policy.updates[-1]), rate))
            return found

        policy.update = noted  # type: ignore[method-assign]
        fit = reward_model.update

        def fitted(batch: Any, rate: float, objective: Any) -> Any:
            found = fit(batch, rate, objective)
            self.log.append(("fit", tuple(batch.sample_ids), rate))
            return found

        reward_model.update = fitted  # type: ignore[method-assign]
        world = World(
            prompts=PromptStream(list(self.prompts), 0, True), rollout=rollout, rewards=Rewards(self.log, self.judge),
            policy=policy, weights=FakeWeights(policy, rollout), checkpoints=Checkpoints(self.run_dir / "unused", 1),
            tracker=FakeTracker(), reward_model=reward_model, judge=self.scorer,
        )  # fmt: skip
        stop = StopSignal(notify=lambda text: None)
        return RunContext(
            world=world, tokenizer=FakeTokenizer(), sampling=Sampling(1, 4), reward=self.reward, stop=stop,
            run_dir=self.run_dir, exact=self.exact, open_tracker=lambda folder: FakeTracker(),
            online_run=self._online, render=lambda text: (text, FakeTokenizer()([text])["input_ids"][0] or [10]),
            render_prompt=lambda text: (f"P{text}", FakeTokenizer()([text])["input_ids"][0] or [10]),
            max_prompt_tokens=self.max_prompt_tokens, policy_weights=start.hash,
        )  # fmt: skip

    def stop(self) -> None:
        """As Ctrl-C does."""
        assert self.live is not None
        self.live.stop._handle(signal.SIGINT, None)

    def _online(self, overrides: Sequence[str], table: Any, world: World, folder: Path, seed: int) -> OnlineRun:
        assert self.live is not None
        steps = int(dict(o.split("=") for o in overrides).get("trainer.steps", 2))
        algorithm = AlgorithmConfig(correction=CorrectionConfig())
        trainer = TrainerConfig(
            steps=steps, prompts_per_step=4, samples_per_prompt=4, learning_rate=LearningRateConfig(peak=2.0),
            eval=EvalConfig(every=0), checkpoint=CheckpointConfig(every=1),
        )  # fmt: skip
        found = tables.to_prompts(table)
        return OnlineRun(
            world=replace(world, prompts=PromptStream(found, seed, True)), trainer=trainer, algorithm=algorithm,
            reward=self.reward, sampling=Sampling(num_samples=4, max_new_tokens=4), eval_prompts=found,
            ledger=Ledger(folder / "ledger.jsonl"), stop=self.live.stop, seed=seed, config_hash="x",
            run_dir=folder,
        )  # fmt: skip


def train(steps: int = 4, every: int = 2, per_step: int = 8, peak: float = 1.0, **more: Any) -> OfflineTrainConfig:
    return OfflineTrainConfig(
        steps=steps, per_step=per_step, checkpoint_every=every, learning_rate=LearningRateConfig(peak=peak), **more
    )


def recipe() -> dict[str, StageConfig]:
    """Every kind of stage but `rewrite`, which needs a model that talks."""
    reward = RewardModelStageConfig(data=["annotate@all"], held_out=0.3, checkpoint_every=1)
    reward.training = replace(reward.training, epochs=3, pairs_per_step=4, learning_rate=0.5)
    return {
        "sample": GenerateConfig(models=["average@previous|start"], num_samples=6, prompts_per_chunk=4),
        "filter": FilterStageConfig(data=["sample"], filters=[{"kind": "duplicates", "within_prompt": True}]),
        "annotate": PairsConfig(samples=["filter"]),
        "reward": reward,
        "rank": ScoreConfig(samples=["filter"], by=ScoreBy.reward_model, reward_model="reward", samples_per_chunk=16),
        "best": RejectionSampleConfig(samples=["rank"]),
        "sft": SftConfig(data=["best@all"], start="start", train=train()),
        "dpo": PreferenceStageConfig(data=["annotate"], start="sft", train=train(peak=0.5)),
        "average": AverageConfig(models=["sft", "dpo"]),
        "rl": RlConfig(start="average", overrides=["trainer.steps=2"]),
        "evaluate": EvaluateConfig(model="rl"),
    }


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> Iterator[list[str]]:
    """Raises instead of the rename number `at` (-1: never): everything durable ends in one. Yields what was renamed."""
    import os

    seen: list[str] = []

    def guarded(real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any, **more: Any) -> None:
            seen.append(Path(target).name)
            if len(seen) - 1 == at:
                raise error
            real(source, target, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield seen
