"""The online loop with samples that are collected ahead, in an in-process world."""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rlcore.algorithms.config import FilterConfig
from rlcore.data.sources.prompts import PromptStream
from rlcore.loops import online
from rlcore.loops.config import CheckpointConfig, EvalConfig, ParityConfig
from rlcore.loops.ledger import Ledger
from rlcore.loops.stop import Interrupted
from rlcore.types import Group, RewardResult, Status, Trajectory
from tests.fakes import prompts
from tests.loops.test_online import make_run

STEPS = 8


class Killed(BaseException):
    pass


def ahead(tmp_path: Path, depth: int, steps: int = STEPS, refills: int = 0, **trainer) -> online.OnlineRun:
    """A run whose groups take a random short time."""
    changes = {"max_staleness": depth, "parity": ParityConfig(stop=False), **trainer}
    filters = FilterConfig(zero_variance=bool(refills))
    run = make_run(tmp_path, steps=steps, trainer=changes, filters=filters)
    run = dataclasses.replace(run, algorithm=dataclasses.replace(run.algorithm, refill_rounds=refills))
    run.world.prompts = PromptStream(prompts(200), seed=3)
    spread = random.Random(depth)
    run.world.rollout.before_group = lambda i: time.sleep(spread.random() * 0.002)
    return run


def kept_versions(run: online.OnlineRun) -> list[tuple[int, list[int]]]:
    """Per step: the versions of its tokens."""
    seen: dict[int, set[int]] = {}
    generate = run.world.rollout.generate

    def watched(prompts, sampling):
        for group in generate(prompts, sampling):
            for t in group.trajectories if sampling.step >= 0 else ():
                seen.setdefault(sampling.step, set()).update(int(v) for v in t.versions[t.loss_mask])
            yield group

    run.world.rollout.generate = watched
    online.train(run)
    return [(step, sorted(versions)) for step, versions in sorted(seen.items())]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_no_token_is_older_than_the_limit_and_all_is_trained(tmp_path, depth):
    run = ahead(tmp_path, depth)
    versions = kept_versions(run)
    assert [step for step, _ in versions] == list(range(STEPS))
    assert all(step - depth <= v <= step for step, found in versions for v in found)
    assert versions[0][1] == versions[depth][1] == [0], "the first steps begin with the first weights"
    rows = run.ledger.read()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert Counter(uid for row in rows for uid in row["uids"]).total() == 4 * STEPS
    assert [run.world.tracker.rows[step]["train/version"] for step in range(1, STEPS + 1)] == list(range(1, STEPS + 1))
    assert all(run.world.tracker.rows[step]["wait/trainer_s"] >= 0 for step in range(1, STEPS + 1))


def test_every_depth_trains_the_same_prompts(tmp_path):
    taken = []
    for depth in (0, 1, 3):
        run = ahead(tmp_path / str(depth), depth)
        online.train(run)
        taken.append([row["uids"] for row in run.ledger.read()])
    assert taken[0] == taken[1] == taken[2]


@pytest.mark.parametrize("depth", [1, 2])
def test_it_learns_from_older_samples(tmp_path, depth):
    run = ahead(tmp_path, depth, steps=80)
    assert online.train(run).accuracy >= 0.9


