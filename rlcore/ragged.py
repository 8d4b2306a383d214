"""Arithmetic on rows that lie one after the other in flat arrays: row b is `offsets[b]` to `offsets[b + 1]`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

CHUNK = 1 << 16  # tokens


def offsets_of(lengths: Sequence[int] | NDArray[Any]) -> Int64:
    """[B + 1] starts of rows of these lengths, and the end of the last one.

    >>> offsets_of([3, 2])
    array([0, 3, 5])
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def tokens_of(offsets: Int64, rows: Int64) -> Int64:
    """Positions in a flat array of the tokens of these rows, in their order.

    >>> tokens_of(np.array([0, 3, 5]), np.array([1, 0]))
    array([3, 4, 0, 1, 2])
    """
    lengths = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    positions: Int64 = np.repeat(offsets[rows] - ends + lengths, lengths)
    positions += np.arange(len(positions))
    return positions


def row_chunks(offsets: Int64, tokens: int | None = None) -> Iterator[slice]:
    """Consecutive rows of at most `tokens` tokens together, or a single row with more: what is computed from them at
    once needs little memory.
    """
    start, rows, limit = 0, len(offsets) - 1, CHUNK if tokens is None else tokens
    while start < rows:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + limit, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def trim() -> None:
    """Returns freed host memory to the system. glibc keeps it: pieces of samples are too small for what comes next, and
    before 2.38 torch's aligned arrays do not reuse each other's place.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def place(out: NDArray[Any], offsets: Int64, rows: Int64, values: NDArray[Any]) -> None:
    """Writes the values of some rows, in their order, to the places of these rows in `out`."""
    starts = offsets_of(offsets[rows + 1] - offsets[rows])
    for some in row_chunks(starts):
        out[tokens_of(offsets, rows[some])] = values[starts[some.start] : starts[some.stop]]
