"""Pairs and samples to a reward model's batches."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rlcore.data.batching.reward import (
    num_tokens,
    reward_batch_pairs,
    reward_batch_samples,
    targets_of,
)
from rlcore.types import Pair, Prompt, RewardResult, Sample, Status

NAMES = ("helpfulness", "truth=0", "truth=1", "truth=2")


def sample(uid: str, k: int, tokens: tuple[int, ...], **parts: float) -> Sample:
    prompt = Prompt(uid, (7, 8), "q")
    return Sample(prompt, f"{uid}#0.{k}", "", tokens, reward=RewardResult(0.0, parts=parts) if parts else None)


def pair(uid: str, k: int = 0, strength: float | None = None) -> Pair:
    chosen, rejected = sample(uid, 2 * k, (3, 4, 1), helpfulness=4.0, truth=2), sample(uid, 2 * k + 1, (5, 1))
    return Pair(chosen.prompt, chosen, rejected, strength)


def test_pairs_become_rows_that_stay_together() -> None:
    batch = reward_batch_pairs([pair("a", strength=2.0), pair("b")], NAMES, labels=[0.9, 0.25])
    assert batch.tokens.tolist() == [7, 8, 3, 4, 1, 7, 8, 5, 1] * 2
    assert batch.lengths.tolist() == [5, 4] * 2
    assert batch.loss_mask.astype(int).tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 1] * 2
    assert batch.sample_ids == ["a#0.0", "a#0.1", "b#0.0", "b#0.1"]
    assert batch.rows_per_unit == 2
    assert batch.strengths is not None
    np.testing.assert_array_equal(batch.strengths, [2, 2, math.nan, math.nan])
    assert batch.labels is not None
    assert batch.labels.tolist() == pytest.approx([0.9, 0.1, 0.25, 0.75])
    assert batch.targets is not None
    np.testing.assert_array_equal(batch.targets[:2], [[4, 0, 0, 1], [math.nan] * 4])
    assert batch.weights is None


def test_nothing_is_carried_that_nobody_told() -> None:
    batch = reward_batch_pairs([pair("a")])
    assert (batch.strengths, batch.labels, batch.targets, batch.weights) == (None,) * 4


def test_every_prompt_counts_the_same() -> None:
    batch = reward_batch_pairs([pair("a"), pair("b"), pair("a", 1), pair("a", 2)], per_prompt=True)
    assert batch.weights is not None
    assert batch.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1, 1, 1 / 3, 1 / 3, 1 / 3, 1 / 3])


def test_samples_with_their_attributes() -> None:
    batch = reward_batch_samples([sample("a", 0, (3,), helpfulness=1.5), sample("b", 0, (4, 4))], NAMES[:1])
    assert batch.rows_per_unit == 1
    assert batch.targets is not None
    np.testing.assert_array_equal(batch.targets, np.array([[1.5], [math.nan]], np.float32))


def test_a_failed_reward_labels_nothing() -> None:
    failed = dataclasses.replace(sample("a", 0, (3,)), reward=RewardResult(0.0, Status.ERROR, {"helpfulness": 1.0}))
    assert np.isnan(targets_of(failed, NAMES)).all()


def test_lengths() -> None:
    assert num_tokens(sample("a", 0, (3, 4))) == 4
    assert num_tokens(pair("a")) == 5


def test_bad_rows_are_named() -> None:
    same = pair("a")
    same = dataclasses.replace(same, rejected=dataclasses.replace(same.chosen, sample_id="a#0.9"))
    with pytest.raises(ValueError, match=r"pair a#0\.0>a#0\.9: chosen and rejected are the same"):
        reward_batch_pairs([same])
    with pytest.raises(ValueError, match=r"1 of 2 responses have no token, first a#0\.5"):
        reward_batch_samples([sample("a", 0, (1,)), sample("a", 5, ())])
    with pytest.raises(ValueError, match="nothing to collate"):
        reward_batch_samples([])
    for labels in ([1.5], [0.5, 0.5], [math.nan]):
        with pytest.raises(ValueError, match="1 probabilities"):
            reward_batch_pairs([pair("a")], labels=labels)
    with pytest.raises(ValueError, match=r"a#0\.0: its helpfulness is nan"):
        targets_of(sample("a", 0, (1,), helpfulness=math.nan), NAMES)
    with pytest.raises(ValueError, match=r"a#0\.0: its truth is 1\.5, the classes are 0, 1, 2"):
        targets_of(sample("a", 0, (1,), truth=1.5), NAMES)
