"""Collates sequences into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.ragged import Int64, offsets_of, trim
from rlcore.types import Float32, Group, Prompt, SampledPair, TrainBatch, Trajectory

TRIM_BYTES = 1 << 24


def collate(trajectories: Sequence[Trajectory], advantages: Sequence[float] | None = None) -> TrainBatch:
    """Concatenates B trajectories, with the sampler's log-probs.

    The arrays of the trajectories become parts of the batch's, so that no token exists twice.

    Args:
        advantages: [B], one per sequence, copied to every trained token of its row; 0 elsewhere.

    Raises:
        ValueError: no trajectories, a trajectory with arrays of different lengths or with a trained first token (it has
            no context), a wrong number of advantages, or an advantage that is not finite.
    """
    if not trajectories:
        raise ValueError("nothing to collate")
    for t in trajectories:
        if not len(t) == len(t.loss_mask) == len(t.rollout_logprobs) == len(t.versions) > 0:
            raise ValueError(
                f"sample {t.sample_id}: {len(t)} tokens, but loss_mask has {len(t.loss_mask)}, rollout_logprobs "
                f"{len(t.rollout_logprobs)} and versions {len(t.versions)}"
            )
        if t.loss_mask[0]:
            raise ValueError(f"sample {t.sample_id}: the first token has no context and cannot be trained on")
    offsets = offsets_of([len(t) for t in trajectories])
    batch = TrainBatch(
        tokens=_moved(trajectories, "tokens", offsets, np.int32),
        offsets=offsets,
        loss_mask=_moved(trajectories, "loss_mask", offsets, np.bool_),
        sample_ids=[t.sample_id for t in trajectories],
        rollout_logprobs=_moved(trajectories, "rollout_logprobs", offsets, np.float32),
    )
    if batch.tokens.nbytes > TRIM_BYTES:  # the freed pieces are too small for what comes next
        trim()
    if advantages is None:
        return batch
    per_row = np.asarray(advantages, dtype=np.float32)
    if per_row.shape != (len(trajectories),):
        raise ValueError(f"advantages have shape {per_row.shape}, there are {len(trajectories)} trajectories")
    if not np.isfinite(per_row).all():
        bad = trajectories[int(np.flatnonzero(~np.isfinite(per_row))[0])]
        raise ValueError(f"sample {bad.sample_id}: the advantage is not finite")
    spread = np.repeat(per_row, batch.lengths)
    return batch.with_arrays(advantages=np.where(batch.loss_mask, spread, np.float32(0)))


def collate_groups(groups: Sequence[Group]) -> TrainBatch:
    """Collates all trajectories of groups, in order; see `collate`."""
    return collate([t for group in groups for t in group.trajectories])


def collate_pairs(pairs: Sequence[SampledPair]) -> TrainBatch:
    """Collates preference pairs: row 2i is the chosen response of pair i, row 2i + 1 the rejected one.

    Returns:
        2 * pairs rows, `rows_per_unit` 2, `scores` [2 * pairs] the rewards. `by_opponent` is set if one response of
        each pair comes from an opponent: its tokens have no weight version, see `select_pairs`.

    Raises:
        ValueError: no pairs, a pair of two prompts, of two equal responses or with a reward that is not finite, a
            response without a trained token, or the errors of `collate`.
    """
    rows = [t for pair in pairs for t in pair]
    batch = collate(rows)
    scores = np.array([np.nan if t.reward is None else t.reward.score for t in rows], dtype=np.float32)
    for (chosen, rejected), rewards in zip(pairs, scores.reshape(-1, 2), strict=True):
        _check_pair(chosen, rejected, rewards)
    by_opponent = np.array([t.oldest_version < 0 for t in rows])
    one_sampler = bool((by_opponent[::2] == by_opponent[1::2]).all())  # or data from a file
    return replace(batch, scores=scores, rows_per_unit=2, by_opponent=None if one_sampler else by_opponent)


def _check_pair(chosen: Trajectory, rejected: Trajectory, rewards: Float32) -> None:
    name = f"pair of {chosen.sample_id} and {rejected.sample_id}"
    if not np.array_equal(chosen.tokens[: chosen.num_prompt_tokens], rejected.tokens[: rejected.num_prompt_tokens]):
        raise ValueError(f"{name}: the prompts differ")
    if np.array_equal(chosen.tokens, rejected.tokens):
        raise ValueError(f"{name}: chosen and rejected are the same response")
    if not np.isfinite(rewards).all():
        raise ValueError(f"{name}: rewards {rewards[0]} and {rewards[1]} are not finite")
    if not (chosen.loss_mask.any() and rejected.loss_mask.any()):
        raise ValueError(f"{name}: a response has no trained token")


def supervised_batch(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> TrainBatch:
    """Collates prompt, reference and end token of each row; reference and end token are trained.

    The reference is tokenised separately, like a sampled response: no token spans the border.

    Raises:
        ValueError: no prompts, a prompt without reference, or a tokenizer without an end token.
    """
    if not prompts:
        raise ValueError("nothing to collate")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: the model could not learn to stop")
    missing = [p.uid for p in prompts if p.reference is None]
    if missing:
        raise ValueError(f"{len(missing)} of {len(prompts)} prompts have no reference to train on, first {missing[0]}")
    answers = encode(tokenizer, [p.reference or "" for p in prompts], special=False)
    rows = [
        np.array([*p.token_ids, *answer, tokenizer.eos_token_id], dtype=np.int32)
        for p, answer in zip(prompts, answers, strict=True)
    ]
    starts = [max(1, len(p.token_ids)) for p in prompts]
    return TrainBatch(
        tokens=_joined(rows, np.int32),
        offsets=offsets_of([len(row) for row in rows]),
        loss_mask=_joined([np.arange(len(row)) >= start for row, start in zip(rows, starts, strict=True)], np.bool_),
        sample_ids=[p.uid for p in prompts],
    )


def _moved(trajectories: Sequence[Trajectory], name: str, offsets: Int64, dtype: type[Any]) -> NDArray[Any]:
    flat = _joined([getattr(t, name) for t in trajectories], dtype)
    for trajectory, start, end in zip(trajectories, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        setattr(trajectory, name, flat[start:end])
    return flat


def _joined(rows: Sequence[NDArray[Any]], dtype: type[Any]) -> NDArray[Any]:
    return np.concatenate(rows, dtype=dtype, casting="unsafe")
