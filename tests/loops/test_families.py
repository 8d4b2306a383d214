"""The loop with a critic, a reference, refills and pairs, against an in-process world."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.config.compose import compose
from rlcore.algorithms.config import AlgorithmConfig, Family, FilterConfig, KLPlace, Opponent, PreferenceConfig, Scale
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.algorithms.value import ValueObjective
from rlcore.interfaces import Sampling
from rlcore.loops import online
from rlcore.loops.config import CheckpointConfig, LearningRateConfig, ParityConfig
from rlcore.loops.experience import collect
from rlcore.loops.learning import objectives_of, unit_rows
from rlcore.loops.ledger import Ledger
from rlcore.loops.staleness import current_rows
from rlcore.rewards.config import RewardConfig
from rlcore.types import RewardResult
from tests.fakes import FakeCritic, FakeReference, V
from tests.loops.test_online import make_run

PRESETS = sorted(p.stem for p in (Path(__file__).parents[2] / "conf/algorithm").glob("*.yaml"))


def family_run(tmp_path: Path, algorithm: AlgorithmConfig, **changes) -> online.OnlineRun:
    run = make_run(tmp_path, **changes)
    if algorithm.needs_critic:
        run.world.critic = FakeCritic()
    if algorithm.needs_reference:
        run.world.reference = FakeReference()
        run.world.reference_weights = run.world.weights
    return dataclasses.replace(run, algorithm=algorithm)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(Family.policy_gradient, PolicyGradientObjective), (Family.preference, PreferenceObjective)],
)
def test_objectives_of_the_family(family: Family, kind: type):
    policy, critic = objectives_of(AlgorithmConfig(family=family, value_clip=0.5), Sampling(4, 9, temperature=0.7))
    assert isinstance(policy, kind)
    assert (policy.temperature, policy.max_new_tokens) == (0.7, 9)
    assert critic == ValueObjective(0.5)


def preset(name: str) -> AlgorithmConfig:
    roles = [f"cluster.roles.{role}.num_workers=1" for role in ("reference", "critic")]
    return compose([f"algorithm={name}", *roles]).algorithm


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns(tmp_path, name):
    algorithm = preset(name)
    if name == "gspo":  # its range is made for long responses and small steps
        algorithm.clip_low = algorithm.clip_high = 0.2
    rate = 5.0 if name in ("rloo", "reinforce", "mdloo", "nash_md") else 20.0
    trainer = {
        "samples_per_prompt": 8,
        "updates_per_step": 1,
        "learning_rate": LearningRateConfig(peak=rate),
        "critic_learning_rate": LearningRateConfig(peak=0.5),
    }
    run = family_run(tmp_path, algorithm, steps=60, trainer=trainer)
    run = dataclasses.replace(run, sampling=Sampling(num_samples=8, max_new_tokens=2))
    state = online.train(run)
    rows = run.world.tracker.rows
    assert rows[0]["eval/heldout/mean@1"] <= 0.3
    assert state.accuracy >= 0.5, state
    assert run.world.weights.holds == "policy"
    assert max(row.get("rollout/logprob_diff_max", 0.0) for row in rows.values()) < 1e-5
    for step, row in rows.items():
        if step:
            filtered = sum(value for key, value in row.items() if key.startswith("batch/filtered_"))
            assert row["batch/samples_generated"] == row["batch/samples_trained"] + filtered


def test_ppo_trains_and_keeps_its_critic(tmp_path):
    algorithm = preset("ppo")
    algorithm.critic_warmup_steps = 2
    algorithm.kl_target, algorithm.kl_horizon = 0.5, 64
    critic_rate = LearningRateConfig(peak=0.5)
    changes = {"trainer": {"critic_learning_rate": critic_rate, "checkpoint": CheckpointConfig(every=2)}}
    run = family_run(tmp_path / "whole", algorithm, steps=5, **changes)
    online.train(run)
    assert len(run.world.policy.updates) == 2 * 3  # none while the critic warmed up
    assert len(run.world.critic.rates) == 2 * 5
    rows = run.world.tracker.rows
    assert {"critic/vf_loss", "critic/explained_variance", "reward/kl", "reward/kl_coef"} <= set(rows[3])
    assert len({row["reward/kl_coef"] for step, row in rows.items() if step}) > 1

    cut = family_run(tmp_path / "cut", algorithm, steps=5, **changes)
    online.train(dataclasses.replace(cut, trainer=dataclasses.replace(cut.trainer, steps=4)))
    again = family_run(tmp_path / "cut", algorithm, steps=5, **changes)
    again.world.critic.table.data.normal_()
    state = online.train(again)
    assert torch.equal(again.world.critic.table, run.world.critic.table)
    assert torch.equal(again.world.policy.table, run.world.policy.table)
    assert state.kl["coef"] == run.world.checkpoints.load_latest()[1]["kl"]["coef"] != algorithm.kl_coef


def test_critic_and_reference_start_from_the_warmed_up_policy(tmp_path):
    def run_to(steps: int) -> online.OnlineRun:
        run = family_run(tmp_path, preset("ppo"), steps=2)

        def warm_up(accuracy) -> None:
            run.world.policy.table.data += 3.0

        return dataclasses.replace(run, warm_up=warm_up, trainer=dataclasses.replace(run.trainer, steps=steps))

    run = run_to(1)
    online.train(run)
    warm = torch.full((V, V), 3.0)
    assert torch.equal(run.world.critic.started_from, warm)
    assert torch.equal(run.world.reference.model.table, warm)
    again = run_to(2)
    online.train(again)
    assert torch.equal(again.world.reference.model.table, warm)  # also after a resume


def sometimes(group, t) -> RewardResult:
    """Odd prompts are hopeless: all their samples score 0."""
    return RewardResult(0.0 if int(group.prompt.text) % 2 else float(int(t.text) % 2))


def test_refills_until_there_are_enough_prompts(tmp_path):
    algorithm = AlgorithmConfig(scale=Scale.none, filters=FilterConfig(zero_variance=True), refill_rounds=20)
    run = family_run(tmp_path, algorithm, judge=sometimes, steps=1)
    sampling = Sampling(num_samples=8, max_new_tokens=2)
    run.world.weights.publish()
    found = collect(run.world, algorithm, RewardConfig(), sampling, 4, seed=1, step=0)
    assert len(found.kept) == 4
    assert all(int(g.prompt.text) % 2 == 0 for g in found.kept)
    assert found.rounds > 1
    assert len(found.prompts) == len(found.groups) > 4
    assert len(found.sample_ids) == 32 == len(set(found.sample_ids))
    generated = sum(len(g.trajectories) for g in found.groups)
    assert generated == 32 + found.filtered["zero_variance"] + found.filtered["surplus"]


def test_refills_end(tmp_path):
    algorithm = AlgorithmConfig(filters=FilterConfig(zero_variance=True), refill_rounds=2)
    run = family_run(tmp_path, algorithm, judge=lambda group, t: RewardResult(1.0), steps=1)
    online.train(run)
    row = run.world.tracker.rows[1]
    assert row["batch/sampling_rounds"] == 3
    assert row["batch/samples_generated"] == 3 * 16 == row["batch/filtered_zero_variance"]
    assert len(Ledger(tmp_path / "ledger.jsonl").read()[0]["uids"]) == 12


def test_a_refill_at_the_end_of_an_epoch_draws_other_prompts(tmp_path):
    """Ten prompts, four a step: the refill of the third step begins an epoch that has the step's own prompts again."""
    algorithm = AlgorithmConfig(filters=FilterConfig(zero_variance=True), refill_rounds=1)
    run = family_run(tmp_path, algorithm, judge=lambda group, t: RewardResult(1.0), steps=1)
    run.world.weights.publish()
    for step in range(20):
        found = collect(run.world, algorithm, RewardConfig(), Sampling(4, max_new_tokens=2), 4, seed=1, step=step)
        assert len(found.prompts) == 8 == len({p.text for p in found.prompts})


