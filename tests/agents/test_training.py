"""Trajectories of several turns in the losses: tokens of tools count for nothing, rollouts count once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlcore.algorithms import policy_gradient
from rlcore.algorithms.config import AlgorithmConfig, Baseline, FilterConfig, KLPlace, Scale
from rlcore.data.batching.collate import collate
from rlcore.loops.evaluate import _metrics
from rlcore.loops.sampling import sample_metrics, share_rewards
from rlcore.metrics import values
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import Group, Prompt, RewardResult, Trajectory

PROMPT = Prompt("p", (1, 2), "1+1=")


def trajectory(k: int, score: float, pieces: list[tuple[int, bool]], part: int = 0) -> Trajectory:
    """Two tokens of prompt, then pieces (number of tokens, sampled)."""
    mask = np.array([False, False, *(sampled for count, sampled in pieces for _ in range(count))])
    rng = np.random.default_rng([k, part])
    rollout = f"p#0.{k}"
    return Trajectory(
        uid="p",
        sample_id=f"{rollout}.{part}" if part else rollout,
        tokens=rng.integers(3, 50, mask.size).astype(np.int32),
        loss_mask=mask,
        rollout_logprobs=np.where(mask, -rng.random(mask.size), 0).astype(np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        num_prompt_tokens=2,
        finish_reason="stop",
        text=str(k),
        reward=RewardResult(score),
        rollout_id=rollout,
    )


TURNS = [(3, True), (4, False), (2, True), (2, False), (1, True)]
ALGORITHMS = {
    "grpo": AlgorithmConfig(),
    "ppo": AlgorithmConfig(advantage="gae", gamma=0.9, lam=0.8),
    "reinforce_pp": AlgorithmConfig(advantage="returns", gamma=0.9, whiten=True),
}


def credited(groups: list[Group], config: AlgorithmConfig):
    batch = collate([t for group in groups for t in group.trajectories])
    numbers = np.random.default_rng(5)
    kept = batch.loss_mask
    old, value = (np.where(kept, -numbers.random(kept.size), 0).astype(np.float32) for _ in range(2))
    return policy_gradient.credit(groups, batch.with_arrays(old_logprobs=old, values=value), config, 0.0, 16)[0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_tokens_of_tools_have_no_loss_and_no_gradient(name):
    """Whatever the model says of them, and whatever stands in any array there: nothing changes."""
    config = ALGORITHMS[name]
    batch = credited([Group(PROMPT, [trajectory(0, 1.0, TURNS), trajectory(1, 0.0, TURNS[:3])])], config)
    goal = policy_gradient.PolicyGradientObjective(config, temperature=1.0, max_new_tokens=16)
    rng, found = np.random.default_rng(0), []
    of_model = -rng.random(batch.num_tokens)
    for disturbed in (False, True):
        noise = np.where(batch.loss_mask, 0.0, rng.normal(size=batch.num_tokens) * 9 * disturbed)
        here = batch.with_arrays(
            **{n: (a + noise).astype(np.float32) for n in batch.ARRAYS if (a := getattr(batch, n)) is not None}
        )
        logprobs = torch.tensor(batch.padded(of_model + noise), dtype=torch.float32, requires_grad=True)
        tensors = TensorBatch.from_train_batch(here)
        loss, _ = goal.loss(Outputs(logprobs, torch.zeros_like(logprobs)), tensors, goal.denominator(here))
        loss.backward()
        assert (logprobs.grad[~tensors.loss_mask] == 0).all()
        assert (logprobs.grad[tensors.loss_mask] != 0).any()
        found.append((loss.item(), logprobs.grad.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp"])
def test_credit_steps_over_the_tokens_of_tools(name):
    """Advantages are those of the same turns without anything between them."""
    config = replace(ALGORITHMS[name], whiten=False)
    with_tools, without = trajectory(0, 1.0, TURNS), trajectory(0, 1.0, [(6, True)])
    batches = [collate([t]) for t in (with_tools, without)]
    numbers = np.random.default_rng(5).random(6).astype(np.float32)
    found = []
    for batch, t in zip(batches, (with_tools, without), strict=True):
        spread = np.zeros(batch.num_tokens, np.float32)
        spread[batch.loss_mask] = numbers
        arrays = {"old_logprobs": spread, "values": spread}
        out, _ = policy_gradient.credit([Group(PROMPT, [t])], batch.with_arrays(**arrays), config, 0.0, 16)
        found.append(out.advantages[out.loss_mask])
    np.testing.assert_array_equal(*found)


def broken() -> list[Trajectory]:
    """Three rollouts; the first has three trajectories."""
    parts = [trajectory(0, 1.0, [(2, True)], part) for part in range(3)]
    return [*parts, trajectory(1, 0.0, [(3, True)]), trajectory(2, 0.0, [(1, True)])]


@pytest.mark.parametrize("baseline", Baseline)
@pytest.mark.parametrize("scale", Scale)
def test_statistics_count_a_rollout_once(baseline, scale):
    config = AlgorithmConfig(baseline=baseline, scale=scale)
    many, single = broken(), [t for t in broken() if t.sample_id.count(".") == 1]
    assert len(single) == 3
    advantages = []
    for trajectories in (many, single):
        batch = credited([Group(PROMPT, trajectories)], config)
        ends = batch.offsets[1:] - 1  # the last token is trained in each row
        advantages.append(batch.advantages[ends])
    assert advantages[0].tolist() == advantages[1][[0, 0, 0, 1, 2]].tolist()


def test_the_kl_penalty_of_a_rollout_is_that_of_all_its_trajectories():
    config = AlgorithmConfig(kl_in=KLPlace.reward, kl_coef=0.5, baseline=Baseline.none, scale=Scale.none)
    trajectories = broken()
    batch = collate(trajectories)
    old = np.where(batch.loss_mask, 0.25, 0).astype(np.float32)
    batch = batch.with_arrays(old_logprobs=old, ref_logprobs=np.zeros_like(old))
    inputs, _ = policy_gradient.advantage_inputs([Group(PROMPT, trajectories)], batch, config, 0.5, 16)
    assert inputs.scores.tolist() == [1, 1, 1, 0, 0]
    penalty = inputs.kl_penalties()[batch.loss_mask][0].item()  # of one token
    assert penalty != 0
    np.testing.assert_allclose(inputs.totals, [1 - 6 * penalty] * 3 + [-3 * penalty, -penalty])


def test_filters_and_metrics_count_rollouts():
    group = Group(PROMPT, broken())
    kept, counts = policy_gradient.filter_groups([group], FilterConfig(), alone=False)
    assert (len(kept[0].trajectories), sum(counts.values())) == (5, 0)
    only = Group(PROMPT, broken()[:3])
    kept, counts = policy_gradient.filter_groups([only], FilterConfig(), alone=False)
    assert (kept, counts["alone"]) == ([], 3)
    masked = broken()
    masked[3].masked = True
    kept, counts = policy_gradient.filter_groups([Group(PROMPT, masked)], FilterConfig())
    assert (len(kept[0].trajectories), counts["overlong"]) == (4, 1)
    found = values(sample_metrics([group]))
    assert found["reward/mean"] == pytest.approx(1 / 3)
    assert found["batch/samples_generated"] == 5
    assert _metrics("heldout", [group], 3)["eval/heldout/mean@3"] == pytest.approx(1 / 3)


def test_trajectories_of_a_rollout_share_its_reward():
    group = Group(PROMPT, broken())
    for t in group.trajectories:
        t.reward = None
    for t, score in zip(group.rollouts, (0.5, 0.25, 0.0), strict=True):
        t.reward = RewardResult(score)
    share_rewards(group)
    assert [t.reward.score for t in group.trajectories] == [0.5, 0.5, 0.5, 0.25, 0.0]
