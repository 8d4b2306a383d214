"""A whole world as a run has it, built from a config: engines that take weights of policy and reference, and a critic.

Real Ray, DeepSpeed and vLLM on the built-in addition task.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.build import Built, open_world, prepare
from actors.config.compose import compose
from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.data.batching.collate import collate, supervised_batch
from rlcore.interfaces import Sampling
from rlcore.loops.learning import objectives_of
from rlcore.types import Group, Prompt, TrainBatch
from tests.fakes import FakeTracker

OVERRIDES = [
    "algorithm=xpo", "cluster=laptop_critic", "cluster.roles.policy.num_workers=1", "engine.zero_stage=3",
    "model.tiny.num_layers=2", "model.tiny.hidden_size=64", "model.tiny.intermediate_size=128",
    "model.tiny.num_heads=2", "data.num_eval=20", "rollout.cpu_kv_cache_gib=0.25",
]  # fmt: skip
SFT = SupervisedObjective()
RL, VALUES = objectives_of(compose(OVERRIDES).algorithm, Sampling(2, 4))
AGREE, APART = 1e-4, 1e-2  # nats per token, of engine and trainer

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def tracker() -> FakeTracker:
    return FakeTracker()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tracker: FakeTracker) -> Iterator[Built]:
    run_dir = tmp_path_factory.mktemp("world")
    config = compose([*OVERRIDES, f"run_dir={run_dir}"])
    inputs = prepare(config, run_dir)
    with open_world(config, run_dir, inputs, tracker) as built:
        world = built.world
        batch = supervised_batch(world.prompts.take(32), inputs.tokenizer)
        for _ in range(10):  # away from the reference
            world.policy.update(batch, 2e-3, SFT)
        world.weights.publish(after=0)
        yield built


def sampled(built: Built) -> tuple[TrainBatch, set[int]]:
    prompts = built.inputs.data.train[:16]
    groups: list[Group] = list(built.world.rollout.generate(prompts, Sampling(2, 4)))
    assert len(groups) == 16
    trajectories = [t for group in groups for t in group.trajectories]
    versions = {int(v) for t in trajectories for v in t.versions[t.loss_mask]}
    return collate(trajectories), versions


def agrees_with(built: Built) -> tuple[str, set[int]]:
    """Whose log-probs the engines' samples have, and under which versions."""
    batch, versions = sampled(built)
    assert built.world.reference is not None
    assert batch.rollout_logprobs is not None
    models = {"policy": built.world.policy, "reference": built.world.reference}
    differences = {
        name: np.abs(model.logprobs(batch) - batch.rollout_logprobs)[batch.loss_mask].max()
        for name, model in models.items()
    }
    best, other = sorted(differences, key=lambda name: differences[name])
    assert differences[best] < AGREE, differences
    assert differences[other] > APART, differences
    return best, versions


def test_engines_sample_from_policy_or_reference_and_a_dead_one_comes_back_with_the_right_weights(
    built: Built, tracker: FakeTracker
) -> None:
    weights, reference = built.world.weights, built.world.reference_weights
    assert reference is not None
    assert agrees_with(built) == ("policy", {1})
    sent = M.values(reference.publish_reference())
    assert sent["sync/megabytes"] > 0.1
    assert agrees_with(built) == ("reference", {1})

    ray.kill(built.rollout.handles[0])  # found dead while sampling
    assert agrees_with(built) == ("reference", {1})
    assert sum("restart 1 of" in message for message in tracker.messages) == 1

    weights.publish()
    assert agrees_with(built) == ("policy", {2})
    ray.kill(built.rollout.handles[1])  # found dead while sending
    reference.publish_reference()
    assert agrees_with(built) == ("reference", {2})
    weights.publish()
    assert agrees_with(built) == ("policy", {3})


