"""Collates pairs and samples into batches for reward models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcore.ragged import offsets_of
from rlcore.types import Float32, Pair, Sample, TrainBatch


def reward_batch_pairs(
    pairs: Sequence[Pair],
    attributes: Sequence[str] = (),
    labels: Sequence[float] | NDArray[np.float64] | None = None,
    per_prompt: bool = False,
) -> TrainBatch:
    """Collates pairs: rows 2i and 2i + 1 are the chosen and the rejected response of pair i, each with its prompt.

    Args:
        attributes: names of the K outputs of the model. Those in `reward.parts` of a response become `targets`, see
            `targets_of`. Empty: no targets.
        labels: [pairs] probabilities that the chosen response is better, from `ops.reward_losses.smoothed_labels`.
        per_prompt: weight each pair by 1 / (pairs of its prompt in this batch), so that every prompt has the same
            weight (InstructGPT, arXiv 2203.02155 equation 1).

    Returns:
        A batch with `rows_per_unit` 2, `loss_mask` on the responses, `strengths` if any pair has one, and `targets`,
        `labels`, `weights` as requested.

    Raises:
        ValueError: no pairs, an empty response, a pair of equal responses, a label that is not a probability, a wrong
            number of labels, or an attribute that is not a number.
    """
    for pair in pairs:
        if pair.chosen.token_ids == pair.rejected.token_ids:
            raise ValueError(f"pair {pair.uid}: chosen and rejected are the same response")
    batch = _rows([sample for pair in pairs for sample in (pair.chosen, pair.rejected)], attributes)
    batch = replace(batch, rows_per_unit=2)
    if any(pair.strength is not None for pair in pairs):
        strengths = [np.nan if pair.strength is None else pair.strength for pair in pairs]
        batch = replace(batch, strengths=np.repeat(np.array(strengths, dtype=np.float32), 2))
    if labels is not None:
        given = np.asarray(labels, dtype=np.float32)
        if given.shape != (len(pairs),) or not ((given >= 0) & (given <= 1)).all():
            raise ValueError(f"labels must be {len(pairs)} probabilities, got shape {given.shape}")
        batch = replace(batch, labels=np.stack([given, 1 - given], 1).reshape(-1))
    if per_prompt:
        counts = Counter(pair.prompt.uid for pair in pairs)
        weights = np.array([1 / counts[pair.prompt.uid] for pair in pairs], dtype=np.float32)
        batch = replace(batch, weights=np.repeat(weights, 2))
    return batch


def reward_batch_samples(samples: Sequence[Sample], attributes: Sequence[str] = ()) -> TrainBatch:
    """Collates one row of prompt and response per sample, with `targets` of the attributes.

    Raises:
        ValueError: as `reward_batch_pairs`.
    """
    return _rows(samples, attributes)


def targets_of(sample: Sample, attributes: Sequence[str]) -> list[float]:
    """Targets of the model outputs from `sample.reward.parts`; NaN for missing parts.

    An output named `truth=2` is class 2 of the grade `truth`: the target is 1 if the grade is 2, else 0.

    Raises:
        ValueError: a part that is not finite, or a grade outside the classes.
    """
    parts = sample.reward.parts if sample.reward is not None and sample.reward.ok else {}
    found = []
    for name in attributes:
        grade, is_class, number = name.partition("=")
        value = parts.get(grade)
        if value is None:
            found.append(np.nan)
            continue
        if not np.isfinite(value):
            raise ValueError(f"sample {sample.sample_id}: its {grade} is {value}; omit unknown attributes")
        found.append(float(value == int(number)) if is_class else float(value))
        if is_class and f"{grade}={value:g}" not in attributes:
            known = ", ".join(a.partition("=")[2] for a in attributes if a.startswith(f"{grade}="))
            raise ValueError(f"sample {sample.sample_id}: its {grade} is {value:g}, the classes are {known}")
    return found


def num_tokens(record: Pair | Sample) -> int:
    """Tokens of prompt and response; of a pair, with the longer response."""
    if isinstance(record, Pair):
        return max(num_tokens(record.chosen), num_tokens(record.rejected))
    return len(record.prompt.token_ids) + len(record.token_ids)


def _rows(samples: Sequence[Sample], attributes: Sequence[str]) -> TrainBatch:
    if not samples:
        raise ValueError("nothing to collate")
    if empty := [s.sample_id for s in samples if not s.token_ids]:
        raise ValueError(f"{len(empty)} of {len(samples)} responses have no token, first {empty[0]}")
    offsets = offsets_of([num_tokens(s) for s in samples])
    starts = np.array([len(s.prompt.token_ids) for s in samples])
    targets: Float32 | None = None
    if attributes:
        wanted: Any = [targets_of(s, attributes) for s in samples]
        targets = np.array(wanted, dtype=np.float32)
    return TrainBatch(
        tokens=np.array([token for s in samples for token in (*s.prompt.token_ids, *s.token_ids)], dtype=np.int32),
        offsets=offsets,
        loss_mask=np.arange(offsets[-1]) >= np.repeat(offsets[:-1] + starts, np.diff(offsets)),
        sample_ids=[s.sample_id for s in samples],
        targets=targets,
    )
