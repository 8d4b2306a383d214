"""Runs filters one after another over a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.filters import contamination, duplicates, scores, text
from rlcore.data.filters.checking import parse
from rlcore.data.filters.config import FilterConfig, FunctionConfig
from rlcore.data.filters.report import Drop, FilterReport
from rlcore.data.filters.verdict import FilterContext, Verdict
from rlcore.registry import describe, load_function

ROWS = 1024  # rows converted to Python objects at a time for a user's function


def apply(
    table: pa.Table, filters: Sequence[FilterConfig | Mapping[str, Any]], context: FilterContext | None = None
) -> tuple[pa.Table, FilterReport]:
    """The rows that no filter drops, in order, and a report of the dropped rows.

    Every filter sees the rows that earlier filters kept, so a row is counted with its first reason.

    Args:
        table: columns of `tables.PROMPTS`, `SAMPLES` or `PAIRS`.
        filters: `{kind: ..., options}` or the dataclasses of `rlcore.data.filters.config`.
        context: evaluation texts, scored samples and the seed.

    Raises:
        ValueError: an unknown kind of table; invalid filters (all problems in one message); a filter that needs missing
            context; a user's function that raises or returns neither None nor a reason.
    """
    context = context or FilterContext()
    configs, problems = parse(filters, tables.kind_of(table))
    if problems:
        raise ValueError("bad filters:\n" + "\n".join(map(str, problems)))
    drops: list[Drop] = []
    kept = table
    for index, config in enumerate(configs):
        verdict = FILTERS[config.kind](kept, config, context)
        drops += [
            Drop(f"{index} {config.kind}", reason, count, by_source(kept, verdict.codes == verdict.names.index(reason)))
            for reason, count in verdict.counts().items()
        ]
        if not verdict.kept.all():
            kept = kept.filter(pa.array(verdict.kept))
    return kept, FilterReport(table.num_rows, kept.num_rows, by_source(table), by_source(kept), tuple(drops))


def by_source(table: pa.Table, mask: Any = None) -> dict[str, int]:
    """Number of rows per source, sorted by name, where `mask` is true."""
    column = pc.fill_null(table["source"], "")
    counted = pc.value_counts(column if mask is None else column.filter(pa.array(mask))).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: entry["values"])}


def by_function(table: pa.Table, config: FunctionConfig, context: FilterContext) -> Verdict:
    """Raises:
    ValueError: the function raised, or returned something else; with the row's uid.
    """
    function = load_function(config.fn, "filter")
    said: list[str | None] = []
    for batch in table.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            for name, value in row.items():
                if name.endswith(("metadata", "parts", "info")) and value is not None:
                    row[name] = json.loads(value)
            try:
                reason = function(row, **config.options)
            except Exception as error:
                raise ValueError(f"filter {config.fn} on row {row['uid']!r} raised {describe(error)}") from error
            if reason is not None and (not isinstance(reason, str) or not reason):
                raise ValueError(
                    f"filter {config.fn} on row {row['uid']!r} returned {reason!r}: None, or a reason as text"
                )
            said.append(reason)
    verdict = Verdict(table.num_rows)
    column = np.array(said, dtype=object)
    for reason in dict.fromkeys(reason for reason in said if reason is not None):
        verdict.drop(column == reason, reason)
    return verdict


FILTERS: dict[str, Callable[[pa.Table, Any, FilterContext], Verdict]] = {"fn": by_function} | {
    function.__name__: function
    for function in (
        duplicates.duplicates, duplicates.near_duplicates, duplicates.identical_responses, contamination.contamination,
        text.length, text.language, text.repetition, text.regex, text.finish_reason, scores.score, scores.margin,
        scores.tie, scores.difficulty, scores.prompt_cap, scores.samples_per_prompt,
    )
}  # fmt: skip
