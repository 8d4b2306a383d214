"""Input and output of filters: the context, the selected texts, and the reasons per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rlcore.data import tables
from rlcore.types import Bool

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class FilterContext:
    """Input of filters in addition to the table.

    Attributes:
        eval_texts: evaluation set -> its texts, for `contamination`. Texts too short for n-grams are compared whole:
            render them like the prompts of the table (chat template), or use `short: contained`.
        samples: scored samples (columns of `tables.SAMPLES`), for `difficulty` on prompts.
        seed: for filters that draw at random and set no seed.
    """

    eval_texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    samples: pa.Table | None = None
    seed: int = 0


class Verdict:
    """A reason or none for each row; the first reason of a row is kept.

    >>> verdict = Verdict(3)
    >>> verdict.drop(np.array([True, False, False]), "too short")
    >>> verdict.drop(np.array([True, True, False]), "not scored")
    >>> verdict.reasons().to_pylist(), verdict.counts()
    (['too short', 'not scored', None], {'too short': 1, 'not scored': 1})
    """

    def __init__(self, num_rows: int) -> None:
        self.codes = np.full(num_rows, -1, dtype=np.int32)  # index into `names`; -1: kept
        self.names: list[str] = []

    def drop(self, mask: Any, reason: str) -> None:
        """Drops the rows where `mask` [rows] is true: numpy, or Arrow (null is false)."""
        if not isinstance(mask, np.ndarray):
            mask = np.asarray(pc.fill_null(mask, False), dtype=np.bool_)
        if reason not in self.names:
            self.names.append(reason)
        self.codes[mask & (self.codes < 0)] = self.names.index(reason)

    @property
    def kept(self) -> Bool:
        return self.codes < 0

    def counts(self) -> dict[str, int]:
        """Rows per reason; reasons without rows are omitted."""
        found = np.bincount(self.codes[~self.kept], minlength=len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True) if n}

    def reasons(self) -> Any:
        """Arrow strings [rows], null where kept."""
        codes = pa.array(self.codes, mask=self.kept)
        return pa.DictionaryArray.from_arrays(codes, pa.array(self.names, pa.string())).cast(pa.string())


def sides(table: pa.Table, only: str = "both") -> tuple[str, ...]:
    """Column prefixes of the responses: none for prompts, "" for samples, "chosen_" and "rejected_" for pairs."""
    kind = tables.kind_of(table)
    wanted = tuple(f"{side}_" for side in tables.SIDES if only in ("both", side))
    return {"prompts": (), "samples": ("",), "pairs": wanted}[kind]


def texts(table: pa.Table, of: str) -> list[tuple[str, Any]]:
    """(name, text column) of the texts that `of` ("prompt", "response" or "both") selects; null becomes ""."""
    found = [("prompt", table["prompt"])] if of in ("prompt", "both") else []
    if of in ("response", "both"):
        found += [(f"{side}response".replace("_", " "), table[f"{side}response"]) for side in sides(table)]
    return [(name, pc.fill_null(column, "")) for name, column in found]


def joined(table: pa.Table, of: str) -> Any:
    """One text per row: the selected columns, joined by line breaks."""
    columns = [column.cast(pa.large_string()) for _, column in texts(table, of)]
    return (
        columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, pa.scalar("\n", pa.large_string()))
    )


def codes(column: Any) -> I64:
    """[rows]: equal numbers for equal texts, from 0; null counts as empty."""
    encoded = pc.dictionary_encode(pc.fill_null(column, ""))
    pieces = encoded.unify_dictionaries().chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(piece.indices, dtype=np.int64) for piece in pieces)])


def numbers(column: Any) -> F64:
    """[rows] float64, NaN where null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")), dtype=np.float64)


def scores(table: pa.Table) -> F64:
    """[rows]: the score for keeping the best of several rows; for pairs the margin. -inf if missing or failed."""
    values = [np.where(is_ok(table, side), numbers(table[f"{side}score"]), np.nan) for side in sides(table)]
    score = values[0] - values[1] if len(values) == 2 else values[0]
    return np.where(np.isnan(score), -np.inf, score)


def is_ok(table: pa.Table, side: str) -> Bool:
    """[rows]: whether the response was scored without failure."""
    return np.asarray(pc.fill_null(pc.equal(table[f"{side}status"], "ok"), False), dtype=np.bool_)


def preference(table: pa.Table, keep: str) -> I64:
    """Row numbers in order of preference: by position in the table ("first") or by score ("best")."""
    if keep == "best":
        return np.argsort(-scores(table), kind="stable")
    return np.arange(table.num_rows, dtype=np.int64)
