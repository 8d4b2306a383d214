"""The online loop against an in-process world."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlcore.algorithms.config import AlgorithmConfig, CorrectionConfig, FilterConfig
from rlcore.data.sources.prompts import PromptStream
from rlcore.interfaces import Sampling, World
from rlcore.loops import online
from rlcore.loops.config import CheckpointConfig, EvalConfig, LearningRateConfig, ParityConfig, TrainerConfig
from rlcore.loops.ledger import Ledger
from rlcore.loops.parity import ParityError
from rlcore.loops.sampling import RewardFailure
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.metrics import Mean
from rlcore.rewards.config import OnFailure, RewardConfig
from rlcore.storage.checkpoint import Checkpoints
from rlcore.types import Group, RewardResult, Status, Trajectory
from tests.fakes import FakePolicy, FakeReference, FakeRewards, FakeRollout, FakeTracker, FakeWeights, prompts


def make_run(tmp_path: Path, steps: int = 6, judge=None, broken_sync: bool = False, **changes) -> online.OnlineRun:
    algorithm = AlgorithmConfig(correction=CorrectionConfig())
    algorithm.filters = changes.pop("filters", FilterConfig())
    trainer = TrainerConfig(
        steps=steps,
        prompts_per_step=4,
        samples_per_prompt=4,
        updates_per_step=2,
        learning_rate=LearningRateConfig(peak=20.0),
        eval=EvalConfig(every=0),
        checkpoint=CheckpointConfig(every=2),
    )
    trainer = dataclasses.replace(trainer, **changes.pop("trainer", {}))
    policy = FakePolicy()
    rollout = FakeRollout()
    world = World(
        prompts=PromptStream(prompts(), seed=3, shuffle=True),
        rollout=rollout,
        rewards=FakeRewards(judge),
        policy=policy,
        weights=FakeWeights(policy, rollout, broken_sync),
        checkpoints=Checkpoints(tmp_path / "checkpoints", keep=2),
        tracker=FakeTracker(),
    )
    return online.OnlineRun(
        world=world,
        trainer=trainer,
        algorithm=algorithm,
        reward=changes.pop("reward", RewardConfig()),
        sampling=Sampling(num_samples=4, max_new_tokens=2),
        eval_prompts=prompts(),
        ledger=Ledger(tmp_path / "ledger.jsonl"),
        stop=StopSignal(notify=lambda text: None),
        seed=7,
        config_hash="x",
        run_dir=tmp_path,
        **changes,
    )


def test_it_learns(tmp_path):
    run = make_run(tmp_path, steps=80)
    state = online.train(run)
    rows = run.world.tracker.rows
    assert rows[0]["eval/heldout/mean@1"] <= 0.3
    assert state.accuracy >= 0.9
    assert sorted(rows) == list(range(81))
    assert max(row["rollout/logprob_diff_max"] for step, row in rows.items() if step) < 1e-5


def test_every_sample_is_trained_once_per_epoch(tmp_path):
    run = make_run(tmp_path, steps=3, trainer={"epochs_per_step": 2, "updates_per_step": 3})
    online.train(run)
    updates = run.world.policy.updates
    assert len(updates) == 3 * 2 * 3
    for step in range(3):
        for epoch in range(2):
            start = (step * 2 + epoch) * 3
            ids = [i for part in updates[start : start + 3] for i in part]
            assert len(ids) == len(set(ids)) == 16
            assert all(f"#{step}." in i for i in ids)


def test_resumed_equals_uninterrupted(tmp_path):
    whole = make_run(tmp_path / "whole", steps=7)
    online.train(whole)

    class Killed(BaseException):
        pass

    def die(i: int) -> None:
        if len(first.world.rollout.seen) > 4 * 5:
            raise Killed

    first = make_run(tmp_path / "cut", steps=7)
    first.world.rollout.before_group = die
    with pytest.raises(Killed):
        online.train(first)
    second = make_run(tmp_path / "cut", steps=7)
    second.world.policy.table.data.normal_()  # whatever it starts from, the checkpoint is what counts
    state = online.train(second)
    assert state.step == 7
    assert any("resumed at step 4" in m for m in second.world.tracker.messages)
    assert np.array_equal(whole.world.policy.table.detach(), second.world.policy.table.detach())
    assert Ledger(tmp_path / "whole/ledger.jsonl").read() == Ledger(tmp_path / "cut/ledger.jsonl").read()
    assert [r["step"] for r in second.ledger.read()] == list(range(1, 8))
    assert state.counters == {"samples_generated": 112, "samples_trained": 112, "tokens_generated": 224}


def test_a_signal_while_sampling_keeps_the_last_step(tmp_path):
    run = make_run(tmp_path, steps=7, trainer={"checkpoint": CheckpointConfig(every=0)})

    def interrupt(i: int) -> None:
        if len(run.world.rollout.seen) == 4 * 4 and i == 2:
            run.stop._handle(15, None)

    run.world.rollout.before_group = interrupt
    with pytest.raises(Interrupted):
        online.train(run)
    assert run.world.checkpoints.load_latest()[1]["step"] == 3
    again = make_run(tmp_path, steps=7)
    assert online.train(again).step == 7
    assert [r["step"] for r in again.ledger.read()] == list(range(1, 8))


def test_a_signal_during_an_update_ends_after_the_step(tmp_path):
    run = make_run(tmp_path, steps=7, trainer={"checkpoint": CheckpointConfig(every=0)})
    publish = run.world.weights.publish

    def interrupt(after: int = -1):
        if run.world.weights.version == 1:
            run.stop._handle(2, None)
        return publish(after)

    run.world.weights.publish = interrupt
    with pytest.raises(Interrupted):
        online.train(run)
    assert run.world.checkpoints.load_latest()[1]["step"] == 2


def test_a_sync_that_does_nothing_is_noticed(tmp_path):
    run = make_run(tmp_path, steps=8, broken_sync=True, trainer={"parity": ParityConfig(every=3)})
    with pytest.raises(ParityError, match=r"disagree on log-probs.*tied embeddings"):
        online.train(run)
    rows = run.world.tracker.rows
    assert max(rows) == 6  # the seventh step is the first check after the weights moved
    assert rows[1]["rollout/logprob_diff_max"] < 1e-5
    assert rows[6]["rollout/logprob_diff_max"] > 1e-3  # shown, between two checks


def test_parity_stops_a_run_only_when_it_is_due(tmp_path):
    run = make_run(tmp_path, broken_sync=True, trainer={"parity": ParityConfig(every=0)})
    assert online.train(run).step == 6


def test_what_a_judge_measured_of_itself_is_logged(tmp_path):
    run = make_run(tmp_path, steps=2)
    run.world.judge = SimpleNamespace(metrics=lambda: {"judge/first_share": Mean(3.0, 4.0)})
    online.train(run)
    assert [run.world.tracker.rows[step]["judge/first_share"] for step in (1, 2)] == [0.75, 0.75]


def fail_some(status: Status, share: float):
    def judge(group: Group, t: Trajectory) -> RewardResult:
        if hash_of(t.sample_id) < share:
            return RewardResult(0.0, status, info={"error": "my_reward: boom"})
        return RewardResult(float(t.text == group.prompt.reference))

    return judge


def hash_of(text: str) -> float:
    import zlib

    return zlib.crc32(text.encode()) / 2**32


def test_unscorable_samples_are_masked_and_counted(tmp_path):
    run = make_run(tmp_path, judge=fail_some(Status.TIMEOUT, 0.2))
    online.train(run)
    for step, row in run.world.tracker.rows.items():
        if step:
            assert row["batch/filtered_unscorable"] == row["reward/status_timeout"]
            assert row["batch/samples_generated"] == row["batch/samples_trained"] + row["batch/filtered_unscorable"]
    assert sum(r["batch/filtered_unscorable"] for s, r in run.world.tracker.rows.items() if s) > 0


def test_too_many_failures_stop_the_run_and_show_some(tmp_path):
    with pytest.raises(RewardFailure, match=r"(?s)could not be scored.*my_reward: boom"):
        online.train(make_run(tmp_path, judge=fail_some(Status.ERROR, 0.9)))


def test_fail_stops_at_the_first_and_zero_goes_on(tmp_path):
    judge = fail_some(Status.ERROR, 0.3)
    with pytest.raises(RewardFailure):
        online.train(make_run(tmp_path / "a", judge=judge, reward=RewardConfig(on_failure=OnFailure.fail)))
    run = make_run(tmp_path / "b", judge=judge, reward=RewardConfig(on_failure=OnFailure.zero, max_failed_share=1.0))
    online.train(run)
    assert all(r["batch/samples_trained"] == 16 for s, r in run.world.tracker.rows.items() if s)


def test_all_filtered_steps_go_on(tmp_path):
    judge = lambda group, t: RewardResult(1.0)  # noqa: E731
    run = make_run(tmp_path, judge=judge, filters=FilterConfig(zero_variance=True), steps=2)
    online.train(run)
    assert run.world.policy.updates == []
    assert run.world.tracker.rows[2]["batch/filtered_zero_variance"] == 16
    assert any("filtered out" in m for m in run.world.tracker.messages)


def test_reference_is_used_only_with_a_kl_term(tmp_path):
    run = make_run(tmp_path, steps=1)
    run.world.reference = FakeReference()
    online.train(run)
    assert run.world.reference.calls == []
    run = make_run(tmp_path / "kl", steps=1)
    run.world.reference = FakeReference()
    run.algorithm.kl_coef = 0.1
    online.train(run)
    assert run.world.reference.calls == [16]