def test_two_calls_at_once_survive_an_update_and_the_death_of_an_engine(built: Built, tracker: FakeTracker) -> None:
    world, train = built.world, built.inputs.data.train
    world.weights.publish()
    old, restarts = world.weights.version, sum("restart" in message for message in tracker.messages)
    world.rollout.metrics()
    arrived = threading.Semaphore(0)

    def generate(prompts: list[Prompt]) -> list[Group]:
        found = []
        for group in world.rollout.generate(prompts, Sampling(64, 8)):
            found.append(group)
            arrived.release()
        return found

    with ThreadPoolExecutor(2) as callers:
        calls = {start: callers.submit(generate, train[start : start + 80]) for start in (0, 80)}
        assert all(arrived.acquire(timeout=60) for _ in range(10))
        with world.weights.changing():
            world.policy.update(supervised_batch(train[:32], built.inputs.tokenizer), 2e-3, SFT)
        world.weights.publish()
        ray.kill(built.rollout.handles[0])
        found = {start: call.result(240) for start, call in calls.items()}
    for start, groups in found.items():
        assert sorted(g.prompt.uid for g in groups) == sorted(p.uid for p in train[start : start + 80])
    rows = [t for groups in found.values() for group in groups for t in group.trajectories]
    assert {t.begun_version for t in rows} == {old, old + 1}
    assert {t.engine for t in rows} == {0, 1}
    assert all(t.versions[t.loss_mask].min() >= t.begun_version for t in rows)
    new = collate([t for t in rows if t.begun_version == old + 1][:256])
    assert np.abs(world.policy.logprobs(new) - new.rollout_logprobs)[new.loss_mask].max() < AGREE
    share = M.values(world.rollout.metrics())["wait/engine_idle_share"]
    assert 0 <= share < 1
    assert {t.engine for g in world.rollout.generate(train[:64], Sampling(8, 8)) for t in g.trajectories} <= {0, 1}
    world.weights.publish()  # waits for the restart
    assert sum("restart" in message for message in tracker.messages) == restarts + 1
    assert agrees_with(built) == ("policy", {old + 2})


def test_the_critic_learns_beside_the_policy_and_both_fit_in_one_checkpoint(built: Built, tmp_path: Path) -> None:
    world = built.world
    assert world.critic is not None
    batch, _ = sampled(built)
    values = world.critic.values(batch)
    assert values.shape == batch.tokens.shape
    assert not values.any()
    batch = batch.with_arrays(values=values, returns=np.where(batch.loss_mask, 0.1, 0).astype(np.float32))
    first = M.values(world.critic.update(batch, 1e-3, VALUES))
    for _ in range(5):
        last = M.values(world.critic.update(batch, 1e-3, VALUES))
    assert last["critic/vf_loss"] < first["critic/vf_loss"]
    learnt, logprobs = world.critic.values(batch), world.policy.logprobs(batch)

    world.policy.save(tmp_path)
    world.critic.save(tmp_path / "critic")
    world.critic.update(batch, 1e-2, VALUES)
    world.policy.update(supervised_batch(built.inputs.data.train[:16], built.inputs.tokenizer), 1e-2, SFT)
    assert not np.array_equal(world.critic.values(batch), learnt)
    assert not np.array_equal(world.policy.logprobs(batch), logprobs)
    world.policy.load(tmp_path)
    world.critic.load(tmp_path / "critic")
    assert np.array_equal(world.critic.values(batch), learnt)
    assert np.array_equal(world.policy.logprobs(batch), logprobs)

    world.policy.export(tmp_path / "model")
    world.critic.initialize(tmp_path / "model")
    assert not world.critic.values(batch).any()  # the policy's body under a head that starts from 0


def test_pairs_are_trained_together(built: Built) -> None:
    """The preference objective takes rows two by two: half a pair in a micro-batch would be an error."""
    batch, _ = sampled(built)
    assert built.world.reference is not None
    batch = batch.with_arrays(
        ref_logprobs=built.world.reference.logprobs(batch),
        advantages=np.where(batch.loss_mask, 1, 0).astype(np.float32),
    )
    batch.scores, batch.rows_per_unit = np.tile([1, 0], len(batch) // 2).astype(np.float32), 2
    batch.by_opponent = np.tile([False, True], len(batch) // 2)
    found = M.values(built.world.policy.update(batch, 0.0, RL))
    assert np.isfinite(found["actor/pref_loss"])
    assert found["actor/skipped_steps"] == 0
