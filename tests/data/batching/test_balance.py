"""Rows assigned to ranks and micro-batches."""

from __future__ import annotations

import doctest
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlcore.data.batching import balance
from rlcore.data.batching.balance import split
from rlcore.data.sources import addition

LENGTHS = st.lists(st.integers(1, 200), max_size=60)


@settings(max_examples=400, deadline=None)
@given(LENGTHS, st.integers(1, 6), st.integers(1, 400))
@example([100] + [1] * 99, 2, 100)
@example([1], 4, 1)
@example([], 3, 10)
def test_split_keeps_its_promises(lengths, num_ranks, limit):
    ranks = split(lengths, num_ranks, limit)
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1
    batches = [rows for rank in ranks for rows in rank]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) <= 1 or len(rows) * max(lengths[row] for row in rows) <= limit
    assert split(lengths, num_ranks, limit) == ranks


def fewest_batches(lengths: list[int], limit: int) -> int:
    """By exhaustive search: the first row goes with every subset of the others that fits."""
    if not lengths:
        return 0
    first, rest = lengths[0], lengths[1:]
    best = len(lengths)
    for chosen in range(2 ** len(rest)):
        batch = [first] + [x for i, x in enumerate(rest) if chosen >> i & 1]
        if len(batch) == 1 or len(batch) * max(batch) <= limit:
            best = min(best, 1 + fewest_batches([x for i, x in enumerate(rest) if not chosen >> i & 1], limit))
    return best


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 30))
@example([6, 1, 1, 1, 1, 1], 2, 6)  # rows dealt by tokens alone would need two micro-batches on one rank
def test_no_split_has_fewer_micro_batches(lengths, num_ranks, limit):
    assert len(split(lengths, num_ranks, limit)[0]) == -(-fewest_batches(lengths, limit) // num_ranks)


@pytest.mark.parametrize(("num_rows", "num_ranks", "slack"), [(512, 2, 1.02), (512, 8, 1.03), (2048, 8, 1.01)])
def test_ranks_hold_about_the_same_tokens_and_little_padding(num_rows, num_ranks, slack):
    lengths = np.random.default_rng(0).integers(1, 1025, num_rows)
    ranks = split(lengths, num_ranks, 8192)
    tokens = [sum(int(lengths[row]) for rows in rank for row in rows) for rank in ranks]
    assert max(tokens) < slack * np.mean(tokens)
    padded = sum(len(rows) * int(lengths[rows].max()) for rank in ranks for rows in rank if rows)
    assert padded < 1.08 * lengths.sum()  # rows in the order given: 1.7 and more


def test_micro_batches_are_even_rather_than_full_and_a_rest():
    (batches,) = split([10] * 11, num_ranks=1, max_tokens_per_micro_batch=100)
    assert [len(rows) for rows in batches] == [6, 5]


def test_more_ranks_than_rows_leaves_ranks_empty():
    assert split([5, 3], 3, 10) == [[[0]], [[1]], [[]]]


@pytest.mark.parametrize(("num_ranks", "limit"), [(1, 64), (8, 16384), (64, 1024)])
def test_ten_thousand_rows_are_fast(num_ranks, limit):
    lengths = np.random.default_rng(0).integers(1, 1025, 10_000)

    def seconds() -> float:
        start = time.process_time()
        split(lengths, num_ranks, limit)
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.1  # about 0.03 on an idle core


def test_refuses_nonsense():
    with pytest.raises(ValueError, match="num_ranks=0"):
        split([1], 0, 5)
    with pytest.raises(ValueError, match="max_tokens_per_micro_batch=0"):
        split([1], 1, 0)
    with pytest.raises(ValueError, match="not negative"):
        split([3, -1], 1, 5)


@pytest.mark.parametrize("module", [balance, addition], ids=lambda module: module.__name__)
def test_worked_examples_of_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
