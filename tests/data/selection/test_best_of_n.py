"""Samples selected: by score, by chance with the right odds, with every drop accounted for."""

from __future__ import annotations

import doctest
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.selection import best_of_n as selection
from rlcore.data.selection.best_of_n import (
    AdaptivePlan,
    Cap,
    SelectionConfig,
    SelectionMethod,
    Tally,
    Ties,
    Unscored,
    explain,
    rejection_sample,
    select,
)
from rlcore.problems import setting_problems
from rlcore.types import Prompt, RewardResult, Sample, Status


def sample(
    number: int, score: float | None, uid: str = "p", text: str | None = None, tokens: int = 3, **reward
) -> Sample:
    result = None if score is None else RewardResult(score, **reward)
    text = f"answer {number}" if text is None else text
    return Sample(Prompt(uid, (1, 2), "ask"), f"{uid}#{number}", text, (5,) * tokens, reward=result)


def scored(*scores: float | None) -> list[Sample]:
    return [sample(i, score) for i, score in enumerate(scores)]


def kept(samples: list[Sample], seed: int = 0, **config) -> list[str]:
    return [s.sample_id.split("#")[1] for s in select(samples, SelectionConfig(**config), seed)[0]]


SAMPLES = st.lists(
    st.builds(
        lambda uid, score, text, tokens, ok: (uid, score, text, tokens, ok),
        st.sampled_from("abc"),
        st.none() | st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]),
        st.sampled_from(["x", "y", " y ", "z"]),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=25,
).map(
    lambda rows: [
        sample(i, score, uid, text, tokens, status=Status.OK if ok else Status.TIMEOUT)
        for i, (uid, score, text, tokens, ok) in enumerate(rows)
    ]
)
CONFIGS = st.builds(
    SelectionConfig,
    method=st.sampled_from(SelectionMethod),
    k=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.5]),
    beta=st.sampled_from([0.01, 0.5, math.inf]),
    max_per_prompt=st.sampled_from([1, 2, 3]),
    cap=st.sampled_from(Cap),
    cap_by_difficulty=st.booleans(),
    distinct=st.booleans(),
    ties=st.sampled_from(Ties),
    unscored=st.sampled_from([Unscored.drop, Unscored.lowest]),
)


@settings(max_examples=500, deadline=None)
@given(SAMPLES, CONFIGS, st.integers(0, 3))
def test_selection_keeps_its_promises(samples, config, seed):
    chosen, counts = select(samples, config, seed)
    reasons = explain(samples, config, seed)
    assert chosen == [s for s, reason in zip(samples, reasons, strict=True) if not reason]
    assert set(reasons) <= {"", *selection.REASONS}
    assert (
        counts["samples"]
        == len(samples)
        == counts["selected"] + sum(n for name, n in counts.items() if name.startswith("dropped_"))
    )
    per_prompt = Counter(s.prompt.uid for s in chosen)
    assert counts["prompts_without"] == len({s.prompt.uid for s in samples} - set(per_prompt))
    assert all(n <= config.max_per_prompt for n in per_prompt.values())
    assert all(s.reward is not None and s.reward.ok and s.reward.score >= config.threshold for s in chosen)
    if config.distinct:
        assert len({(s.prompt.uid, s.text.strip()) for s in chosen}) == len(chosen)
    # nothing of the other prompts matters
    alone = [s for s in samples if s.prompt.uid == "a"]
    assert select(alone, config, seed)[0] == [s for s in chosen if s.prompt.uid == "a"]


def test_each_method_by_hand():
    samples = scored(0.2, 0.9, 0.5, 0.9, 0.1)
    assert kept(samples) == ["1"]
    assert kept(samples, method=SelectionMethod.top_k, k=3) == ["1", "2", "3"]
    assert kept(samples, method=SelectionMethod.threshold, threshold=0.5) == ["1", "2", "3"]
    assert kept(samples, method=SelectionMethod.best, threshold=0.95) == []
    assert kept(samples, method=SelectionMethod.rso, k=2, beta=1e-9) == ["1", "3"]  # the best
    assert kept(samples, method=SelectionMethod.rso, k=9) == ["0", "1", "2", "3", "4"]  # all there are
    assert kept(samples, method=SelectionMethod.all) == ["0", "1", "2", "3", "4"]
    assert kept(samples, method=SelectionMethod.all, max_per_prompt=2) == ["1", "3"]
    assert kept([]) == []


