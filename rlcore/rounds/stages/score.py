"""Scores existing samples with the reward of the config, a reward model, a judge, or answer probabilities of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa

from rlcore.data import tables
from rlcore.data.batching.collate import collate_groups
from rlcore.data.batching.records import groups_of, samples_batch
from rlcore.data.rewriting.question import QuestionConfig, questions
from rlcore.data.tokenizer import encode
from rlcore.interfaces import RewardScorer
from rlcore.loops.sampling import apply_failure_policy
from rlcore.problems import Problem, bounded
from rlcore.rewards.judge.parse import read_choice
from rlcore.rewards.judge.prompts import Reply
from rlcore.rounds.context import StageContext, joined, prompts_together, whole_of
from rlcore.rounds.plan.config import CHAT, Made, ScoreBy, StageConfig
from rlcore.rounds.stages.generate import score_report
from rlcore.rounds.store.store import Artefact
from rlcore.types import Group, RewardResult, Sample


@dataclass
class ScoreConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    by: ScoreBy = ScoreBy.reward
    reward_model: str | None = None
    model: str | None = None  # answers the question, with by: model
    question: QuestionConfig = field(default_factory=QuestionConfig)
    samples_per_chunk: int = bounded(4096, ge=1)

    KIND: ClassVar = "score"
    PRODUCES: ClassVar = Made.samples
    CONSUMES: ClassVar = {"samples": (Made.samples,), "reward_model": (Made.reward_model,), "model": (Made.model,)}
    READS: ClassVar = ("model.dtype", "reward", *CHAT)
    SEEDED: ClassVar = False

    def asks_reward(self) -> bool:
        return self.by is ScoreBy.reward

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.by is ScoreBy.model and self.model is None:
            yield Problem(f"{key}.model", None, "by: model needs a model", "name the stage that makes it")


def run(context: StageContext) -> Artefact:
    """Scores in chunks. All samples of a prompt, of any model or round, are in one chunk, because a judge may compare
    them.

    Raises:
        RewardFailure: too many samples could not be scored.
    """
    config: ScoreConfig = context.config
    table = prompts_together(joined(context.inputs["samples"]))
    chunks = cuts(table, config.samples_per_chunk)
    if (reward_model := context.maybe("reward_model")) is not None:
        context.live.load_reward_model(reward_model)
    with context.live.world.tracker.phase(context.node.stage, total=table.num_rows) as advance:
        for part, (start, size) in enumerate(chunks):
            if not context.draft.has_part(part):
                with context.live.stop.abandonable():
                    samples = scored(context, tables.to_samples(table.slice(start, size)))
                context.draft.write_part(part, tables.from_samples(samples))
            advance(size)
    made = whole_of(context, len(chunks))
    return context.draft.finish_records(score_report(made))


def cuts(table: pa.Table, size: int) -> list[tuple[int, int]]:
    """(start, rows) of chunks with at least `size` rows that do not split a prompt.

    >>> cuts(pa.table({"uid": ["a", "a", "b", "b", "c"]}), 1)
    [(0, 2), (2, 2), (4, 1)]
    """
    uids = table["uid"].to_pylist()
    found, start = [], 0
    for i in range(1, len(uids) + 1):
        if i == len(uids) or (i - start >= size and uids[i] != uids[i - 1]):
            found.append((start, i - start))
            start = i
    return found


def scored(context: StageContext, samples: Sequence[Sample]) -> list[Sample]:
    by, world = context.config.by, context.live.world
    if by is ScoreBy.reward_model:
        return _by_model(context, samples)
    if by is ScoreBy.model:
        return _by_question(context, samples)
    scorer: RewardScorer | None = world.judge if by is ScoreBy.judge else world.rewards
    if scorer is None:
        raise RuntimeError("no judge is running; set reward.judge.kind")
    groups = groups_of(samples)
    return by_scorer(context, samples, groups, scorer)


def by_scorer(
    context: StageContext, samples: Sequence[Sample], groups: Sequence[Group], scorer: RewardScorer
) -> list[Sample]:
    waiting = [scorer.submit(group) for group in groups]
    results: list[RewardResult] = []
    for group, future in zip(groups, waiting, strict=True):
        found = future.result()
        for trajectory, result in zip(group.trajectories, found, strict=True):
            trajectory.reward = result
        results += found
    apply_failure_policy(groups, context.live.reward)
    # the failure policy may have turned failures into zeros
    kept = [t.reward for group in groups for t in group.trajectories]
    return [replace(sample, reward=reward) for sample, reward in zip(samples, kept, strict=True)]


def _by_model(context: StageContext, samples: Sequence[Sample]) -> list[Sample]:
    """A reward with the weighted, normalised sum as score and every attribute as a part."""
    model = context.live.world.reward_model
    assert model is not None  # `load_reward_model` has checked this
    batch = collate_groups(groups_of(samples))
    scores = model.scores(batch)
    return [
        replace(s, reward=RewardResult(float(r), parts=dict(zip(model.attributes, map(float, row), strict=True))))
        for s, r, row in zip(samples, model.combine(scores), scores, strict=True)
    ]


def _by_question(context: StageContext, samples: Sequence[Sample]) -> list[Sample]:
    """A reward with the expected value of the answer as score and the probability of each answer as a part.

    See `rlcore.data.rewriting.question`.
    """
    live, config = context.live, context.config.question
    live.load_policy(context.one("model"))

    def tokens(text: str) -> tuple[int, ...]:
        return encode(live.tokenizer, [text], special=False)[0]

    batch = samples_batch(tables.from_samples(questions(samples, config, live.render, tokens)))
    scored_tokens = live.world.policy.logprobs(batch, 1.0)
    trained = batch.padded(np.where(batch.loss_mask, scored_tokens, 0.0))
    logprobs = trained.sum(axis=1, dtype=np.float64).reshape(len(samples), -1)
    made = []
    for sample, row in zip(samples, logprobs.tolist(), strict=True):
        read = read_choice(Reply(logprobs=tuple(row)), tuple(config.answers.values()))
        chances = {name: math.exp(x) for name, x in zip(config.answers, row, strict=True)}
        made.append(replace(sample, reward=RewardResult(read.value, read.status, parts=chances)))
    return made
