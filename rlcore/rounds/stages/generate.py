"""Generates samples: n per prompt and model, or adaptively until a prompt has enough good ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rlcore.data import tables
from rlcore.data.batching.records import samples_of
from rlcore.data.selection.best_of_n import AdaptivePlan, Tally
from rlcore.interfaces import Sampling
from rlcore.loops.sampling import sample_and_score
from rlcore.problems import Problem, bounded
from rlcore.rounds.context import StageContext, whole_of
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.types import Group, Prompt, Sample

ORDER = 0x0DDE  # random stream of the order of prompts


@dataclass
class GenerateConfig(StageConfig):
    """n samples per prompt from one model, or from each model of a committee (Apple's iTeC, arXiv 2407.21075 section
    4.3).
    """

    models: list[str] = field(default_factory=lambda: ["start"])
    prompts: str = "train"
    num_prompts: int | None = bounded(None, ge=1)  # prompts, drawn by seed, others in each round; None: all
    num_samples: int = bounded(8, ge=1)  # samples per prompt and model
    temperature: float | None = bounded(None, ge=0)  # None: the value of `rollout`, also for the next two
    max_new_tokens: int | None = bounded(None, ge=1)
    score: bool = True  # score with the reward of the config, in parallel to generation
    enough: int | None = bounded(None, ge=1)  # adaptive: stops sampling a prompt with this many good samples
    good: float = 1.0  # lowest score of a good sample
    max_samples: int = bounded(64, ge=1)  # adaptive: maximum per prompt and model
    reward_model: str | None = None  # for rewards that use a reward model
    prompts_per_chunk: int = bounded(512, ge=1)  # a restart generates at most one chunk again

    KIND: ClassVar = "generate"
    PRODUCES: ClassVar = Made.samples
    CONSUMES: ClassVar = {"models": (Made.model,), "prompts": (Made.prompts,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model.dtype", "model.float32_head", "rollout", "reward")

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.enough is not None and self.max_samples < self.num_samples:
            text = f"a prompt gets num_samples={self.num_samples} at once"
            yield Problem(f"{key}.max_samples", self.max_samples, text, "raise it to at least that")


def run(context: StageContext) -> Artefact:
    """Generates in chunks; a restart repeats at most one chunk. Members of a committee generate one after another, so
    that the engines load the weights of each member once.

    Raises:
        RewardFailure: see `rlcore.loops.sampling.sample_and_score`.
    """
    config: GenerateConfig = context.config
    fitting, dropped = context.prompts("prompts")
    prompts = chosen(fitting, config.num_prompts, context.seed, context.node.round)
    starts = range(0, prompts.num_rows, config.prompts_per_chunk)
    members = context.inputs["models"]
    if (reward_model := context.maybe("reward_model")) is not None:
        context.live.load_reward_model(reward_model)
    with context.live.world.tracker.phase(context.node.stage, total=len(members) * prompts.num_rows) as advance:
        for m, model in enumerate(members):
            for c, start in enumerate(starts):
                part = m * len(starts) + c
                chunk = tables.to_prompts(prompts.slice(start, config.prompts_per_chunk))
                if not context.draft.has_part(part):
                    context.live.publish(model)
                    with context.live.stop.abandonable():
                        samples = Sampler(context, model.hash, m, c).draw(chunk)
                    context.draft.write_part(part, tables.from_samples(samples))
                advance(len(chunk))
    table = whole_of(context, len(members) * len(starts))
    report = {"prompts": prompts.num_rows, "members": len(members), **score_report(table), **dropped}
    return context.draft.finish_records(report)


def chosen(prompts: pa.Table, count: int | None, seed: int, round_: int) -> pa.Table:
    """The `count` prompts of round r: those after round r - 1 in a seeded order, and a new order once all are used.

    >>> sorted(chosen(pa.table({"uid": [0, 1, 2, 3]}), 2, 0, 1)["uid"].to_pylist()
    ...        + chosen(pa.table({"uid": [0, 1, 2, 3]}), 2, 0, 2)["uid"].to_pylist())
    [0, 1, 2, 3]
    """
    total = prompts.num_rows
    if count is None or count >= total:
        return prompts
    places = np.arange((round_ - 1) * count, round_ * count)
    orders: list[NDArray[np.int64]] = []
    for pass_ in range(int(places[-1]) // total + 1):
        order = np.random.default_rng([seed, ORDER, pass_]).permutation(total)
        if begun := pass_ * total % count:  # prompts that the round has from the previous pass
            again = np.isin(order, orders[-1][-begun:])
            order = np.concatenate([order[~again], order[again]])
        orders.append(order)
    return prompts.take(sorted(int(orders[place // total][place % total]) for place in places))


class Sampler:
    """Draws and scores the samples of a chunk of prompts."""

    def __init__(self, context: StageContext, model: str, member: int, chunk: int) -> None:
        self.context, self.model, self.member, self.chunk = context, model, member, chunk
        self.config: GenerateConfig = context.config

    def draw(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """Sorted by prompt, and within a prompt in the order of drawing."""
        config, drawn = self.config, defaultdict[str, list[Sample]](list)
        if config.enough is None:
            self._round(prompts, config.num_samples, 0, drawn)
        else:
            plan = AdaptivePlan(config.num_samples, config.enough, config.max_samples, config.num_samples)
            turn = 0
            while wanted := plan.next({p.uid: self._tally(drawn[p.uid]) for p in prompts}):
                for count in sorted(set(wanted.values())):
                    alike = [p for p in prompts if wanted.get(p.uid) == count]
                    self._round(alike, count, turn, drawn)
                    turn += 1
        return [sample for prompt in prompts for sample in drawn[prompt.uid]]

    def _round(self, prompts: Sequence[Prompt], count: int, turn: int, drawn: dict[str, list[Sample]]) -> None:
        config = self.config
        sampling = self.context.sampling(
            count,
            self.context.seeds(self.member, self.chunk, turn),
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
        )
        for group in sampled(self.context, prompts, sampling, config.score):
            first = len(drawn[group.prompt.uid])
            drawn[group.prompt.uid] += samples_of(group, self.model, first, self.member)

    def _tally(self, samples: Sequence[Sample]) -> Tally:
        good = sum(s.reward is not None and s.reward.ok and s.reward.score >= self.config.good for s in samples)
        return Tally(len(samples), good)


def sampled(
    context: StageContext, prompts: Sequence[Prompt], sampling: Sampling, score: bool, turns: bool = True
) -> list[Group]:
    """Groups in the order of the prompts, optionally scored with the reward of the config.

    Args:
        turns: against the environment of the config, if there is one.
    """
    world = context.live.world
    if not turns:
        world = replace(world, rollout=world.plain)
    if score:
        groups = sample_and_score(world, prompts, sampling, context.live.reward, phase="stage_gen")
    else:
        found = {group.prompt.uid: group for group in world.rollout.generate(prompts, sampling)}
        groups = [found[prompt.uid] for prompt in prompts]
    context.live.compare(groups, sampling)
    return groups


def score_report(table: pa.Table) -> dict[str, Any]:
    """Statistics of a table of samples: count, tokens, mean score, statuses, and the share of prompts with a right
    sample.
    """
    lengths = pc.list_value_length(table["response_ids"])
    report: dict[str, Any] = {
        "samples": table.num_rows,
        "response_tokens": pc.sum(lengths).as_py() or 0,
        "truncated": pc.sum(pc.equal(table["finish_reason"], "length")).as_py() or 0,
    }
    statuses = pc.value_counts(table["status"].combine_chunks() if table.num_rows else table["status"])
    counts = {entry["values"]: entry["counts"] for entry in statuses.to_pylist() if entry["values"] is not None}
    if not counts:
        return report
    scored = table.filter(pc.equal(table["status"], "ok"))
    mean = pc.mean(scored["score"]).as_py()
    report |= {"statuses": counts, "mean_score": None if mean is None or math.isnan(mean) else mean}
    best = scored.select(["uid", "score"]).group_by("uid").aggregate([("score", "max")])
    solved = pc.sum(pc.greater_equal(best["score_max"], 1.0)).as_py() or 0
    report["solved_prompts"] = solved / max(1, pc.count_distinct(table["uid"]).as_py())
    return report
