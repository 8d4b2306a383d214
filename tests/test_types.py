"""Rows of a batch lie one after the other: selected, padded, counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.ragged import offsets_of, row_chunks, tokens_of
from rlcore.types import TrainBatch

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def batch_of(lengths: list[int], seed: int = 0) -> TrainBatch:
    """Tokens count from 1 over the whole batch, so that each is known by its number."""
    rng, count = np.random.default_rng(seed), sum(lengths)
    return TrainBatch(
        tokens=np.arange(1, count + 1, dtype=np.int32),
        offsets=offsets_of(lengths),
        loss_mask=rng.random(count) < 0.5,
        sample_ids=[f"s{i}" for i in range(len(lengths))],
        advantages=rng.normal(size=count).astype(np.float32),
        scores=rng.normal(size=len(lengths)).astype(np.float32),
        targets=rng.normal(size=(len(lengths), 2)).astype(np.float32),
        rows_per_unit=2,
    )


def rows_of(array: np.ndarray, batch: TrainBatch) -> list[list[float]]:
    return [array[start:end].tolist() for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)]


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.data())
def test_select_is_rows_by_hand(lengths: list[int], data: st.DataObject) -> None:
    batch = batch_of(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    found = batch.select(rows)
    assert found.advantages is not None
    assert found.scores is not None
    assert found.targets is not None
    for name in ("tokens", "loss_mask", "advantages"):
        whole = rows_of(getattr(batch, name), batch)
        assert rows_of(getattr(found, name), found) == [whole[row] for row in rows]
    assert found.sample_ids == [f"s{row}" for row in rows]
    assert found.scores.tolist() == [batch.scores[row] for row in rows]
    assert found.targets.shape == (len(rows), 2)
    assert (found.rows_per_unit, found.returns, len(found)) == (2, None, len(rows))
    assert found.lengths.tolist() == [lengths[row] for row in rows]


@settings(max_examples=100, deadline=None)
@given(LENGTHS)
def test_counts_and_padding(lengths: list[int]) -> None:
    batch = batch_of(lengths)
    assert batch.loss_counts.tolist() == [sum(row) for row in rows_of(batch.loss_mask, batch)]
    assert (batch.num_tokens, batch.num_loss_tokens) == (sum(lengths), batch.loss_counts.sum())
    padded = batch.padded("tokens")
    assert padded.shape == (len(lengths), max(lengths))
    assert padded.dtype == np.int32
    for row, wanted in zip(padded.tolist(), rows_of(batch.tokens, batch), strict=True):
        assert row == wanted + [0] * (max(lengths) - len(wanted))
    wider, mask, advantages = (  # what is past the end of a row is left out
        np.pad(batch.padded(name), ((0, 0), (0, 3)), constant_values=1)
        for name in ("tokens", "loss_mask", "advantages")
    )
    np.testing.assert_array_equal(batch.flat(wider), batch.tokens)
    again = TrainBatch.from_padded(
        wider, lengths, mask, batch.sample_ids, advantages=advantages, scores=batch.scores, values=None
    )
    for name in ("tokens", "offsets", "loss_mask", "advantages", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(batch, name))


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 12))
def test_chunks_are_whole_rows_in_turn(lengths: list[int], limit: int) -> None:
    chunks = list(row_chunks(offsets_of(lengths), limit))
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(len(lengths)))
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        held = sum(lengths[chunk])
        assert held <= limit or chunk.stop == chunk.start + 1
        assert following is None or held + lengths[chunk.stop] > limit  # no smaller than it must be


def test_counts_over_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlcore.ragged.CHUNK", 3)
    batch = batch_of([0, 2, 0, 3, 1, 1, 0, 0, 7, 0])
    assert batch.loss_counts.tolist() == [sum(row) for row in rows_of(batch.loss_mask, batch)]


def test_an_array_of_another_batch_is_refused() -> None:
    batch = batch_of([2, 3])
    with pytest.raises(ValueError, match=r"values has shape \(4,\), the batch has \(5,\)"):
        batch.with_arrays(values=np.zeros(4, np.float32))
    with pytest.raises(KeyError, match="no optional array 'scores'"):
        batch.with_arrays(scores=np.zeros(5, np.float32))


def test_no_rows() -> None:
    assert tokens_of(offsets_of([2, 3]), np.array([], dtype=np.int64)).tolist() == []
    empty = batch_of([2, 3]).select([])
    assert (len(empty), empty.num_tokens, empty.padded("tokens").shape) == (0, 0, (0, 0))
    assert list(row_chunks(empty.offsets)) == []
