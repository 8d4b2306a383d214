"""Records of offline stages to batches, to groups and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data import tables
from rlcore.data.batching.records import groups_of, pairs_batch, samples_batch, samples_of, trajectory_of
from rlcore.types import Group, Pair, Prompt, RewardResult, Sample, Trajectory

PROMPT = Prompt("p", (7, 8), "ask")


def sample(name, tokens, mask=None, prompt=PROMPT, score=None):
    reward = None if score is None else RewardResult(score)
    return Sample(prompt, name, "", tokens, mask, reward=reward)


def batch_of(*samples, ignored=()):
    return samples_batch(tables.from_samples(samples), ignored)


def batch_of_pairs(*pairs, ignored=()):
    return pairs_batch(tables.from_pairs(Pair(one.prompt, one, other) for one, other in pairs), ignored)


# ---- samples


def test_by_hand():
    """A response trained whole, one of two turns with a tool's answer between, and one that is not trained."""
    other = Prompt("q", (9,), "")
    found = batch_of(
        sample("a", (1, 2, 3)),
        sample("b", (4, 5, 6, 1), (True, False, False, True), other),
        sample("c", (5,), (False,), other),
    )
    assert found.tokens.tolist() == [7, 8, 1, 2, 3, 9, 4, 5, 6, 1, 9, 5]
    assert found.loss_mask.astype(int).tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0]
    assert found.lengths.tolist() == [5, 5, 2]
    assert list(found.sample_ids) == ["a", "b", "c"]
    assert found.rows_per_unit == 1
    assert found.scores is None
    assert (found.tokens.dtype, found.loss_mask.dtype, found.offsets.dtype) == (np.int32, np.bool_, np.int64)


def test_tokens_that_are_never_trained_on():
    """4 is a header: masked in responses, and only there. What a mask leaves out stays out."""
    found = batch_of(sample("a", (4, 2, 4)), sample("b", (4, 2, 3), (True, True, False)), ignored=[4, 99])
    assert found.padded("loss_mask")[:, 2:].astype(int).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert found.tokens[:5].tolist() == [7, 8, 4, 2, 4]


def test_without_a_prompt_the_first_token_has_no_context():
    found = batch_of(sample("a", (3, 4), prompt=Prompt("e", (), "")))
    assert found.loss_mask.astype(int).tolist() == [0, 1]


def test_an_empty_response_is_a_row_that_trains_nothing():
    found = batch_of(sample("a", ()), sample("b", (1,)))
    assert found.lengths.tolist() == [2, 3]
    assert found.loss_counts.tolist() == [0, 1]


RESPONSES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.lists(st.integers(1, 9), max_size=3), RESPONSES, st.booleans()), min_size=1, max_size=5),
    ignored=st.sets(st.integers(1, 9), max_size=3),
)
def test_against_a_loop_over_tokens(rows, ignored):
    records = [
        sample(f"s{i}", tuple(t for t, _ in said), tuple(m for _, m in said) if masked else None,
               Prompt(f"p{i}", tuple(asked), ""))
        for i, (asked, said, masked) in enumerate(rows)
    ]  # fmt: skip
    found = batch_of(*records, ignored=ignored)
    place = 0
    for i, (asked, said, masked) in enumerate(rows):
        start = place
        assert found.offsets[i] == start
        for token in asked:
            assert (found.tokens[place], found.loss_mask[place]) == (token, False)
            place += 1
        for token, trained in said:
            wanted = (trained or not masked) and token not in ignored and place > start
            assert (found.tokens[place], found.loss_mask[place]) == (token, wanted)
            place += 1
    assert found.num_tokens == len(found.tokens) == len(found.loss_mask) == place


# ---- pairs


def test_pairs_are_rows_in_turn():
    one, two = Prompt("p", (7,), ""), Prompt("q", (8,), "")
    found = batch_of_pairs(
        (sample("a", (1, 2), prompt=one, score=0.5), sample("b", (3,), prompt=one, score=0.25)),
        (sample("c", (4,), prompt=two, score=2.0), sample("d", (5, 6), (False, True), two, -1.0)),
    )
    assert found.tokens.tolist() == [7, 1, 2, 7, 3, 8, 4, 8, 5, 6]
    assert found.loss_mask.astype(int).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 0, 1]
    assert list(found.sample_ids) == ["a", "b", "c", "d"]
    assert found.rows_per_unit == 2
    assert found.scores.tolist() == [0.5, 0.25, 2.0, -1.0]
    assert found.scores.dtype == np.float32


