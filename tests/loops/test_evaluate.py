"""Scores on held-out prompts: pass@k, majority votes, several sets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rlcore.interfaces import Sampling
from rlcore.loops.evaluate import accuracy, by_set, evaluate, majority, pass_at_k
from rlcore.rewards.config import RewardConfig
from rlcore.types import Prompt, RewardResult
from tests.fakes import prompts
from tests.loops.test_online import make_run


def test_pass_at_k_equals_enumeration():
    for n, c, k in [(5, 2, 3), (4, 0, 2), (4, 4, 1), (6, 1, 6)]:
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))
    with pytest.raises(ValueError, match="k <= samples"):
        pass_at_k(2, 1, 3)


def answer(text: str | None, score: float = 0.0) -> RewardResult:
    return RewardResult(score, info={"extracted": text})


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([answer("2"), answer("2"), answer("3", 1.0)], 0.0),
        ([answer("0.5", 1.0), answer("1/2", 1.0), answer("2")], 1.0),
        ([answer("2"), answer("3", 1.0)], 0.5),  # a tie is broken by chance
        ([answer("2"), answer("3"), answer("4", 1.0)], 1 / 3),
        ([answer(None), answer(None), answer("3", 1.0)], 1.0),  # no answer has no vote
        ([answer(None)], None),
        ([RewardResult(1.0)], None),
        ([RewardResult(1.0, info={"math": {"extracted": "3"}, "length": {}})], 1.0),  # of a composed reward
    ],
)
def test_majority(results, expected):
    assert majority(results) == expected


def test_sets_are_measured_apart(tmp_path):
    named = [replace(p, source=("odd" if i % 2 else "even")) for i, p in enumerate(prompts()[:6])]
    rewards = {p.uid: float(i % 2) for i, p in enumerate(named)}
    judge = lambda group, t: RewardResult(rewards.get(t.uid, 0.0), info={"extracted": "1"})  # noqa: E731
    world = make_run(tmp_path, judge=judge).world
    world.weights.publish()
    sampling = Sampling(4, max_new_tokens=2)
    metrics, groups = evaluate(world, named, sampling, RewardConfig())
    assert (metrics["eval/odd/mean@4"], metrics["eval/even/mean@4"], metrics["eval/all/mean@4"]) == (1.0, 0.0, 0.5)
    assert (metrics["eval/odd/pass@2"], metrics["eval/odd/pass@4"], metrics["eval/odd/maj@4"]) == (1.0, 1.0, 1.0)
    assert len(groups) == 6
    assert accuracy(metrics, 4) == 0.5
    with pytest.raises(ValueError, match="'all', the name of the mean over all sets: rename it"):
        evaluate(world, [replace(named[0], source="all"), *named[1:]], sampling, RewardConfig())
    _, groups = evaluate(world, named, sampling, RewardConfig(), max_prompts=1)
    assert sorted(g.prompt.uid for g in groups) == sorted(p.uid for p in named[:2])
    alone, _ = evaluate(world, prompts()[:2], sampling, RewardConfig())
    assert {name.split("/")[1] for name in alone} == {"heldout"}
    assert accuracy(alone, 4) == alone["eval/heldout/mean@4"]


def test_by_set_keeps_the_order():
    chosen = by_set([Prompt(f"p{i}", (1,), "", source=s) for i, s in enumerate(("b", "a", "b", "", "b"))], 2)
    assert {name: [p.uid for p in found] for name, found in chosen.items()} == {
        "b": ["p0", "p2"], "a": ["p1"], "heldout": ["p3"],
    }  # fmt: skip