def test_ties():
    samples = [sample(0, 1.0, tokens=5), sample(1, 1.0, tokens=3), sample(2, 1.0, tokens=7), sample(3, 1.0, tokens=3)]
    assert kept(samples) == ["0"]
    assert kept(samples, ties=Ties.shortest) == ["1"]
    assert kept(samples, ties=Ties.longest) == ["2"]
    assert {kept(samples, seed, ties=Ties.random)[0] for seed in range(40)} == {"0", "1", "2", "3"}
    assert kept(samples, 7, ties=Ties.random) == kept(samples, 7, ties=Ties.random)


def test_one_random_good_sample():
    samples = scored(1.0, 0.0, 1.0, 0.6)
    draws = Counter(
        kept(samples, seed, method=SelectionMethod.threshold, threshold=0.5, max_per_prompt=1, cap=Cap.random)[0]
        for seed in range(600)
    )
    assert set(draws) == {"0", "2", "3"}
    assert min(draws.values()) > 150  # 200 expected, deviation 11.5


def test_of_equal_texts_the_best_stays():
    samples = [sample(0, 0.1, text="a "), sample(1, 0.8, text="a"), sample(2, 0.5, text="b")]
    assert explain(samples, SelectionConfig(method=SelectionMethod.all, distinct=True), 0) == ["copy", "", ""]


def test_harder_prompts_keep_more():
    easy = [sample(i, 1.0 if i < 9 else 0.0, "easy") for i in range(10)]
    hard = [sample(i, 1.0 if i < 4 else 0.0, "hard") for i in range(10)]
    config = SelectionConfig(SelectionMethod.threshold, threshold=0.5, max_per_prompt=5, cap_by_difficulty=True)
    chosen, counts = select(easy + hard, config, 0)
    # 5 * 0.1 and 5 * 0.6, rounded up
    assert Counter(s.prompt.uid for s in chosen) == {"easy": 1, "hard": 3}
    assert counts["dropped_over_cap"] == 8 + 1
    assert counts["dropped_below_threshold"] == 1 + 6


def test_unscored_samples():
    samples = [sample(0, None), sample(1, 1.0, status=Status.ERROR), sample(2, -3.0)]
    config = SelectionConfig(method=SelectionMethod.all)
    assert explain(samples, config, 0) == ["unscored", "unscored", ""]
    assert kept(samples, unscored=Unscored.lowest) == ["2"]
    assert kept(samples[:2], unscored=Unscored.lowest) == ["0"]
    assert kept(samples[:2], unscored=Unscored.lowest, method=SelectionMethod.rso) == []
    with pytest.raises(ValueError, match=r"'p#0' has no reward: score it first"):
        select(samples, SelectionConfig(unscored=Unscored.error), 0)
    with pytest.raises(ValueError, match=r"'p#1' has a reward of status error"):
        select(samples[1:], SelectionConfig(unscored=Unscored.error), 0)
    with pytest.raises(ValueError, match=r"'p#0' has the score nan"):
        select([sample(0, math.nan)], config, 0)


def test_settings_that_cannot_work_are_told_together():
    config = SelectionConfig(SelectionMethod.threshold, k=0, beta=0, max_per_prompt=0, cap_by_difficulty=True)
    with pytest.raises(ValueError, match=r"k=0.*beta=0.*max_per_prompt=0.*threshold=None.*cap_by_difficulty") as told:
        select([], config, 0)
    assert str(told.value).count(";") == 4
    assert not list(setting_problems(SelectionConfig()))


@pytest.mark.parametrize("beta", [0.4, 1.0, 3.0])
def test_rso_draws_from_the_reweighted_distribution(beta):
    """pi(y|x) exp(r / beta): of 60,000 candidates with 5 levels of reward, the accepted ones' shares against it."""
    rng = np.random.default_rng(5)
    levels, pi = np.array([0.0, 0.5, 1.0, 1.5, 2.0]), np.array([0.3, 0.3, 0.2, 0.15, 0.05])
    rewards = rng.choice(levels, size=60_000, p=pi)
    num = 3000  # the first pass alone accepts more
    accepted = rejection_sample(rewards.tolist(), num, beta, np.random.default_rng(6))
    assert len(set(accepted)) == num
    expected = pi * np.exp(levels / beta)
    expected *= num / expected.sum()
    seen = np.array([(rewards[accepted] == level).sum() for level in levels])
    assert ((seen - expected) ** 2 / expected).sum() < 18.5  # chi square, 4 degrees of freedom: 1 in 1,000
    plain = pi * num  # without the reweighting the same test fails by far
    assert ((seen - plain) ** 2 / plain).sum() > 100


