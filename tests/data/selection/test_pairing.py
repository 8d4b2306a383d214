"""Preference pairs: which are made, by which rule the others are not, and that nothing is lost on the way."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.selection.pairing import (
    REASONS,
    PairCap,
    PairingConfig,
    PairingMethod,
    Strength,
    make_pairs,
)
from rlcore.types import Prompt, RewardResult, Sample, Status

M = PairingMethod
PROMPT = Prompt("p", (1, 2), "ask", reference="right")


def sample(number, score, text=None, tokens=3, model="m", prompt=PROMPT, **reward) -> Sample:
    result = None if score is None else RewardResult(score, **reward)
    text = f"answer {number}" if text is None else text
    return Sample(prompt, f"{prompt.uid}#{number}", text, (5,) * tokens, model=model, reward=result)


def scored(*scores: float | None) -> list[Sample]:
    return [sample(i, score) for i, score in enumerate(scores)]


def names(pairs) -> list[str]:
    return [pair.uid.replace("p#", "") for pair in pairs]


def made(samples, seed=0, **config) -> list[str]:
    return names(make_pairs(samples, PairingConfig(**config), seed)[0])


def adds_up(counts: dict[str, int]) -> bool:
    return counts["candidates"] == counts["pairs"] + sum(counts[f"dropped_{reason}"] for reason in REASONS)


SAMPLES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        st.sampled_from(["x", " x", "y", "z", "w"]),
        st.integers(0, 6),
        st.sampled_from(["m", ""]),
    ),
    max_size=14,
).map(
    lambda rows: [
        sample(i, score, text, tokens, model, Prompt(uid, (1,), "ask", reference="right"))
        for i, (uid, score, text, tokens, model) in enumerate(rows)
    ]
)
CONFIGS = st.builds(
    PairingConfig,
    method=st.sampled_from(M),
    pairs_per_prompt=st.sampled_from([None, 1, 2, 5]),
    cap=st.sampled_from(PairCap),
    k=st.integers(1, 3),
    min_margin=st.sampled_from([0.0, 0.3]),
    max_length_difference=st.sampled_from([None, 0, 2]),
    strength=st.sampled_from([Strength.none, Strength.difference]),
)


@settings(max_examples=500, deadline=None)
@given(SAMPLES, CONFIGS, st.integers(0, 3))
def test_pairs_keep_their_promises(samples, config, seed):
    pairs, counts = make_pairs(samples, config, seed, encode=lambda text: [7] * len(text))
    assert adds_up(counts)
    assert counts["pairs"] == len(pairs) == len({pair.uid for pair in pairs})
    assert counts["prompts_without"] == len({s.prompt.uid for s in samples}) - len({p.prompt.uid for p in pairs})
    for pair in pairs:
        assert pair.chosen.prompt == pair.rejected.prompt == pair.prompt
        assert pair.chosen.text.strip() != pair.rejected.text.strip()
        if config.max_length_difference is not None:
            assert abs(len(pair.chosen.token_ids) - len(pair.rejected.token_ids)) <= config.max_length_difference
        if pair.chosen.reward is not None:
            margin = pair.chosen.reward.score - pair.rejected.reward.score
            assert margin > config.min_margin
            assert pair.strength == (None if config.strength is Strength.none else margin)
        else:
            assert config.method is M.reference
    if config.pairs_per_prompt is not None:
        assert all(n <= config.pairs_per_prompt for n in Counter(p.prompt.uid for p in pairs).values())
    assert make_pairs(samples, config, seed, encode=lambda text: [7] * len(text)) == (pairs, counts)
    alone = [s for s in samples if s.prompt.uid == "a"]
    mine = make_pairs(alone, config, seed, encode=lambda text: [7] * len(text))[0]
    assert mine == [p for p in pairs if p.prompt.uid == "a"]


def test_each_method_by_hand():
    samples = scored(0.1, 0.9, 0.5, 0.3, 0.7)  # ranked 1 4 2 3 0
    assert made(samples) == ["1>0"]
    assert made(samples, pairs_per_prompt=None) == ["1>0", "4>3"]
    assert made(samples, method=M.top_bottom, k=2, pairs_per_prompt=None) == ["1>0", "1>3", "4>0", "4>3"]
    assert made(samples, method=M.adjacent, pairs_per_prompt=None) == ["1>4", "2>3", "3>0", "4>2"]
    assert len(made(samples, method=M.all_pairs, pairs_per_prompt=None)) == 10
    assert made(samples, method=M.all_pairs, pairs_per_prompt=3) == ["1>0", "1>3", "4>0"]
    assert made(scored(1.0), method=M.best_random) == made([], method=M.best_random) == []


def test_best_against_a_random_other():
    drawn = Counter(made(scored(0.1, 0.9, 0.5), seed, method=M.best_random)[0] for seed in range(400))
    assert set(drawn) == {"1>0", "1>2"}
    assert min(drawn.values()) > 150  # 200 expected, deviation 10


def test_random_cap_draws_evenly():
    drawn = Counter(made(scored(1, 2, 3), seed, method=M.all_pairs, cap=PairCap.random)[0] for seed in range(600))
    assert set(drawn) == {"1>0", "2>0", "2>1"}
    assert min(drawn.values()) > 150


@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_tournament(num):
    samples = scored(*(float(i) for i in range(num)))
    first = make_pairs(samples, PairingConfig(M.first_round, None), 3)[0]
    whole = make_pairs(samples, PairingConfig(M.tournament, None), 3)[0]
    assert len(first) == num // 2
    assert len({s.sample_id for p in first for s in (p.chosen, p.rejected)}) == 2 * (num // 2)  # each plays once
    assert len(whole) == num - 1  # everyone but the best loses once
    assert sorted(p.rejected.reward.score for p in whole) == list(range(num - 1))
    assert {p.uid for p in first} <= {p.uid for p in whole}


def test_every_drop_has_its_reason():
    samples = [
        sample(0, 1.0, "a"),
        sample(1, 1.0, "b"),
        sample(2, 0.9, "c"),
        sample(3, 0.5, " a"),
        sample(4, 0.0, "d", tokens=9),
        sample(5, 0.4, "e"),
        sample(6, None),
        sample(7, 0.0, status=Status.TIMEOUT),
    ]
    config = PairingConfig(M.all_pairs, 3, min_margin=0.15, max_length_difference=4)
    pairs, counts = make_pairs(samples, config, 0)
    assert names(pairs) == ["0>5", "1>5", "1>3"]
    assert counts == {
        "samples": 8,
        "samples_unscored": 2,
        "prompts": 1,
        "prompts_without": 0,
        "candidates": 15,
        "pairs": 3,
        "dropped_identical": 1,  # 0 and 3
        "dropped_tie": 1,  # 0 and 1
        "dropped_margin": 3,  # 0 and 2, 1 and 2, 3 and 5
        "dropped_length": 5,  # whatever meets 4
        "dropped_over_cap": 2,
    }


def test_a_pair_that_is_dropped_makes_room_for_the_next():
    samples = [sample(0, 1.0), sample(1, 0.8), sample(2, 0.2), sample(3, 0.0, tokens=50)]
    assert made(samples, max_length_difference=10) == ["1>2"]


def test_reference_against_wrong_samples():
    samples = [sample(0, 1.0, "right "), sample(1, 0.5), sample(2, 0.0), sample(3, None), sample(4, 0.0, "right")]
    config = PairingConfig(M.reference, None, reference_score=1.0)
    pairs, counts = make_pairs(samples, config, 0, encode=lambda text: [*map(ord, text), 0])
    assert names(pairs) == ["reference>2", "reference>1"]  # the worst first
    assert pairs[0].chosen.token_ids == (114, 105, 103, 104, 116, 0)
    assert [pair.strength for pair in pairs] == [1.0, 0.5]
    assert counts["samples_unscored"] == counts["dropped_identical"] == 1
    unscored = make_pairs(samples, PairingConfig(M.reference, None, min_margin=0.7), 0, encode=lambda text: [1])[0]
    assert [pair.strength for pair in unscored] == [None, None]
    with pytest.raises(ValueError, match=r"prompt 'p'.*encode"):
        make_pairs(samples, config, 0)
    told = [*samples, sample("data", None, "said by a person", model="")]
    pairs, counts = make_pairs(told, config, 0)  # what the data says comes before the bare reference
    assert names(pairs) == ["data>2", "data>4", "data>1"]
    assert counts["samples_unscored"] == 1
    assert make_pairs([sample(0, 1.0)], config, 0)[0] == []  # nothing wrong: nothing to encode


def test_chain_of_edited_chosen_rejected():
    """Llama 3, section 4.2.1: edited > chosen > rejected; ranked by a labelled part, whatever the score."""
    samples = [
        sample("rejected", 0.9, parts={"rank": 0.0}),
        sample("edited", 0.1, parts={"rank": 2.0}),
        sample("chosen", 0.5, parts={"rank": 1.0}),
        sample("other", 0.7),
    ]
    config = PairingConfig(M.adjacent, None, part="rank")
    pairs, counts = make_pairs(samples, config, 0)
    assert sorted(names(pairs)) == ["chosen>rejected", "edited>chosen"]
    assert [pair.strength for pair in pairs] == [1.0, 1.0]
    assert counts["samples_unscored"] == 1
    every = make_pairs(samples, PairingConfig(M.all_pairs, None, part="rank"), 0)[0]
    assert names(every)[0] == "edited>rejected"
    assert len(every) == 3


def test_strength_by_levels():
    config = PairingConfig(M.all_pairs, None, strength=Strength.levels, levels=[0.1, 0.3, 0.6])
    pairs = make_pairs(scored(1.0, 0.95, 0.7, 0.0), config, 0)[0]
    assert {p.uid.replace("p#", ""): p.strength for p in pairs} == {
        "0>3": 3.0,
        "1>3": 3.0,
        "2>3": 3.0,
        "0>2": 2.0,
        "1>2": 1.0,
        "0>1": 0.0,
    }
    assert make_pairs(scored(1.0, 0.0), PairingConfig(strength=Strength.none), 0)[0][0].strength is None


def test_bad_input_is_named():
    bad = PairingConfig(pairs_per_prompt=0, k=0, min_margin=-1, strength=Strength.levels)
    with pytest.raises(ValueError, match=r"pairs_per_prompt=0.*k=0.*min_margin=-1.*levels=\[\]"):
        make_pairs([], bad, 0)
    with pytest.raises(ValueError, match="must ascend"):
        make_pairs([], PairingConfig(levels=[0.3, 0.1]), 0)
    with pytest.raises(ValueError, match=r"'p#0' has the part x=inf"):
        make_pairs([sample(0, 1.0, parts={"x": math.inf})], PairingConfig(part="x"), 0)
