"""Sampling and scoring for training and evaluation: each group is scored while others are still generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlcore.interfaces import Sampling, World
from rlcore.metrics import Max, Mean, Metrics, Sum
from rlcore.problems import UserError
from rlcore.rewards.config import OnFailure, RewardConfig
from rlcore.types import Group, Prompt, RewardResult, Status, Trajectory


class RewardFailure(UserError, RuntimeError):
    """Too many samples could not be scored, or one with `on_failure: fail`."""


def sample_and_score(
    world: World, prompts: Sequence[Prompt], sampling: Sampling, config: RewardConfig, phase: str = "gen"
) -> list[Group]:
    """Samples every prompt and scores every sample; groups come back in the order of `prompts`.

    A rollout is scored once, for all of its trajectories; an environment may have scored it already.

    Raises:
        RewardFailure: the share of samples with a status other than `ok` exceeds `config.max_failed_share`, or any
            failed with `on_failure: fail`. The message shows some of them.
    """
    pending = []
    with world.tracker.phase(phase, total=len(prompts)) as advance:
        for group in world.rollout.generate(prompts, sampling):
            unscored = Group(group.prompt, [t for t in group.rollouts if t.reward is None])
            pending.append((group, unscored, world.rewards.submit(unscored) if unscored.trajectories else None))
            advance()
    with world.tracker.phase("reward" if phase == "gen" else f"{phase}_reward", total=len(pending)) as advance:
        for group, unscored, future in pending:
            if future is not None:
                for trajectory, result in zip(unscored.trajectories, future.result(), strict=True):
                    trajectory.reward = result
                share_rewards(group)
            advance()
    place = {prompt.uid: i for i, prompt in enumerate(prompts)}
    groups = sorted((group for group, _, _ in pending), key=lambda group: place[group.prompt.uid])
    if len(groups) != len(prompts):
        raise RuntimeError(f"{len(prompts)} prompts went to the rollout engines and {len(groups)} groups came back")
    apply_failure_policy(groups, config)
    return groups


def share_rewards(group: Group) -> None:
    """Gives all trajectories of a rollout the reward of its last one."""
    rewards = {t.rollout_id: t.reward for t in group.rollouts if t.rollout_id}
    for t in group.trajectories:
        t.reward = rewards.get(t.rollout_id, t.reward)


def apply_failure_policy(groups: Sequence[Group], config: RewardConfig) -> None:
    """Converts failures to zeros with `on_failure: zero`, and stops the run if there are too many."""
    failed = [(g, t) for g in groups for t in g.rollouts if not scored(t).ok]
    total = sum(len(g.rollouts) for g in groups)
    limit = 0.0 if config.on_failure is OnFailure.fail else config.max_failed_share
    if failed and len(failed) > limit * total:
        raise RewardFailure(_describe_failures(failed, total, limit))
    if config.on_failure is OnFailure.zero:
        for _, t in failed:
            result = scored(t)
            t.reward = RewardResult(0.0, Status.OK, result.parts, {**result.info, "failed_as": result.status.value})
        for group in groups:
            share_rewards(group)


def scored(trajectory: Trajectory) -> RewardResult:
    if trajectory.reward is None:
        raise RuntimeError(f"sample {trajectory.sample_id} was never scored")
    return trajectory.reward


def _describe_failures(failed: Sequence[tuple[Group, Trajectory]], total: int, limit: float) -> str:
    shown = []
    for group, t in failed[:3]:
        result = scored(t)
        shown.append(
            f"  {t.sample_id}: {result.status.value}: {result.info.get('error', 'no reason given')}\n"
            f"    prompt {group.prompt.text[-80:]!r}\n    response {t.text[:80]!r}\n"
            f"    reference {group.prompt.reference!r}"
        )
    return (
        f"{len(failed)} of {total} samples could not be scored, the limit is {limit:.0%} of them "
        f"(reward.max_failed_share, reward.on_failure). Fix the reward or the data. Some of them:\n" + "\n".join(shown)
    )


def sample_metrics(groups: Sequence[Group]) -> Metrics:
    """Rewards (of scored rollouts), lengths, statuses and staleness of freshly sampled groups."""
    trajectories = [t for g in groups for t in g.trajectories]
    results = [scored(t) for g in groups for t in g.rollouts]
    scores = np.array([r.score for r in results if r.ok], dtype=np.float64)
    lengths = np.array([t.num_response_tokens for t in trajectories], dtype=np.float64)
    count = len(trajectories)
    solved = sum(any(scored(t).score >= 1 for t in g.trajectories) for g in groups)
    metrics: Metrics = {
        "reward/mean": Mean(float(scores.sum()), scores.size),
        "reward/solved_groups": Mean(solved, len(groups)),
        "response_length/mean": Mean(float(lengths.sum()), count),
        "response_length/max": Max(float(lengths.max(initial=0))),
        "response_length/clip_ratio": Mean(sum(t.finish_reason == "length" for t in trajectories), count),
        "batch/samples_generated": Sum(count),
        "batch/tokens_generated": Sum(float(lengths.sum())),
    }
    for status in Status:
        metrics[f"reward/status_{status.value}"] = Sum(sum(r.status is status for r in results))
    for name in sorted({name for r in results for name in r.parts}):
        parts = [r.parts[name] for r in results if r.ok and name in r.parts]
        metrics[f"reward/part_{name}"] = Mean(float(sum(parts)), len(parts))
    return metrics


def with_step(sampling: Sampling, seed: int, step: int, refill: int = 0) -> Sampling:
    """Sampling settings of one step, seeded by run seed, step and refill, so that a resumed step gives the same
    samples.
    """
    mixed = int(np.random.SeedSequence([seed, step, *([refill] if refill else [])]).generate_state(1)[0])
    return dataclasses.replace(sampling, seed=mixed, step=step)
