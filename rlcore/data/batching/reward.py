"""Pairs and samples to batches of a reward model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcore.types import Float32, Pair, Sample, TrainBatch


def reward_batch_pairs(
    pairs: Sequence[Pair],
    attributes: Sequence[str] = (),
    labels: Sequence[float] | NDArray[np.float64] | None = None,
    per_prompt: bool = False,
) -> TrainBatch:
    """Rows 2i and 2i + 1 are prompt and chosen, prompt and rejected response of pair i; `rows_per_unit` is 2.

    Args:
        attributes: names of the model's K outputs, of which the responses' `reward.parts` may know some: they become
            `targets`. See `targets_of`. Empty: no targets.
        labels: [pairs] chances that the chosen response is better, as `ops.reward_losses.smoothed_labels` makes them.
        per_prompt: weigh each pair by 1 over the number of pairs of its prompt here, so that every prompt counts the
            same (InstructGPT, arXiv 2203.02155 equation 1).

    Returns:
        `strengths` where any pair has one; `targets`, `labels`, `weights` as asked for; `loss_mask` on the responses.

    Raises:
        ValueError: nothing to collate, a response without a token, a pair of equal responses, a label that is no
            probability, another number of labels than pairs, or an attribute that is no number.
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
    """A row of prompt and response for each sample, with `targets` of the attributes.

    Raises:
        ValueError: as `reward_batch_pairs`.
    """
    return _rows(samples, attributes)


def targets_of(sample: Sample, attributes: Sequence[str]) -> list[float]:
    """What `sample.reward.parts` says of each output of a model; NaN where it says nothing.

    An output called `truth=2` is the class 2 of the grade `truth`: 1 where the grade is 2, 0 where it is another.

    Raises:
        ValueError: a part that is not finite, or a grade of no class.
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
            raise ValueError(f"sample {sample.sample_id}: its {grade} is {value}; leave out what is not known")
        found.append(float(value == int(number)) if is_class else float(value))
        if is_class and f"{grade}={value:g}" not in attributes:
            known = ", ".join(a.partition("=")[2] for a in attributes if a.startswith(f"{grade}="))
            raise ValueError(f"sample {sample.sample_id}: its {grade} is {value:g}, the classes are {known}")
    return found


def num_tokens(record: Pair | Sample) -> int:
    """Of the prompt with the response; of a pair those of the longer one."""
    if isinstance(record, Pair):
        return max(num_tokens(record.chosen), num_tokens(record.rejected))
    return len(record.prompt.token_ids) + len(record.token_ids)


def _rows(samples: Sequence[Sample], attributes: Sequence[str]) -> TrainBatch:
    if not samples:
        raise ValueError("nothing to collate")
    if empty := [s.sample_id for s in samples if not s.token_ids]:
        raise ValueError(f"{len(empty)} of {len(samples)} responses have no token, first {empty[0]}")
    lengths = np.array([num_tokens(s) for s in samples], dtype=np.int32)
    starts = np.array([len(s.prompt.token_ids) for s in samples])
    columns = np.arange(int(lengths.max()))
    real = columns < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int32)
    tokens[real] = np.concatenate([np.array([*s.prompt.token_ids, *s.token_ids], dtype=np.int32) for s in samples])
    targets: Float32 | None = None
    if attributes:
        wanted: Any = [targets_of(s, attributes) for s in samples]
        targets = np.array(wanted, dtype=np.float32)
    return TrainBatch(
        tokens=tokens,
        lengths=lengths,
        loss_mask=real & (columns >= starts[:, None]),
        sample_ids=[s.sample_id for s in samples],
        targets=targets,
    )