def test_scores_of_some_are_scores_of_none():
    scored, bare = sample("a", (1,), score=1.0), sample("b", (2,))
    assert batch_of_pairs((scored, replace(bare, reward=RewardResult(0.0)))).scores is not None
    assert batch_of_pairs((scored, bare)).scores is None
    assert batch_of_pairs((scored, sample("c", (3,), score=0.0)), (bare, scored)).scores is None


# ---- what cannot be


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="nothing to collate"):
        samples_batch(tables.SAMPLES.empty_table())
    with pytest.raises(ValueError, match="nothing to collate"):
        pairs_batch(tables.PAIRS.empty_table())


def test_a_mask_of_another_length():
    with pytest.raises(ValueError, match="sample b: 2 response tokens, but a loss mask of 3"):
        batch_of(sample("a", (1,)), sample("b", (1, 2), (True, True, False)))
    with pytest.raises(ValueError, match="sample b: 1 response tokens, but a loss mask of 0"):
        batch_of_pairs((sample("a", (1,)), sample("b", (1,), ())))


@pytest.mark.parametrize("ignored", [(), (2,)])
def test_a_pair_with_nothing_to_train_on_names_the_response(ignored):
    """Half a pair would be trained on; with `ignored` the response is of ignored tokens alone."""
    bad = sample("bad", (2, 2), None if ignored else (False, False))
    with pytest.raises(ValueError, match="sample bad: it has no trained token"):
        batch_of_pairs((sample("a", (1,)), sample("b", (3,))), (sample("c", (1,)), bad), ignored=ignored)


# ---- for scorers, and what was sampled


def test_a_trajectory_of_a_record():
    found = trajectory_of(Sample(PROMPT, "s", "said", (3, 4), (False, True), "length", reward=RewardResult(1.0)))
    assert found.tokens.tolist() == [7, 8, 3, 4]
    assert found.loss_mask.tolist() == [False, False, False, True]
    assert (found.num_prompt_tokens, found.num_response_tokens) == (2, 2)
    assert (found.uid, found.sample_id, found.text, found.finish_reason) == ("p", "s", "said", "length")
    assert found.oldest_version == -1
    assert not found.rollout_logprobs.any()
    assert found.reward is None  # it is scored anew
    assert trajectory_of(sample("t", (3,))).loss_mask.tolist() == [False, False, True]


def test_groups_are_of_neighbours_in_their_order():
    of = {uid: Prompt(uid, (1,), "") for uid in "abc"}
    records = [sample(f"{uid}{i}", (2,), prompt=of[uid]) for i, uid in enumerate("aabcca")]
    groups = groups_of(records)
    assert [g.prompt.uid for g in groups] == ["a", "b", "c", "a"]
    assert [t.sample_id for g in groups for t in g.trajectories] == [r.sample_id for r in records]
    assert groups_of([]) == []


def test_what_was_sampled_as_records():
    def said(tokens, reward):
        size = 2 + len(tokens)
        mask = np.arange(size) >= 2
        arrays = np.zeros(size, np.float32), np.where(mask, 4, -1).astype(np.int32)
        ids = np.array([7, 8, *tokens], np.int32)
        return Trajectory("p", "p#3.0", ids, mask, *arrays, 2, "stop", "text", reward)

    group = Group(PROMPT, [said([5, 1], RewardResult(0.5)), said([1], None)])
    one, two = samples_of(group, "hash", first=6, member=2)
    assert (one.sample_id, two.sample_id) == ("p#2.6", "p#2.7")  # no step of a run: number among the prompt's samples
    assert (one.token_ids, two.token_ids) == ((5, 1), (1,))
    assert all(type(token) is int for token in one.token_ids)
    assert (one.reward, two.reward) == (RewardResult(0.5), None)
    assert (one.model, one.text, one.finish_reason, one.loss_mask) == ("hash", "text", "stop", None)
    again = trajectory_of(one)
    np.testing.assert_array_equal(again.tokens, group.trajectories[0].tokens)
    np.testing.assert_array_equal(again.loss_mask, group.trajectories[0].loss_mask)
