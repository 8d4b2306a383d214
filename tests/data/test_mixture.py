"""Sources mixed by weight: exact shares, nothing twice before its time."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.mixture import mix, shares
from rlcore.types import Prompt

SOURCES = {name: [f"{name}{i}" for i in range(size)] for name, size in (("a", 100), ("b", 30), ("c", 7))}


def test_shares_by_hand():
    assert shares({"a": 0.7, "b": 0.2, "c": 0.1}, 10) == {"a": 7, "b": 2, "c": 1}
    assert shares({"a": 5, "b": 3, "c": 1}, 10) == {"a": 6, "b": 3, "c": 1}  # 5.56, 3.33, 1.11
    assert shares({"c": 1, "b": 1, "a": 1}, 5) == {"a": 2, "b": 2, "c": 1}  # equal remainders: by the alphabet
    assert shares({"a": 1, "b": 1000}, 3) == {"a": 0, "b": 3}
    assert shares({"a": 2}, 0) == {"a": 0}


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(0, 5000))
def test_shares_are_whole_and_within_one_of_their_quota(weights, num):
    counts, total = shares(weights, num), math.fsum(weights.values())
    assert sum(counts.values()) == num
    assert all(abs(counts[n] - num * w / total) < 1 + 1e-6 for n, w in weights.items())


def test_counts_are_exact_and_no_record_comes_twice_before_its_source_is_through():
    mixed = mix(SOURCES, {"a": 2, "b": 1, "c": 1}, 80, seed=3)
    assert Counter(x[0] for x in mixed) == {"a": 40, "b": 20, "c": 20}
    times = Counter(mixed)
    assert {times[x] for x in SOURCES["a"]} == {0, 1}
    assert {times[x] for x in SOURCES["b"]} == {0, 1}
    assert sorted(times[x] for x in SOURCES["c"]) == [2] + [3] * 6  # 20 = 7 + 7 + 6: never twice more than another


def test_every_time_round_has_an_order_of_its_own():
    from rlcore.data.mixture import _draw

    drawn = _draw("a", SOURCES["a"], 300, seed=0)
    rounds = [drawn[:100], drawn[100:200], drawn[200:]]
    assert all(sorted(r) == sorted(SOURCES["a"]) for r in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]
    assert rounds[0] != SOURCES["a"]


def test_the_same_seed_gives_the_same_and_another_another():
    weights = {"a": 1, "b": 1}
    two = {"b": SOURCES["b"], "a": SOURCES["a"]}
    one = mix(two, weights, 40, seed=1)
    assert one == mix(dict(reversed(two.items())), {"b": 1, "a": 1}, 40, seed=1)
    assert one != mix(two, weights, 40, seed=2)
    more = mix(SOURCES, {**weights, "c": 1}, 60, seed=1)  # a further source changes nothing in what these give
    assert sorted(one) == sorted(x for x in more if x[0] != "c")
    assert [x[0] for x in one] != sorted(x[0] for x in one)  # mixed, not one behind the other


def test_records_keep_their_source():
    made = {n: [Prompt(f"{n}-{i}", (1,), "x", source=f"file of {n}") for i in range(3)] for n in "ab"}
    assert {p.source for p in mix(made, {"a": 1, "b": 1}, 4, seed=0)} == {"file of a", "file of b"}


@pytest.mark.parametrize(
    ("sources", "weights", "num", "message"),
    [
        (SOURCES, {"a": 1, "b": 1, "c": 1, "z": 1}, 3, "weights of unknown sources z; there are a, b, c"),
        (SOURCES, {"a": 1}, 3, "sources without a weight: b, c"),
        (SOURCES, {"a": 1, "b": 0, "c": 1}, 3, "the weight of source 'b' is 0"),
        (SOURCES, {"a": 1, "b": -1.5, "c": 1}, 3, "the weight of source 'b' is -1.5"),
        (SOURCES, {"a": 1, "b": math.nan, "c": 1}, 3, "the weight of source 'b' is nan"),
        ({"a": [], "b": [1]}, {"a": 1, "b": 1}, 3, "source 'a' is empty"),
        ({}, {}, 3, "no sources to mix"),
        ({"a": [1]}, {"a": 1}, -1, "cannot mix -1 records"),
    ],
)
def test_what_cannot_be_mixed(sources, weights, num, message):
    with pytest.raises(ValueError, match=message):
        mix(sources, weights, num, seed=0)
