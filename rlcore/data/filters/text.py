"""Filters on single texts: length, language, repetition, pattern, finish reason."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.filters import languages, words
from rlcore.data.filters import verdict as view
from rlcore.data.filters.config import FinishReasonConfig, LanguageConfig, LengthConfig, RegexConfig, RepetitionConfig
from rlcore.data.filters.verdict import F64, FilterContext, Verdict


def length(table: pa.Table, config: LengthConfig, context: FilterContext) -> Verdict:
    verdict = Verdict(table.num_rows)
    for name, column in view.texts(table, config.text(tables.kind_of(table))):
        if config.unit == "tokens":
            sizes = pc.fill_null(pc.list_value_length(table[f"{name.replace(' ', '_')}_ids"]), 0)
        else:
            sizes = pc.utf8_length(column)
        if config.min is not None:
            verdict.drop(pc.less(sizes, config.min), f"{name} too short")
        if config.max is not None:
            verdict.drop(pc.greater(sizes, config.max), f"{name} too long")
    return verdict


def regex(table: pa.Table, config: RegexConfig, context: FilterContext) -> Verdict:
    verdict, any_matched = Verdict(table.num_rows), np.zeros(table.num_rows, dtype=np.bool_)
    for name, column in view.texts(table, config.text(tables.kind_of(table))):
        matched = pc.match_substring_regex(column, config.pattern, ignore_case=config.ignore_case)
        any_matched |= np.asarray(matched, dtype=np.bool_)
        if config.action == "drop":
            verdict.drop(matched, f"{name} matches")
    if config.action == "keep":
        verdict.drop(~any_matched, "no match")
    return verdict


def finish_reason(table: pa.Table, config: FinishReasonConfig, context: FilterContext) -> Verdict:
    """One reason per unwanted finish reason: `response ended by length`."""
    verdict = Verdict(table.num_rows)
    for side in view.sides(table, config.side):
        column = pc.fill_null(table[f"{side}finish_reason"], "nothing told")
        for value in sorted(set(pc.unique(column).to_pylist()) - set(config.allowed)):
            verdict.drop(pc.equal(column, value), f"{side}response ended by {value}".replace("_", " "))
    return verdict


def repetition(table: pa.Table, config: RepetitionConfig, context: FilterContext) -> Verdict:
    """The share is 0 for texts of up to n units."""
    verdict = Verdict(table.num_rows)
    for name, column in view.texts(table, config.text(tables.kind_of(table))):
        share, run = np.zeros(table.num_rows), np.zeros(table.num_rows, dtype=np.int64)
        for first, found in words.chunks(column, config.unit):
            here = slice(first, first + len(found))
            if config.max_share is not None:
                share[here] = repeated_share(found, config.n)
            if config.max_run is not None:
                run[here] = longest_run(found)
        if config.max_share is not None:
            verdict.drop(share > config.max_share, f"{name} repeats itself")
        if config.max_run is not None:
            verdict.drop(run > config.max_run, f"{name} has a long run")
    return verdict


def repeated_share(found: words.Words, n: int) -> F64:
    """[rows]: 1 - distinct n-grams / n-grams; 0 where there is none."""
    grams = found.windows(n, whole_if_shorter=False)
    rows = grams.rows
    order = np.lexsort((grams.hashes, rows))
    again = (grams.hashes[order][1:] == grams.hashes[order][:-1]) & (rows[1:] == rows[:-1])  # rows are already sorted
    repeated = np.bincount(rows[1:][again], minlength=len(found))
    return np.asarray(repeated / np.maximum(grams.counts, 1), dtype=np.float64)


def longest_run(found: words.Words) -> view.I64:
    """[rows]: length of the longest run of equal units."""
    longest = np.zeros(len(found), dtype=np.int64)
    if len(found.hashes):
        rows = found.rows
        starts = np.flatnonzero(np.concatenate([[True], (np.diff(rows) > 0) | (found.hashes[1:] != found.hashes[:-1])]))
        np.maximum.at(longest, rows[starts], np.diff(np.append(starts, len(rows))))
    return longest


def language(table: pa.Table, config: LanguageConfig, context: FilterContext) -> Verdict:
    """One reason per detected language: `response in fr`. Each distinct text is classified once."""
    verdict = Verdict(table.num_rows)
    allowed = {languages.canonical(code) for code in config.allowed}
    for name, column in view.texts(table, config.text(tables.kind_of(table))):
        codes = view.codes(column)
        _, first = np.unique(codes, return_index=True)
        detected: dict[str, list[int]] = {}
        for code, text in zip(codes[first].tolist(), column.take(pa.array(first)), strict=True):
            if len(text := text.as_py()) >= config.min_characters:
                detected.setdefault(str(languages.detector().classify(text)[0]), []).append(code)
        for found in sorted(set(detected) - allowed):
            verdict.drop(np.isin(codes, detected[found]), f"{name} in {found}")
    return verdict
