"""Scores by a model's own answers; what the other ways of scoring do is seen in the recipes of the other tests."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlcore.data.rewriting.question import QuestionConfig
from rlcore.rounds.plan.config import ScoreBy
from rlcore.rounds.stages.score import ScoreConfig, scored
from rlcore.types import Prompt, Sample
from tests.fakes import FakePolicy, FakeRewardModel, FakeTokenizer


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
