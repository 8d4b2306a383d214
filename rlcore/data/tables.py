"""Prompts, samples and pairs as Arrow tables, the format of artefacts and filters.

Text and scores have their own columns, so that a filter over a million rows builds no Python object per row. Samples
and pairs repeat the columns of their prompt; the responses of a pair have the prefixes `chosen_` and `rejected_`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rlcore.types import Pair, Prompt, RewardResult, Sample, Status

TOKENS = pa.list_(pa.int32())
PROMPT_FIELDS = [
    pa.field("uid", pa.string()),
    pa.field("source", pa.string()),
    pa.field("prompt", pa.string()),  # rendered text
    pa.field("prompt_ids", TOKENS),
    pa.field("reference", pa.string()),
    pa.field("rewards", pa.list_(pa.string())),
    pa.field("metadata", pa.string()),  # JSON
]
RESPONSE_FIELDS = [
    pa.field("sample_id", pa.string()),
    pa.field("response", pa.string()),
    pa.field("response_ids", TOKENS),
    pa.field("loss_mask", pa.list_(pa.bool_())),  # null: every response token is trained
    pa.field("finish_reason", pa.string()),
    pa.field("model", pa.string()),
    pa.field("score", pa.float64()),  # null: not scored
    pa.field("status", pa.string()),  # null: not scored
    pa.field("parts", pa.string()),  # JSON: name -> number
    pa.field("info", pa.string()),  # JSON
]
SIDES = ("chosen", "rejected")
_HALF = re.compile("[\ud800-\udfff]")

PROMPTS = pa.schema(PROMPT_FIELDS)
SAMPLES = pa.schema([*PROMPT_FIELDS, *RESPONSE_FIELDS])
PAIRS = pa.schema(
    [
        *PROMPT_FIELDS,
        *(pa.field(f"{side}_{f.name}", f.type) for side in SIDES for f in RESPONSE_FIELDS),
        pa.field("strength", pa.float64()),
    ]
)
SCHEMAS = {"prompts": PROMPTS, "samples": SAMPLES, "pairs": PAIRS}


def from_prompts(prompts: Iterable[Prompt]) -> pa.Table:
    return pa.Table.from_pylist([_prompt_row(p) for p in prompts], PROMPTS)


def from_samples(samples: Iterable[Sample]) -> pa.Table:
    return pa.Table.from_pylist([_prompt_row(s.prompt) | _response_row(s) for s in samples], SAMPLES)


def from_pairs(pairs: Iterable[Pair]) -> pa.Table:
    return pa.Table.from_pylist([_pair_row(pair) for pair in pairs], PAIRS)


def to_prompts(table: pa.Table) -> list[Prompt]:
    return [_prompt(row) for row in table.select(PROMPTS.names).to_pylist()]


def to_samples(table: pa.Table) -> list[Sample]:
    return [_sample(row, _prompt(row), "") for row in table.to_pylist()]


def to_pairs(table: pa.Table) -> list[Pair]:
    return [_pair(row) for row in table.to_pylist()]


def kind_of(table: pa.Table) -> str:
    """ Kind of a table by its columns: "prompts", "samples" or "pairs".

    Raises:
        ValueError: the columns match no kind.
    """
    for name, schema in SCHEMAS.items():
        if table.schema.names == schema.names:
            return name
    raise ValueError(f"columns {', '.join(table.schema.names)} match no record")


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {
        "uid": prompt.uid,
        "source": prompt.source,
        "prompt": prompt.text,
        "prompt_ids": prompt.token_ids,
        "reference": prompt.reference,
        "rewards": prompt.rewards,
        "metadata": _dump(prompt.metadata),
    }


def _response_row(sample: Sample) -> dict[str, Any]:
    reward = sample.reward
    return {
        "sample_id": sample.sample_id,
        "response": sample.text,
        "response_ids": sample.token_ids,
        "loss_mask": sample.loss_mask,
        "finish_reason": sample.finish_reason,
        "model": sample.model,
        "score": None if reward is None else reward.score,
        "status": None if reward is None else reward.status.value,
        "parts": None if reward is None else _dump(reward.parts),
        "info": None if reward is None else _dump(reward.info),
    }


def _pair_row(pair: Pair) -> dict[str, Any]:
    row = _prompt_row(pair.prompt)
    for side, sample in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
        row |= {f"{side}_{name}": value for name, value in _response_row(sample).items()}
    return row | {"strength": pair.strength}


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(
        uid=row["uid"],
        token_ids=tuple(row["prompt_ids"]),
        text=row["prompt"],
        reference=row["reference"],
        rewards=tuple(row["rewards"] or ()),
        metadata=json.loads(row["metadata"]),
        source=row["source"],
    )


def _sample(row: dict[str, Any], prompt: Prompt, prefix: str) -> Sample:
    mask, score = row[f"{prefix}loss_mask"], row[f"{prefix}score"]
    return Sample(
        prompt=prompt,
        sample_id=row[f"{prefix}sample_id"],
        text=row[f"{prefix}response"],
        token_ids=tuple(row[f"{prefix}response_ids"]),
        loss_mask=None if mask is None else tuple(mask),
        finish_reason=row[f"{prefix}finish_reason"],
        model=row[f"{prefix}model"],
        reward=None if score is None else _reward(score, row, prefix),
    )


def _reward(score: float, row: dict[str, Any], prefix: str) -> RewardResult:
    parts, info = (json.loads(row[f"{prefix}{name}"] or "{}") for name in ("parts", "info"))
    return RewardResult(score, Status(row[f"{prefix}status"]), parts, info)


def _pair(row: dict[str, Any]) -> Pair:
    prompt = _prompt(row)
    chosen, rejected = (_sample(row, prompt, f"{side}_") for side in SIDES)
    return Pair(prompt, chosen, rejected, row["strength"])


def _dump(value: Any) -> str:
    """Canonical JSON, so that equal records give equal artefacts."""
    text = json.dumps(value, sort_keys=True, default=_plain, ensure_ascii=False)
    # lone surrogates, as in error texts of programs, are not valid UTF-8: escaping preserves them
    return text if text.isascii() or not _HALF.search(text) else json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Encodes types that JSON lacks; rewards of users may return any type."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):  # the order of sets differs between processes
        return sorted(value, key=lambda item: (str(item), type(item).__name__))
    return str(value)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenates tables of one kind."""
    return pa.concat_tables(tables).combine_chunks()