def test_a_step_larger_than_the_data_has_groups_of_different_uids(tmp_path):
    run = family_run(tmp_path, AlgorithmConfig(), steps=1)
    run.world.weights.publish()
    found = collect(run.world, AlgorithmConfig(), RewardConfig(), Sampling(2, max_new_tokens=2), 24, seed=1, step=0)
    assert len(found.groups) == 24
    assert len({p.text for p in found.prompts}) == 10
    assert len(set(found.sample_ids)) == len(found.sample_ids) == 48


def test_every_round_samples_anew(tmp_path):
    algorithm = AlgorithmConfig(filters=FilterConfig(zero_variance=True), refill_rounds=1)
    run = family_run(tmp_path, algorithm, judge=lambda group, t: RewardResult(1.0), steps=1)
    seeds, generate = [], run.world.rollout.generate
    run.world.rollout.generate = lambda prompts, sampling: (seeds.append(sampling.seed), generate(prompts, sampling))[1]
    online.train(run)
    assert len(set(seeds[1:3])) == 2  # between the evaluations at start and end, which share a seed
    assert len(seeds) == 4


def test_half_of_the_samples_come_from_the_reference(tmp_path):
    preference = PreferenceConfig(opponent=Opponent.reference, pairs_per_prompt=2)
    algorithm = AlgorithmConfig(name="x", family=Family.preference, preference=preference)
    run = family_run(tmp_path, algorithm, steps=1, judge=lambda group, t: RewardResult(float(t.text == "3")))
    run.world.policy.table.data[:, 3] = 50.0  # the policy says 3, whatever it is asked
    run.world.weights.publish()
    found = collect(run.world, algorithm, RewardConfig(), Sampling(num_samples=4, max_new_tokens=2), 4, seed=1, step=0)
    for group in found.groups:
        assert [t.text for t in group.trajectories[:2]] == ["3", "3"]
        assert [t.sample_id.rpartition(".")[2] for t in group.trajectories] == ["0", "1", "2", "3"]
    others = {t.text for g in found.groups for t in g.trajectories[2:]}
    assert len(others) > 1
    ids = found.sample_ids
    current = current_rows(found.trained, version=0)
    assert all(int(ids[row].rpartition(".")[2]) < 2 for row in current)
    assert len(current) * 2 == len(ids) > 0


