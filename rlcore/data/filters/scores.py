"""Filters on scores and on row counts: thresholds, margins, pass rates, caps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.filters import verdict as view
from rlcore.data.filters import words
from rlcore.data.filters.config import (
    DifficultyConfig,
    MarginConfig,
    PromptCapConfig,
    SamplesPerPromptConfig,
    ScoreConfig,
    TieConfig,
)
from rlcore.data.filters.verdict import F64, I64, FilterContext, Verdict


def score(table: pa.Table, config: ScoreConfig, context: FilterContext) -> Verdict:
    verdict = Verdict(table.num_rows)
    what = config.part or "score"
    for side in view.sides(table, config.side):
        label = side.replace("_", " ")
        _unscored(verdict, table, side)
        values = _part(table[f"{side}parts"], config.part) if config.part else view.numbers(table[f"{side}score"])
        verdict.drop(np.isnan(values), f"{label}has no {what}")
        if config.min is not None:
            verdict.drop(values < config.min, f"{label}{what} below {config.min:g}")
        if config.max is not None:
            verdict.drop(values > config.max, f"{label}{what} above {config.max:g}")
    return verdict


def margin(table: pa.Table, config: MarginConfig, context: FilterContext) -> Verdict:
    verdict = Verdict(table.num_rows)
    if config.by == "strength":
        difference = view.numbers(table["strength"])
        verdict.drop(np.isnan(difference), "no strength")
    else:
        difference = _difference(verdict, table)
    if config.min is not None:
        verdict.drop(difference < config.min, f"margin below {config.min:g}")
    if config.max is not None:
        verdict.drop(difference > config.max, f"margin above {config.max:g}")
    return verdict


def tie(table: pa.Table, config: TieConfig, context: FilterContext) -> Verdict:
    verdict = Verdict(table.num_rows)
    verdict.drop(np.abs(_difference(verdict, table)) <= config.tolerance, "tie")
    return verdict


def difficulty(table: pa.Table, config: DifficultyConfig, context: FilterContext) -> Verdict:
    """Raises:
    ValueError: a table of prompts, and the context has no samples.
    """
    samples = table if tables.kind_of(table) == "samples" else context.samples
    if samples is None:
        raise ValueError("difficulty on prompts needs the scored samples of these prompts, and the context has none")
    num = table.num_rows
    both = view.codes(pa.chunked_array([*table["uid"].chunks, *samples["uid"].chunks], pa.string()))
    uids, of_samples = both[:num], both[num:]
    scored = view.is_ok(samples, "") & ~np.isnan(values := view.numbers(samples["score"]))
    width = int(both.max(initial=-1)) + 1
    counts = np.bincount(of_samples[scored], minlength=width)
    passed = np.bincount(of_samples[scored & (values >= config.threshold)], minlength=width)
    rate = (passed / np.maximum(counts, 1))[uids]
    verdict = Verdict(num)
    verdict.drop(counts[uids] < config.min_samples, f"fewer than {config.min_samples} scored samples")
    verdict.drop(rate < config.low - 1e-12, "too hard")
    verdict.drop(rate > config.high + 1e-12, "too easy")
    return verdict


def prompt_cap(table: pa.Table, config: PromptCapConfig, context: FilterContext) -> Verdict:
    seed = context.seed if config.seed is None else config.seed
    uids, first, sources = view.codes(table["uid"]), None, table["source"]
    _, first = np.unique(uids, return_index=True)  # uids are numbered from 0, so prompt i has number i
    source = view.codes(sources)[first]
    lot = words.text_hashes(table["uid"].take(pa.array(first)), seed)
    order = np.lexsort((lot, source))
    sizes = np.bincount(source)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(first), dtype=np.int64)
    place[order] = np.arange(len(first)) - starts[source[order]]
    limits = np.full(len(sizes), np.iinfo(np.int64).max)
    if config.share is not None:
        limits = np.minimum(limits, np.ceil(config.share * sizes - 1e-9).astype(np.int64))
    names = sources.take(pa.array(first)).to_pylist()
    own = np.array([config.per_source.get(name or "", -1) for name in names], dtype=np.int64)
    limit = limits[source]
    general = np.iinfo(np.int64).max if config.at_most is None else config.at_most
    limit = np.minimum(limit, np.where(own >= 0, own, general))
    verdict = Verdict(table.num_rows)
    verdict.drop((place >= limit)[uids] if len(first) else np.zeros(0, dtype=np.bool_), "over the source's cap")
    return verdict


def samples_per_prompt(table: pa.Table, config: SamplesPerPromptConfig, context: FilterContext) -> Verdict:
    seed = context.seed if config.seed is None else config.seed
    if config.keep == "random":
        order = np.argsort(words.text_hashes(_ids(table), seed), kind="stable")
    else:
        order = view.preference(table, config.keep)
    place = _place(view.codes(table["uid"]), order)
    verdict = Verdict(table.num_rows)
    verdict.drop(place >= config.at_most, "over the prompt's cap")
    return verdict


def _ids(table: pa.Table) -> Any:
    columns = [pc.fill_null(table[f"{side}sample_id"], "").cast(pa.large_string()) for side in view.sides(table)]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, pa.scalar(">", pa.large_string()))


def _place(groups: I64, order: I64) -> I64:
    """[rows]: number of rows of the same group before it in `order`."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    by_group = np.lexsort((rank, groups))
    sizes = np.bincount(groups)
    place = np.empty(len(order), dtype=np.int64)
    place[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def _unscored(verdict: Verdict, table: pa.Table, side: str) -> None:
    status, label = table[f"{side}status"], side.replace("_", " ")
    verdict.drop(pc.is_null(status), f"{label}not scored")
    for value in sorted(set(pc.unique(pc.drop_null(status)).to_pylist()) - {"ok"}):
        verdict.drop(pc.equal(status, value), f"{label}status {value}")


def _difference(verdict: Verdict, table: pa.Table) -> F64:
    """[rows]: chosen minus rejected score; rows without two good scores are dropped."""
    for side in view.sides(table):
        _unscored(verdict, table, side)
    chosen, rejected = (view.numbers(table[f"{side}score"]) for side in view.sides(table))
    difference = chosen - rejected
    verdict.drop(np.isnan(difference), "not scored")
    return difference


def _part(column: Any, name: str) -> F64:
    """[rows]: the named number in JSON objects, NaN where missing. Equal objects are parsed once."""
    codes = view.codes(column)
    _, first = np.unique(codes, return_index=True)
    texts = column.take(pa.array(first)).to_pylist()
    values = [json.loads(text).get(name) if text else None for text in texts]
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)[codes]