def test_rso_is_the_papers_loop():
    """A pool of few: the distribution of accepted sets against a direct transcription of Algorithm 1."""
    rewards, beta, num = [0.0, 0.4, 1.0, 0.9], 0.5, 2

    def algorithm_1(rng: np.random.Generator) -> frozenset[int]:
        pool, accepted = [int(i) for i in rng.permutation(4)], []
        while len(accepted) < num:
            highest, taken = max(rewards[i] for i in pool), []
            for i in pool:
                if rng.uniform() >= math.exp((rewards[i] - highest) / beta):
                    continue
                accepted.append(i)
                taken.append(i)
                if len(accepted) == num:
                    break
            pool = [i for i in pool if i not in taken]
        return frozenset(accepted)

    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    runs = 8000
    mine = Counter(frozenset(rejection_sample(rewards, num, beta, ours)) for _ in range(runs))
    paper = Counter(algorithm_1(theirs) for _ in range(runs))
    assert len(paper) == 6
    for pair in paper:  # deviation of the difference of two shares: at most 0.008
        assert abs(mine[pair] - paper[pair]) / runs < 0.03


def test_rso_favours_no_place_in_the_order():
    first = [rejection_sample([1.0] * 10, 1, 0.5, np.random.default_rng(seed))[0] for seed in range(2000)]
    assert min(Counter(first).values()) > 140  # 200 expected, deviation 13.4
    with pytest.raises(ValueError, match="beta=0"):
        rejection_sample([1.0], 1, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite"):
        rejection_sample([-math.inf, -math.inf], 1, 0.5, np.random.default_rng(0))


def test_adaptive_plan():
    plan = AdaptivePlan(first=4, enough=3, max_samples=10, per_round=6)
    # 2 wanted at 2/5; 3 wanted at 1/3: 9, at most 6 a round
    assert plan.next({"a": Tally(3, 1), "b": Tally(1, 0)}) == {"a": 5, "b": 6}
    assert plan.next({"done": Tally(4, 3), "spent": Tally(10, 0), "over": Tally(12, 1), "new": Tally()}) == {"new": 4}
    assert plan.next({"nearly": Tally(9, 0)}) == {"nearly": 1}
    with pytest.raises(ValueError, match=r"'x' has 3 good samples of 2"):
        plan.next({"x": Tally(2, 3)})
    with pytest.raises(ValueError, match=r"first=0: out of range, must be 1 or more; adaptive plan\.per_round=-1"):
        AdaptivePlan(first=0, per_round=-1).next({})


def test_adaptive_generation_spends_where_it_is_needed():
    """Simulated: prompts solved at rates 0.9, 0.3 and never. All stop; the easy ones cost least, none over budget."""
    rng, rates = np.random.default_rng(0), {"easy": 0.9, "hard": 0.3, "never": 0.0}
    plan = AdaptivePlan(first=4, enough=2, max_samples=64, per_round=16)
    tallies = {f"{name}-{i}": Tally() for name in rates for i in range(200)}
    rounds = 0
    while wanted := plan.next(tallies):
        rounds += 1
        for uid, num in wanted.items():
            good = int(rng.binomial(num, rates[uid.split("-")[0]]))
            tallies[uid] = Tally(tallies[uid].drawn + num, tallies[uid].good + good)
    drawn = {name: np.mean([t.drawn for uid, t in tallies.items() if uid.startswith(name)]) for name in rates}
    assert rounds < 12
    assert 4 <= drawn["easy"] < 4.5
    assert drawn["easy"] < drawn["hard"] < 20
    assert drawn["never"] == 64
    assert sum(t.good >= plan.enough for t in tallies.values()) >= 398


def test_docstrings():
    assert doctest.testmod(selection).failed == 0
    assert doctest.testmod(selection).attempted == 2
