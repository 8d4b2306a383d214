"""Scores by a model's own answers; what the other ways of scoring do is seen in the recipes of the other tests."""

import math
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlcore.data.rewriting.question import QuestionConfig
from rlcore.data.selection.pairing import PairingConfig
from rlcore.rounds.plan.config import ScoreBy
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.reward_model import RewardModelStageConfig
from rlcore.rounds.stages.score import ScoreConfig, cuts, scored
from rlcore.types import Prompt, RewardResult, Sample
from tests.fakes import FakePolicy, FakeRewardModel, FakeTokenizer
from tests.rounds.stages.cases import SAMPLE, rows
from tests.rounds.world import Killed, Stand


def context(question: QuestionConfig, held: list[str]) -> tuple[Any, FakePolicy]:
    """A policy that says its first token after a question of one token by its table."""
    policy = FakePolicy()
    policy.table.data = torch.randn(policy.table.shape, generator=torch.Generator().manual_seed(5))
    tokenizer = FakeTokenizer()
    live = SimpleNamespace(
        world=SimpleNamespace(policy=policy),
        tokenizer=tokenizer,
        render=lambda text: (text, tokenizer([text])["input_ids"][0]),
        load_policy=held.append,
    )
    config = ScoreConfig(samples=["s"], by=ScoreBy.model, model="helper", question=question)
    return SimpleNamespace(live=live, config=config, one=lambda name: f"the artefact of {name}"), policy


SAMPLES = [Sample(Prompt(f"p{i // 2}", (1,), "sum"), f"p{i // 2}#{i}", str(i), (i, 11)) for i in range(4)]


def test_by_a_models_own_answer() -> None:
    """By hand: the chances of the answers after the response's token, the worth of each weighted by them."""
    held: list[str] = []
    question = QuestionConfig("{prompt}{response}?", {"7": 1.0, "8": 0.0, "9": -0.5})
    asked, policy = context(question, held)
    made = scored(asked, SAMPLES)
    assert held == ["the artefact of model"]
    for i, (sample, found) in enumerate(zip(SAMPLES, made, strict=True)):
        row = policy.table.data[i].tolist()
        whole = sum(map(math.exp, row))
        y, n, m = (math.exp(row[k]) for k in (7, 8, 9))
        assert found.reward is not None
        assert found.reward.ok
        assert found.reward.score == pytest.approx((y - 0.5 * m) / (y + n + m), rel=1e-5)
        assert found.reward.parts == pytest.approx({"7": y / whole, "8": n / whole, "9": m / whole}, rel=1e-5)
        assert (found.sample_id, found.text, found.token_ids) == (sample.sample_id, sample.text, sample.token_ids)
    assert len({round(s.reward.score, 6) for s in made if s.reward}) == 4


def test_a_reward_model_reads_every_sample_once() -> None:
    model, calls = FakeRewardModel(), []
    model.table.data = torch.arange(12.0 * 12).reshape(12, 12, 1)
    model.normalize(3.0, 2.0)
    real = model.scores
    model.scores = lambda batch: calls.append(len(batch)) or real(batch)  # type: ignore[method-assign]
    live = SimpleNamespace(world=SimpleNamespace(reward_model=model))
    made = scored(SimpleNamespace(live=live, config=ScoreConfig(by=ScoreBy.reward_model)), SAMPLES)
    assert calls == [4]
    wanted = [float(model.table[1, i, 0]) for i in range(4)]
    assert [s.reward.parts["reward"] for s in made if s.reward] == wanted
    assert [s.reward.score for s in made if s.reward] == [(x - 3) / 2 for x in wanted]


def test_an_answer_of_several_tokens() -> None:
    """The chances of its tokens are multiplied; behind its first token this policy says the end, and nothing else."""
    asked, _ = context(QuestionConfig("{prompt}{response}", {"7": 1.0, "88": 0.0}), [])
    for found in scored(asked, SAMPLES):
        assert found.reward is not None
        assert found.reward.score == pytest.approx(1.0, abs=1e-6)
        assert found.reward.parts["88"] < 1e-9 < found.reward.parts["7"]


class Judge:
    """Ranks the samples of a prompt against each other: it must see them together."""

    def __init__(self):
        self.seen = []

    def submit(self, group):
        self.seen.append(len(group.trajectories))
        order = sorted({int(t.text) for t in group.trajectories})
        future = Future()
        future.set_result([RewardResult(order.index(int(t.text)) / len(order)) for t in group.trajectories])
        return future


