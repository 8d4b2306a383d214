"""Scores reach their samples whatever finishes first, and failures follow the policy of the config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlcore import metrics as M
from rlcore.interfaces import Sampling
from rlcore.loops.sampling import RewardFailure, apply_failure_policy, sample_and_score, sample_metrics, with_step
from rlcore.rewards.config import OnFailure, RewardConfig
from rlcore.types import Group, Prompt, RewardResult, Status, Trajectory
from tests.fakes import FakeTracker, prompts


def sample(uid: str, k: int, reward: RewardResult | None = None, length: int = 2, end: str = "stop") -> Trajectory:
    size = 1 + length
    return Trajectory(
        uid=uid, sample_id=f"{uid}#0.{k}", tokens=np.zeros(size, np.int32), loss_mask=np.arange(size) > 0,
        rollout_logprobs=np.zeros(size, np.float32), versions=np.zeros(size, np.int32), num_prompt_tokens=1,
        finish_reason=end, text=f"{uid}.{k}", reward=reward,
    )  # fmt: skip


class Rollout:
    """Groups come back in the reverse order; `lost` never do."""

    def __init__(self, lost: Sequence[str] = ()) -> None:
        self.lost = lost

    def generate(self, asked: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        for prompt in reversed(asked):
            if prompt.uid not in self.lost:
                yield Group(prompt, [sample(prompt.uid, k) for k in range(sampling.num_samples)])


class Rewards:
    def submit(self, group: Group) -> Future[list[RewardResult]]:
        future: Future[list[RewardResult]] = Future()
        future.set_result([RewardResult(float(int(group.prompt.uid[1:]) + k)) for k in range(len(group.trajectories))])
        return future


def world(lost: Sequence[str] = ()) -> Any:
    return SimpleNamespace(rollout=Rollout(lost), rewards=Rewards(), tracker=FakeTracker())


def test_groups_come_back_in_the_order_of_the_prompts_with_their_own_scores() -> None:
    asked = prompts(4)
    groups = sample_and_score(world(), asked, Sampling(num_samples=2, max_new_tokens=2), RewardConfig())
    assert [g.prompt.uid for g in groups] == ["p0", "p1", "p2", "p3"]
    assert [[t.reward.score for t in g.trajectories if t.reward] for g in groups] == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_a_group_that_never_comes_back_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="4 prompts went to the rollout engines and 3 groups came back"):
        sample_and_score(world(["p2"]), prompts(4), Sampling(num_samples=1, max_new_tokens=2), RewardConfig())


def scene(num_failed: int, total: int = 10) -> list[Group]:
    results = [RewardResult(float("nan"), Status.TIMEOUT, info={"error": "too slow"}) for _ in range(num_failed)]
    results += [RewardResult(1.0)] * (total - num_failed)
    return [Group(prompts(1)[0], [sample("p0", k, result) for k, result in enumerate(results)])]


@pytest.mark.parametrize(
    ("policy", "limit", "num_failed", "stops"),
    [
        (OnFailure.mask, 0.2, 2, False),
        (OnFailure.mask, 0.2, 3, True),
        (OnFailure.zero, 0.2, 2, False),
        (OnFailure.zero, 0.2, 3, True),
        (OnFailure.fail, 1.0, 0, False),
        (OnFailure.fail, 1.0, 1, True),
    ],
)
def test_the_share_of_failures_at_which_a_run_stops(
    policy: OnFailure, limit: float, num_failed: int, stops: bool
) -> None:
    config = RewardConfig(on_failure=policy, max_failed_share=limit)
    groups = scene(num_failed)
    if stops:
        with pytest.raises(RewardFailure, match=rf"{num_failed} of 10 samples could not be scored(.|\n)*too slow"):
            apply_failure_policy(groups, config)
        return
    apply_failure_policy(groups, config)
    statuses = [t.reward.status for t in groups[0].trajectories if t.reward]
    assert statuses.count(Status.TIMEOUT) == (num_failed if policy is OnFailure.mask else 0)
    if policy is OnFailure.zero:
        first = groups[0].trajectories[0].reward
        assert first is not None
        assert (first.score, first.info["failed_as"]) == (0.0, "timeout")


def test_metrics_of_samples_by_hand() -> None:
    groups = [
        Group(
            prompts(2)[0], [sample("p0", 0, RewardResult(1.0, parts={"math": 1.0})), sample("p0", 1, RewardResult(0.0))]
        ),
        Group(
            prompts(2)[1],
            [
                sample("p1", 0, RewardResult(0.5, parts={"math": 0.5}), length=4, end="length"),
                sample("p1", 1, RewardResult(float("nan"), Status.ERROR)),
            ],
        ),
    ]
    got = M.values(sample_metrics(groups))
    assert got["reward/mean"] == 0.5
    assert got["reward/solved_groups"] == 0.5
    assert got["reward/part_math"] == 0.75
    assert got["reward/status_ok"] == 3
    assert got["reward/status_error"] == 1
    assert got["response_length/mean"] == 2.5
    assert got["response_length/max"] == 4
    assert got["response_length/clip_ratio"] == 0.25
    assert got["batch/samples_generated"] == 4
    assert got["batch/tokens_generated"] == 10


def test_every_step_and_refill_has_a_seed_of_its_own_that_a_resumed_run_finds_again() -> None:
    base = Sampling(num_samples=1, max_new_tokens=2)
    seeds = [with_step(base, seed, step, refill).seed for seed in (0, 1) for step in (0, 1) for refill in (0, 1)]
    assert len(set(seeds)) == 8
    assert with_step(base, 1, 0, 1) == with_step(base, 1, 0, 1)
    assert with_step(base, 0, 5).step == 5
