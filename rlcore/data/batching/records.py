"""Converts records of offline stages to training batches, and to and from groups for scorers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from rlcore.data.tables import SIDES
from rlcore.ragged import offsets_of
from rlcore.types import Group, Prompt, Sample, TrainBatch, Trajectory


def samples_batch(table: pa.Table, ignored: Collection[int] = ()) -> TrainBatch:
    """Batches rows of a table of samples. Responses are trained, or the tokens of the loss mask.

    Args:
        ignored: token ids that are never trained.

    Raises:
        ValueError: no rows, or a loss mask and a response of different lengths.
    """
    return _batch([table], [""], frozenset(ignored))


def pairs_batch(table: pa.Table, ignored: Collection[int] = ()) -> TrainBatch:
    """Batches rows of a table of pairs: row 2i is the chosen response of pair i, row 2i + 1 the rejected one.

    `rows_per_unit` is 2; `scores` [2 * pairs] are the scores of the responses, None unless all have one.

    Raises:
        ValueError: no rows, or a response without a trained token.
    """
    batch = _batch([table, table], [f"{side}_" for side in SIDES], frozenset(ignored))
    empty = batch.loss_counts == 0
    if empty.any():
        raise ValueError(f"sample {batch.sample_ids[int(np.flatnonzero(empty)[0])]}: it has no trained token")
    scores = [table[f"{side}_score"].to_pylist() for side in SIDES]
    known = all(s is not None for side in scores for s in side)
    flat = np.array(scores, dtype=np.float32).T.reshape(-1) if known else None
    return replace(batch, rows_per_unit=2, scores=flat)


def _batch(tables: Sequence[pa.Table], prefixes: Sequence[str], ignored: frozenset[int]) -> TrainBatch:
    """Interleaves rows of the tables: the first of each, then the second of each."""
    if not tables[0].num_rows:
        raise ValueError("nothing to collate")
    sides = [_rows(table, prefix, ignored) for table, prefix in zip(tables, prefixes, strict=True)]
    rows = [row for together in zip(*sides, strict=True) for row in together]
    offsets = offsets_of([len(tokens) for tokens, _, _ in rows])
    masks = ([False] * (len(tokens) - len(trained)) + trained for tokens, trained, _ in rows)
    mask = np.fromiter(itertools.chain.from_iterable(masks), dtype=np.bool_, count=int(offsets[-1]))
    mask[offsets[:-1][np.diff(offsets) > 0]] = False  # the first token has no context
    return TrainBatch(
        tokens=np.fromiter((token for tokens, _, _ in rows for token in tokens), np.int32, int(offsets[-1])),
        offsets=offsets,
        loss_mask=mask,
        sample_ids=[name for _, _, name in rows],
    )


def _rows(table: pa.Table, prefix: str, ignored: frozenset[int]) -> list[tuple[list[int], list[bool], str]]:
    columns = ("prompt_ids", f"{prefix}response_ids", f"{prefix}loss_mask", f"{prefix}sample_id")
    found = []
    for prompt, response, mask, name in zip(*(table[c].to_pylist() for c in columns), strict=True):
        trained = mask if mask is not None else [True] * len(response)
        if len(trained) != len(response):
            raise ValueError(f"sample {name}: {len(response)} response tokens, but a loss mask of {len(trained)}")
        if ignored:
            trained = [t and token not in ignored for t, token in zip(trained, response, strict=True)]
        found.append((prompt + response, trained, name))
    return found


def trajectory_of(sample: Sample) -> Trajectory:
    """A trajectory for scorers; its sampling policy is unknown."""
    prompt, response = sample.prompt.token_ids, sample.token_ids
    tokens = np.array([*prompt, *response], dtype=np.int32)
    mask = np.zeros(tokens.size, dtype=np.bool_)
    mask[len(prompt) :] = True if sample.loss_mask is None else np.array(sample.loss_mask, dtype=np.bool_)
    return Trajectory(
        uid=sample.prompt.uid,
        sample_id=sample.sample_id,
        tokens=tokens,
        loss_mask=mask,
        rollout_logprobs=np.zeros(tokens.size, dtype=np.float32),
        versions=np.full(tokens.size, -1, dtype=np.int32),
        num_prompt_tokens=len(prompt),
        finish_reason=sample.finish_reason,
        text=sample.text,
    )


def groups_of(samples: Sequence[Sample]) -> list[Group]:
    """Groups consecutive samples of one prompt, in order."""
    groups: list[Group] = []
    for sample in samples:
        if not groups or groups[-1].prompt.uid != sample.prompt.uid:
            groups.append(Group(sample.prompt, []))
        groups[-1].trajectories.append(trajectory_of(sample))
    return groups


def samples_of(group: Group, model: str, first: int = 0, member: int = 0) -> list[Sample]:
    """Converts a sampled group to records.

    Args:
        model: content hash of the sampling model.
        first: number of the group's first sample among those of its prompt and `member`.
        member: index in the committee.
    """
    return [
        Sample(
            prompt=_seen_by(t, group.prompt),
            sample_id=f"{group.prompt.uid}#{member}.{first + k}",
            text=t.text,
            token_ids=tuple(t.tokens[t.num_prompt_tokens :].tolist()),
            loss_mask=_mask_of(t),
            finish_reason=t.finish_reason,
            model=model,
            reward=t.reward,
        )
        for k, t in enumerate(group.trajectories)
    ]


def _seen_by(trajectory: Trajectory, prompt: Prompt) -> Prompt:
    """The prompt with the tokens that the model has seen, which an environment may have changed."""
    seen = tuple(trajectory.tokens[: trajectory.num_prompt_tokens].tolist())
    return prompt if seen == prompt.token_ids else replace(prompt, token_ids=seen)


def _mask_of(trajectory: Trajectory) -> tuple[bool, ...] | None:
    mask = trajectory.loss_mask[trajectory.num_prompt_tokens :]
    return None if mask.all() else tuple(mask.tolist())