def test_by_the_reward(tmp_path):
    made = Stand(tmp_path, {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"])}).run()
    before, after = rows(made[1, "sample"]), rows(made[1, "rank"])
    assert [row["sample_id"] for row in before] == [row["sample_id"] for row in after]
    assert all(row["score"] is None for row in before)
    assert [row["score"] for row in after] == [float(row["response"] == row["reference"]) for row in after]
    assert made[1, "rank"].report["mean_score"] == pytest.approx(sum(r["score"] for r in after) / 60)


def test_by_a_judge_that_sees_all_samples_of_a_prompt(tmp_path):
    judge = Judge()
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], by=ScoreBy.judge, samples_per_chunk=7)}
    made = Stand(tmp_path, stages, scorer=judge).run()
    assert judge.seen == [6] * 10
    assert len(made[1, "rank"].parts()) == 5  # two prompts of six each reach seven samples
    assert {row["status"] for row in rows(made[1, "rank"])} == {"ok"}


def test_a_judge_sees_a_committees_samples_of_a_prompt_together(tmp_path):
    """Members follow each other in what was generated, and rounds in what is joined."""
    judge = Judge()
    stages = {
        "sample": replace(SAMPLE, models=["start", "other"], num_samples=3, prompts_per_chunk=4),
        "rank": ScoreConfig(samples=["sample@all"], by=ScoreBy.judge, samples_per_chunk=7, rounds=[2]),
    }
    made = Stand(tmp_path, stages, count=2, scorer=judge).run()
    assert judge.seen == [12] * 10
    found = rows(made[2, "rank"])
    assert [row["uid"] for row in found] == [f"p{i}" for i in range(10) for _ in range(12)]
    assert len({row["sample_id"] for row in found}) == 120


def test_without_a_judge(tmp_path):
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], by=ScoreBy.judge)}
    with pytest.raises(RuntimeError, match="no judge is running"):
        Stand(tmp_path, stages).run()


def scored_by_a_model(**more):
    reward = RewardModelStageConfig(data=["annotate"], held_out=0.0)
    reward.training = replace(reward.training, epochs=20, pairs_per_step=64, learning_rate=1.0)
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "reward": reward,
        "rank": ScoreConfig(samples=["sample"], by=ScoreBy.reward_model, reward_model="reward", **more),
    }


def test_by_a_reward_model(tmp_path):
    stand = Stand(tmp_path, scored_by_a_model())
    made = stand.run()
    found, truth = rows(made[1, "rank"]), rows(made[1, "sample"])
    chosen = {row["uid"]: (row["chosen_response"], row["rejected_response"]) for row in rows(made[1, "annotate"])}
    score = {(row["uid"], row["response"]): row["score"] for row in found}
    assert all(score[uid, good] > score[uid, bad] for uid, (good, bad) in chosen.items())
    assert [row["sample_id"] for row in found] == [row["sample_id"] for row in truth]
    assert '"reward": ' in found[0]["parts"]
    assert stand.live.num_loads == 0  # the model that was trained a moment ago is still held
    assert made[1, "reward"].report["reward_model/accuracy"] == 1.0


def test_another_reward_model_is_loaded_once(tmp_path):
    stages = scored_by_a_model(samples_per_chunk=8)
    stages["late"] = replace(stages["reward"], held_out=0.01)  # the same data, another key
    stages["rank"].reward_model = "reward"
    stages["late"].data = ["annotate"]
    stages["again"] = replace(stages["rank"], reward_model="late", samples_per_chunk=9)
    stand = Stand(tmp_path, {name: stages[name] for name in ("sample", "annotate", "reward", "late", "rank", "again")})
    made = stand.run()
    assert made[1, "reward"].hash == made[1, "late"].hash  # nobody was held out
    assert stand.live.num_loads == 0
    stages["late"].training = replace(stages["late"].training, epochs=2)
    stand.run()
    assert stand.live.num_loads == 0  # it was trained here
    fresh = Stand(tmp_path, stages | {"third": replace(stages["rank"], samples_per_chunk=10)})
    fresh.run()
    assert fresh.live.num_loads == 1


def test_only_the_chunk_at_work_is_scored_again(tmp_path):
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], samples_per_chunk=12)}
    left = 41

    def judge(group, t):
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return RewardResult(float(t.text == group.prompt.reference))

    stand = Stand(tmp_path / "killed", stages, judge=judge)
    with pytest.raises(Killed):
        stand.run()
    before = len([e for e in stand.log if e[0] == "reward"])
    made = stand.run()
    after = [e[1] for e in stand.log if e[0] == "reward"][before:]
    assert before == 7
    assert after == [f"p{i}" for i in range(6, 10)]  # three chunks of two prompts were there
    assert made[1, "rank"].hash == Stand(tmp_path / "whole", stages).run()[1, "rank"].hash


def test_chunks_end_where_a_prompt_ends():
    table = pa_table(["a", "a", "a", "b", "c", "c"])
    assert cuts(table, 2) == [(0, 3), (3, 3)]
    assert cuts(table, 100) == [(0, 6)]
    assert cuts(table.slice(0, 0), 2) == []


def pa_table(uids):
    import pyarrow as pa

    return pa.table({"uid": uids})
