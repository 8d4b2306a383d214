"""Collects the samples of a step: samples, scores and filters prompts until there are enough, or no refill rounds are
left.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlcore import metrics as M
from rlcore.algorithms import policy_gradient, preference
from rlcore.algorithms.config import AlgorithmConfig, Family, Opponent
from rlcore.data.batching.collate import collate_groups, collate_pairs
from rlcore.interfaces import Sampling, World
from rlcore.loops.sampling import sample_and_score, sample_metrics, with_step
from rlcore.loops.step_prompts import StepPrompts
from rlcore.rewards.config import RewardConfig
from rlcore.types import Group, Prompt, SampledPair, TrainBatch, Trajectory

SURPLUS = "surplus"  # samples of surplus prompts after a refill
OTHER_SEED = 0x9E3779B9  # offset of the seed for the reference's samples
LOWEST_RATE = 0.25  # lower bound on the assumed share of kept prompts: limits the size of a refill


@dataclass
class Experience:
    """Samples in = samples trained + samples filtered, by reason; `check` verifies it."""

    algorithm: AlgorithmConfig
    prompts: list[Prompt] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)  # all scored groups
    kept: list[Group] = field(default_factory=list)  # policy gradient: only the samples to train on
    pairs: list[SampledPair] = field(default_factory=list)
    filtered: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    @property
    def num_prompts_kept(self) -> int:
        return len(self.kept) + len({chosen.uid for chosen, _ in self.pairs})

    @property
    def trained(self) -> list[Trajectory]:
        """Samples to train on, one per row of `batch`."""
        return [t for g in self.kept for t in g.trajectories] + [t for pair in self.pairs for t in pair]

    @property
    def sample_ids(self) -> list[str]:
        return [t.sample_id for t in self.trained]

    def add(self, prompts: Sequence[Prompt], groups: Sequence[Group], wanted: int) -> None:
        """Filters `groups` and keeps at most the number of missing prompts."""
        room = wanted - self.num_prompts_kept
        if self.algorithm.family is Family.preference:
            pairs, counts = preference.select_pairs(groups, self.algorithm.preference)
            first = set(list(dict.fromkeys(chosen.uid for chosen, _ in pairs))[:room])
            self.pairs += [pair for pair in pairs if pair[0].uid in first]
            surplus = 2 * sum(chosen.uid not in first for chosen, _ in pairs)
        else:
            kept, counts = policy_gradient.filter_groups(
                groups, self.algorithm.filters, alone=self.algorithm.learns_from_one_sample
            )
            self.kept += kept[:room]
            surplus = sum(len(g.trajectories) for g in kept[room:])
        self.filtered.update(counts)
        if self.algorithm.refill_rounds:
            self.filtered[SURPLUS] += surplus
        self.prompts += prompts
        self.groups += groups
        self.rounds += 1

    def check(self) -> None:
        generated, trained = sum(len(g.trajectories) for g in self.groups), len(self.sample_ids)
        if generated != trained + self.filtered.total():
            text = f"{generated} samples in, {trained} to train on, {dict(self.filtered)} filtered: some are lost"
            raise RuntimeError(text)

    def batch(self) -> TrainBatch | None:
        """Rows in the order of `sample_ids`; None without rows to train on."""
        if self.pairs:
            return collate_pairs(self.pairs)
        return collate_groups(self.kept) if self.kept else None

    def metrics(self) -> M.Metrics:
        counts: M.Metrics = {f"batch/filtered_{reason}": M.Sum(count) for reason, count in self.filtered.items()}
        counts["batch/samples_trained"] = M.Sum(len(trained := self.trained))
        if trained:  # beside `response_length/mean` of all: dropped samples may be the longer ones
            length = float(sum(t.num_response_tokens for t in trained))
            counts["response_length/trained_mean"] = M.Mean(length, len(trained))
        if self.algorithm.family is Family.preference:
            counts["batch/pairs"] = M.Sum(len(self.pairs))
        if self.algorithm.refill_rounds:
            counts["batch/sampling_rounds"] = M.Sum(self.rounds)
            counts["batch/prompts_trained"] = M.Sum(self.num_prompts_kept)
        return sample_metrics(self.groups) | counts


def collect(
    world: World, algorithm: AlgorithmConfig, reward: RewardConfig, sampling: Sampling, num_prompts: int, seed: int,
    step: int, prompts_of: StepPrompts | None = None,
) -> Experience:  # fmt: skip
    """Samples `num_prompts` prompts, and more in up to `refill_rounds` rounds if filters leave too few (DAPO's dynamic
    sampling, arXiv 2503.14476 section 3.2, with a limit).

    Args:
        prompts_of: where the step takes its prompts; None: from `world.prompts`.

    Raises:
        RewardFailure: see `sample_and_score`.
    """
    found, source = Experience(algorithm), prompts_of or StepPrompts(world.prompts)
    for index in range(algorithm.refill_rounds + 1):
        missing = num_prompts - found.num_prompts_kept
        if missing <= 0:
            break
        rate = found.num_prompts_kept / max(1, len(found.prompts)) if index else 1.0
        asked = min(num_prompts, math.ceil(missing / max(rate, LOWEST_RATE)))
        prompts = _apart(source.take(step, asked, without=[p.uid for p in found.prompts]), found.prompts)
        here = with_step(sampling, seed, step, index)
        found.add(prompts, _sample(world, prompts, here, reward, algorithm), num_prompts)
    found.check()
    return found


def _apart(prompts: Sequence[Prompt], before: Sequence[Prompt]) -> list[Prompt]:
    """Gives copies of a prompt different uids: a step larger than the data has a prompt twice, as two groups."""
    used, apart = {p.uid for p in before}, []
    for prompt in prompts:
        uid, copy = prompt.uid, 1
        while uid in used:
            copy += 1
            uid = f"{prompt.uid}~{copy}"
        used.add(uid)
        apart.append(prompt if uid == prompt.uid else dataclasses.replace(prompt, uid=uid))
    return apart


def _sample(
    world: World, prompts: Sequence[Prompt], sampling: Sampling, reward: RewardConfig, algorithm: AlgorithmConfig
) -> list[Group]:
    if algorithm.family is not Family.preference or algorithm.preference.opponent is Opponent.policy:
        return sample_and_score(world, prompts, sampling, reward)
    if world.reference_weights is None:
        raise RuntimeError("opponent=reference needs a reference that can send its weights")
    half = sampling.num_samples // 2
    groups = sample_and_score(world, prompts, dataclasses.replace(sampling, num_samples=half), reward)
    with world.tracker.phase("update_weights"):
        world.reference_weights.publish_reference()
    # with equal seeds two similar models would draw equal samples, so all pairs would be ties
    seed = None if sampling.seed is None else (sampling.seed + OTHER_SEED) % 2**32
    rest = dataclasses.replace(sampling, num_samples=sampling.num_samples - half, seed=seed)
    for group, other in zip(groups, sample_and_score(world, prompts, rest, reward), strict=True):
        for k, trajectory in enumerate(other.trajectories):
            trajectory.sample_id = f"{trajectory.uid}#{sampling.step}.{half + k}"
        group.trajectories += other.trajectories
    return groups
