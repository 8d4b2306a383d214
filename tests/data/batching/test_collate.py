"""Collating sequences into batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlcore.data.batching.collate import collate, collate_pairs, supervised_batch
from rlcore.types import Prompt, RewardResult, SampledPair, Trajectory


def trajectory(name: str, prompt: list[int], response: list[int], mask: list[bool] | None = None) -> Trajectory:
    tokens, n = np.array(prompt + response, dtype=np.int32), len(prompt)
    sampled = mask or [False] * n + [True] * len(response)
    return Trajectory(
        uid=name,
        sample_id=f"{name}#0.0",
        tokens=tokens,
        loss_mask=np.array(sampled),
        rollout_logprobs=np.where(sampled, -tokens / 10, 0).astype(np.float32),
        versions=np.where(sampled, 3, -1).astype(np.int32),
        num_prompt_tokens=n,
        finish_reason="stop",
        text="",
    )


def test_collate_joins_the_rows_and_spreads_advantages_over_trained_tokens():
    rows = [trajectory("a", [9, 6], [5, 4, 1]), trajectory("b", [7], [2, 8, 1], [False, True, False, True])]
    batch = collate(rows, [0.5, -2.0])
    np.testing.assert_array_equal(batch.tokens, [9, 6, 5, 4, 1, 7, 2, 8, 1])
    np.testing.assert_array_equal(batch.offsets, [0, 5, 9])
    np.testing.assert_array_equal(batch.lengths, [5, 4])
    np.testing.assert_array_equal(batch.loss_mask, [0, 0, 1, 1, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(batch.advantages, [0, 0, 0.5, 0.5, 0.5, 0, -2, 0, -2])
    np.testing.assert_allclose(batch.rollout_logprobs, [0, 0, -0.5, -0.4, -0.1, 0, -0.2, 0, -0.1], atol=1e-7)
    assert batch.sample_ids == ["a#0.0", "b#0.0"]
    dtypes = (batch.tokens.dtype, batch.offsets.dtype, batch.loss_mask.dtype, batch.advantages.dtype)
    assert dtypes == (np.int32, np.int64, np.bool_, np.float32)
    assert batch.rollout_logprobs.dtype == np.float32


def test_collate_without_advantages_and_from_read_only_arrays():
    row = trajectory("a", [9], [5])
    for array in (row.tokens, row.loss_mask, row.rollout_logprobs):
        array.flags.writeable = False
    batch = collate([row])
    assert batch.advantages is None
    for name in ("tokens", "loss_mask", "rollout_logprobs"):  # no token exists twice
        assert np.shares_memory(getattr(row, name), getattr(batch, name))
    np.testing.assert_array_equal(row.tokens, [9, 5])


def test_collate_refuses():
    good = trajectory("a", [9], [5])
    with pytest.raises(ValueError, match="nothing to collate"):
        collate([])
    with pytest.raises(ValueError, match=r"sample a#0.0: 2 tokens, but loss_mask has 1"):
        collate([dataclasses.replace(good, loss_mask=np.array([True]))])
    with pytest.raises(ValueError, match="first token has no context"):
        collate([dataclasses.replace(good, loss_mask=np.array([True, True]))])
    with pytest.raises(ValueError, match=r"advantages have shape \(2,\), there are 1"):
        collate([good], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"sample a#0.0: the advantage is not finite"):
        collate([good], [float("nan")])


def pair(chosen: Trajectory, rejected: Trajectory, rewards: tuple[float, float] = (1.0, 0.0)) -> SampledPair:
    a, b = (dataclasses.replace(t, reward=RewardResult(r)) for t, r in zip((chosen, rejected), rewards, strict=True))
    return a, b


def by_reference(row: Trajectory) -> Trajectory:
    return dataclasses.replace(row, versions=np.full_like(row.versions, -1))


def test_pairs_lie_side_by_side_with_their_rewards():
    a, b, c, d = (trajectory(n, [9, 6], r) for n, r in zip("abcd", [[5, 1], [4], [3, 2, 1], [7, 8]], strict=True))
    batch = collate_pairs([pair(a, b, (1.0, 0.5)), pair(c, d, (-1.0, -2.0))])
    rows = [[9, 6, 5, 1, 0], [9, 6, 4, 0, 0], [9, 6, 3, 2, 1], [9, 6, 7, 8, 0]]
    np.testing.assert_array_equal(batch.padded("tokens"), rows)
    np.testing.assert_array_equal(batch.scores, [1.0, 0.5, -1.0, -2.0])
    assert batch.scores.dtype == np.float32
    assert batch.sample_ids == ["a#0.0", "b#0.0", "c#0.0", "d#0.0"]
    assert batch.rows_per_unit == batch.select([2, 3]).rows_per_unit == 2
    assert batch.by_opponent is None  # one sampler for all
    np.testing.assert_array_equal(batch.rollout_logprobs[:4], np.float32([0, 0, -0.5, -0.1]))


def test_rows_of_an_opponent_are_marked_apart_from_advantages():
    a, b, c, d = (trajectory(n, [9, 6], r) for n, r in zip("abcd", [[5, 1], [4], [3, 2, 1], [7, 8]], strict=True))
    batch = collate_pairs([pair(a, by_reference(b)), pair(by_reference(c), d)])
    np.testing.assert_array_equal(batch.by_opponent, [False, True, True, False])
    np.testing.assert_array_equal(batch.select([2, 3]).by_opponent, [True, False])
    assert batch.advantages is None
    assert collate_pairs([pair(by_reference(a), by_reference(b))]).by_opponent is None  # read from data


def test_collate_pairs_refuses():
    a, b = trajectory("a", [9, 6], [5]), trajectory("b", [9, 6], [4])
    with pytest.raises(ValueError, match="nothing to collate"):
        collate_pairs([])
    with pytest.raises(ValueError, match=r"pair of a#0.0 and c#0.0: the prompts differ"):
        collate_pairs([pair(a, trajectory("c", [9, 7], [4]))])
    with pytest.raises(ValueError, match=r"pair of a#0.0 and c#0.0: chosen and rejected are the same response"):
        collate_pairs([pair(a, b), pair(a, trajectory("c", [9, 6], [5]))])
    with pytest.raises(ValueError, match=r"rewards 1.0 and nan are not finite"):
        collate_pairs([pair(a, b, (1.0, float("nan")))])
    with pytest.raises(ValueError, match="a response has no trained token"):
        collate_pairs([pair(a, trajectory("c", [9, 6], [4], [False] * 3))])
    with pytest.raises(ValueError, match="first token has no context"):
        collate_pairs([pair(dataclasses.replace(a, loss_mask=np.array([True] * 3)), b)])


def prompt(tokenizer, text: str, reference: str | None) -> Prompt:
    return Prompt(uid=text, token_ids=tuple(tokenizer(text)["input_ids"]), text=text, reference=reference)


def test_supervised_batch_trains_on_reference_and_end_token(tokenizer):
    batch = supervised_batch([prompt(tokenizer, "74+85=", "501"), prompt(tokenizer, "1 + 1 =", " 2")], tokenizer)
    assert [tokenizer.decode(row[:n]) for row, n in zip(batch.padded("tokens"), batch.lengths, strict=True)] == [
        "74+85=501<eos>",
        "1 + 1 = 2<eos>",
    ]
    masks = batch.padded("loss_mask")
    trained = [tokenizer.decode(row[mask]) for row, mask in zip(batch.padded("tokens"), masks, strict=True)]
    assert trained == ["501<eos>", " 2<eos>"]
    np.testing.assert_array_equal(batch.lengths, [10, 10])
    assert batch.sample_ids == ["74+85=", "1 + 1 ="]


def test_supervised_batch_is_ragged_and_an_empty_reference_leaves_the_end_token(tokenizer):
    batch = supervised_batch([prompt(tokenizer, "ab", ""), prompt(tokenizer, "c", "defg")], tokenizer)
    np.testing.assert_array_equal(batch.lengths, [3, 6])
    np.testing.assert_array_equal(batch.loss_mask, [0, 0, 1, 0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch.tokens[[2, 8]], [tokenizer.eos_token_id] * 2)


def test_supervised_batch_refuses(tokenizer):
    with pytest.raises(ValueError, match="nothing to collate"):
        supervised_batch([], tokenizer)
    with pytest.raises(ValueError, match="1 of 2 prompts have no reference to train on, first b"):
        supervised_batch([prompt(tokenizer, "a", "1"), prompt(tokenizer, "b", None)], tokenizer)

    class NoEnd:
        eos_token_id = None

    with pytest.raises(ValueError, match="no eos_token"):
        supervised_batch([prompt(tokenizer, "a", "1")], NoEnd())