def test_pairs_stay_together(tmp_path):
    run = family_run(tmp_path, preset("online_dpo"), steps=4)
    online.train(run)
    assert run.world.policy.updates
    for ids in run.world.policy.updates:
        for chosen, rejected in zip(ids[::2], ids[1::2], strict=True):
            assert chosen.partition("#")[0] == rejected.partition("#")[0]
            assert chosen != rejected


def test_units_of_rows():
    assert unit_rows(np.array([2, 0]), 2).tolist() == [4, 5, 0, 1]
    assert unit_rows(np.array([2, 0]), 1).tolist() == [2, 0]


@pytest.mark.parametrize(("updates", "epochs", "scored"), [(1, 1, 0), (2, 1, 8), (4, 1, 12), (2, 2, 16)])
def test_only_rows_of_later_updates_are_scored_beforehand(tmp_path, updates, epochs, scored):
    trainer = {"updates_per_step": updates, "epochs_per_step": epochs, "parity": ParityConfig(every=0)}
    run = family_run(tmp_path, AlgorithmConfig(), steps=2, trainer=trainer)
    calls, logprobs = [], run.world.policy.logprobs
    run.world.policy.logprobs = lambda batch, rows: (calls.append(len(rows)), logprobs(batch, rows=rows))[1]
    online.train(run)
    assert calls == ([16] if not scored else [scored, scored])  # the first step is always compared
    assert sum(len(ids) for ids in run.world.policy.updates) == 2 * 16 * epochs


def test_a_kl_in_the_reward_needs_the_old_logprobs(tmp_path):
    algorithm = AlgorithmConfig(kl_coef=0.1, kl_in=KLPlace.reward)
    run = family_run(tmp_path, algorithm, steps=2, trainer={"updates_per_step": 1})
    online.train(run)
    assert run.world.reference.calls == [16, 16]
    assert run.world.tracker.rows[2]["reward/kl"] >= 0
