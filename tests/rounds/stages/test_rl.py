from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from rlcore.data.batching.collate import collate
from rlcore.loops.online import LoopState
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import RewardConfig, RewardTermConfig
from rlcore.rewards.registry import RewardError
from rlcore.rewards.scorers import RewardModelScorer
from rlcore.rounds.plan.config import ScoreBy
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.rl import RlConfig, _report, rewards_of
from rlcore.rounds.stages.sft import SftConfig
from rlcore.types import Group, Prompt, RewardResult, Trajectory
from tests.rounds.world import Stand, train


class Verifiers:
    def submit(self, group):
        future = Future()
        future.set_result([RewardResult(1.0) for _ in group.trajectories])
        return future


def a_group() -> Group:
    def sample(k):
        sampled = np.array([False, True, True])
        return Trajectory("p", f"p#{k}", np.array([1, 2 + k, 9], np.int32), sampled, np.zeros(3, np.float32),
                          np.where(sampled, 0, -1).astype(np.int32), 1, "stop", str(k))  # fmt: skip

    return Group(Prompt("p", (1,), "p"), [sample(0), sample(1)])


def context(by: ScoreBy, rewards) -> SimpleNamespace:
    return SimpleNamespace(config=RlConfig(by=by), live=SimpleNamespace(world=SimpleNamespace(rewards=rewards)))


def scores(scorer) -> list[float]:
    return [r.score for r in scorer.submit(a_group()).result(10)]


def test_who_rewards():
    model = RewardModelScorer(
        lambda batch: batch.padded("tokens")[:, 1].astype(np.float32),
        10,
        lambda gs: collate([t for g in gs for t in g.trajectories]),
    )
    both = ComposedScorer(Verifiers(), model, None, RewardConfig())
    assert scores(rewards_of(context(ScoreBy.reward, both))) == [1.0, 1.0]
    assert scores(rewards_of(context(ScoreBy.reward_model, both))) == [2.0, 3.0]
    with pytest.raises(RewardError, match="'judge' is to score"):
        rewards_of(context(ScoreBy.judge, both))
    with pytest.raises(RewardError, match="only verifiers"):
        rewards_of(context(ScoreBy.reward_model, Verifiers()))
    model.close()


def test_every_round_has_an_order_of_prompts_of_its_own(tmp_path):
    stand = Stand(tmp_path, {"rl": RlConfig(overrides=["trainer.steps=2"])}, count=2)
    stand.run()
    orders = [uids for _, uids, num_samples, _ in (e for e in stand.log if e[0] == "generate") if num_samples == 4]
    assert len(orders) == 4
    assert orders[:2] != orders[2:]
    again = Stand(tmp_path / "again", stand.stages, count=2)
    again.run()
    assert again.log == stand.log


def test_only_a_verified_reward_is_called_accuracy():
    state = LoopState(step=3, accuracy=0.5, best={"step": 2, "accuracy": 0.75})
    one, two = RewardConfig(), RewardConfig(terms=[RewardTermConfig(), RewardTermConfig(name="regex", weight=0.2)])
    assert _report(state, ScoreBy.reward, one) == {"steps": 3, "accuracy": 0.5, "best": {"step": 2, "accuracy": 0.75}}
    mean = {"steps": 3, "mean_reward": 0.5, "best": {"step": 2, "reward": 0.75}}
    assert _report(state, ScoreBy.reward_model, one) == _report(state, ScoreBy.reward, two) == mean


def test_rl_from_its_start_on_its_prompts(tmp_path):
    stages = {
        "sft": SftConfig(data=["answers"], train=train(4)),
        "rl": RlConfig(start="sft", overrides=["trainer.steps=40"]),
        "before": EvaluateConfig(model="sft", num_samples=8, temperature=1.0),
        "after": EvaluateConfig(model="rl", num_samples=8, temperature=1.0),
    }
    stand = Stand(tmp_path, stages)
    made = stand.run()
    assert made[1, "after"].report["accuracy"] > made[1, "before"].report["accuracy"] + 0.1
    assert made[1, "rl"].report["steps"] == 40
    assert stand.live.world.policy.loaded[0].parent.name.startswith("r01-sft")  # `before` ran last
    assert len(list((tmp_path / "artefacts").glob("r01-rl-*/work"))) == 0
