"""Assigns rows to ranks and micro-batches by length."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def split(
    lengths: Sequence[int] | NDArray[np.integer], num_ranks: int, max_tokens_per_micro_batch: int
) -> list[list[list[int]]]:
    """Deals rows to ranks, evenly by tokens, and cuts each rank's rows into micro-batches of similar lengths.

    Every row occurs once. Every rank gets the same number of micro-batches, the smallest possible one; some may be
    empty. A micro-batch's padded size, rows times longest row, stays within the limit unless it is a single row.
    Equal input gives equal output.

    Args:
        lengths: [B] tokens of each row.

    Returns:
        [rank][micro-batch] -> row indices, the longest first.

    Raises:
        ValueError: no rank, no token allowed, or a negative length.

    Rows of 8, 2, 2 and 4 tokens on two ranks, at most 8 tokens at once:

    >>> split([8, 2, 2, 4], num_ranks=2, max_tokens_per_micro_batch=8)
    [[[0], []], [[3], [1, 2]]]
    """
    if num_ranks < 1 or max_tokens_per_micro_batch < 1:
        raise ValueError(f"need a rank and a token: {num_ranks=}, {max_tokens_per_micro_batch=}")
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.ndim != 1 or (sizes.size and sizes.min() < 0):
        raise ValueError(f"lengths must be one-dimensional and not negative, got shape {sizes.shape}")
    if not sizes.size:
        return [[] for _ in range(num_ranks)]
    order = np.argsort(-sizes, kind="stable")
    needed = len(_cut(sizes[order].tolist(), max_tokens_per_micro_batch))
    num_micro_batches = -(-needed // num_ranks)  # a lower bound: `_cut` gives the minimum for all rows together
    ranks = _deal_rows(order.tolist(), sizes[order].tolist(), num_ranks)
    sorted_lengths = [sizes[rows].tolist() for rows in ranks]
    if max(len(_cut(x, max_tokens_per_micro_batch)) for x in sorted_lengths) > num_micro_batches:
        return _deal_batches(order, sizes, num_ranks, num_micro_batches, max_tokens_per_micro_batch)
    return [
        _filled(_rows_of(rows, _even_cut(x, num_micro_batches, max_tokens_per_micro_batch)), num_micro_batches)
        for rows, x in zip(ranks, sorted_lengths, strict=True)
    ]


def _cut(descending: list[int], limit: int, at_most: int | None = None) -> list[int]:
    """Ends of the fewest runs of sorted rows within the limit on padded size: every run takes all rows that fit.

    This is optimal: the longest remaining row needs a batch, and no batch with that row can have more or longer rows.
    """
    ends: list[int] = []
    row = 0
    while row < len(descending) and (at_most is None or len(ends) <= at_most):
        row += max(1, limit // max(1, descending[row]))
        ends.append(min(row, len(descending)))
    return ends


def _even_cut(descending: list[int], num_runs: int, limit: int) -> list[int]:
    """At most `num_runs` runs that minimise the largest padded size, instead of full runs and a small rest."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(descending, middle, num_runs)) <= num_runs else (middle, high)
    return _cut(descending, high)


def _rows_of(rows: list[int], ends: list[int]) -> list[list[int]]:
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _filled(batches: list[list[int]], count: int) -> list[list[int]]:
    return batches + [[] for _ in range(count - len(batches))]


def _deal_rows(order: list[int], descending: list[int], num_ranks: int) -> list[list[int]]:
    """Assigns rows, longest first, to the rank with the fewest tokens so far (then the fewest rows, then the first)."""
    heap = [(0, 0, rank) for rank in range(num_ranks)]
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    for row, length in zip(order, descending, strict=True):
        tokens, count, rank = heap[0]
        ranks[rank].append(row)
        heapq.heapreplace(heap, (tokens + length, count + 1, rank))
    return ranks


def _deal_batches(
    order: Int64, sizes: Int64, num_ranks: int, num_micro_batches: int, limit: int
) -> list[list[list[int]]]:
    """Fallback when dealing single rows needs too many micro-batches: cuts all rows together, then deals micro-batches.
    """
    ends = _even_cut(sizes[order].tolist(), num_ranks * num_micro_batches, limit)
    batches = _rows_of(order.tolist(), ends)
    tokens = [int(sizes[rows].sum()) for rows in batches]
    open_ranks = [(0, rank) for rank in range(num_ranks)]
    ranks: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    for index in sorted(range(len(batches)), key=lambda i: -tokens[i]):
        held, rank = heapq.heappop(open_ranks)
        ranks[rank].append(batches[index])
        if len(ranks[rank]) < num_micro_batches:
            heapq.heappush(open_ranks, (held + tokens[index], rank))
    return [_filled(sorted(r, key=lambda rows: -int(sizes[rows[0]])), num_micro_batches) for r in ranks]