@pytest.mark.parametrize("refills", [0, 2])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("place", ["generate", "update", "publish", "save", "evaluate"])
def test_killed_anywhere_nothing_is_lost_or_trained_twice(tmp_path, depth, place, refills):
    """The prompts are those of an uninterrupted run: per step without refills, else as a whole."""
    settings = {"eval": EvalConfig(every=2), "checkpoint": CheckpointConfig(every=2)}

    def killed(run: online.OnlineRun) -> None:
        count = [0]

        def die(*args, **kwargs):
            count[0] += 1
            if count[0] > {"generate": 13, "update": 9, "publish": 4, "save": 2, "evaluate": 2}[place]:
                raise Killed

        world = run.world
        if place == "generate":
            world.rollout.before_group = die
        elif place == "update":
            world.policy.before_update = die
        else:
            name = {"publish": "publish", "save": "save", "evaluate": "generate"}[place]
            owner = {"publish": world.weights, "save": world.policy, "evaluate": world.rollout}[place]
            original = getattr(owner, name)

            def first_die(*args, **kwargs):
                if place != "evaluate" or args[1].step < 0:
                    die()
                return original(*args, **kwargs)

            setattr(owner, name, first_die)
        with pytest.raises(Killed):
            online.train(run)

    whole = ahead(tmp_path / "whole", depth, refills=refills, **settings)
    online.train(whole)
    killed(ahead(tmp_path / "cut", depth, refills=refills, **settings))
    second = ahead(tmp_path / "cut", depth, refills=refills, **settings)
    assert online.train(second).step == STEPS
    expected, rows = whole.ledger.read(), second.ledger.read()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    if not refills:
        assert [row["uids"] for row in rows] == [row["uids"] for row in expected]
    trained = Counter(uid for row in rows for uid in row["uids"])
    state = second.world.checkpoints.load_latest()[1]
    assert max(trained.values()) == 1
    assert state["taken"] == {}
    assert len(trained) + len(state["returned"]) == state["prompts"]["position"]
    if depth == 0:
        assert np.array_equal(whole.world.policy.table.detach(), second.world.policy.table.detach())


def test_a_resumed_run_gives_every_step_the_prompts_it_had(tmp_path):
    first = ahead(tmp_path, 2, checkpoint=CheckpointConfig(every=3))
    save, states = first.world.checkpoints.save, []

    def note(step, state, write):
        states.append((step, state["taken"]))
        return save(step, state, write)

    first.world.checkpoints.save = note
    online.train(first)
    uids = [row["uids"] for row in first.ledger.read()]
    assert [step for step, _ in states] == [0, 3, 6, STEPS]
    for step, taken in states[1:-1]:
        assert {int(s): had for s, had in taken.items()} == {s: uids[s] for s in range(step, min(step + 3, STEPS))}
    assert states[-1][1] == {}


def test_a_signal_ends_the_threads_and_the_run_goes_on(tmp_path):
    run = ahead(tmp_path, 2, checkpoint=CheckpointConfig(every=0))
    count = []

    def interrupt() -> None:
        count.append(1)
        if len(count) == 7:
            run.stop._handle(15, None)

    run.world.policy.before_update = interrupt
    with pytest.raises(Interrupted):
        online.train(run)
    step = run.world.checkpoints.load_latest()[1]["step"]
    assert step == 4
    again = ahead(tmp_path, 2)
    assert online.train(again).step == STEPS
    assert [row["step"] for row in again.ledger.read()] == list(range(1, STEPS + 1))


def test_weights_can_be_sent_less_often(tmp_path):
    run = ahead(tmp_path, 2, publish_every=3)
    publish, sent = run.world.weights.publish, []

    def note(after: int = -1):
        metrics = publish(after)
        sent.append(run.world.weights.version)
        return metrics

    run.world.weights.publish = note
    versions = kept_versions(run)
    assert sent == [0, 1, 3, 6, 8], "and when parity is checked, and at the end"
    assert all(step - 2 <= v <= step for step, found in versions for v in found)


def test_a_reward_that_fails_is_raised_in_its_step(tmp_path):
    run = ahead(tmp_path, 2)

    def judge(group: Group, t: Trajectory) -> RewardResult:
        failed = "#3." in t.sample_id
        return RewardResult(0.0, Status.ERROR if failed else Status.OK, info={"error": "my_reward: boom"})

    run.world.rewards.judge = judge
    with pytest.raises(RuntimeError, match="could not be scored") as caught:
        online.train(run)
    assert caught.value.__notes__ == ["raised while the samples of step 4 were collected"]
    assert Ledger(tmp_path / "ledger.jsonl").read()[-1]["step"] == 3
