"""Finds rows that contain an evaluation text.

Source: n-gram overlap of GPT-3 (arXiv 2005.14165, appendix C) and of Llama 3 (arXiv 2407.21783, section 5.1.4), here
counted per evaluation text, so that a long row with one quoted problem is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rlcore.data import tables
from rlcore.data.filters import verdict as view
from rlcore.data.filters import words
from rlcore.data.filters.config import ContaminationConfig
from rlcore.data.filters.verdict import FilterContext, Verdict
from rlcore.problems import suggest

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


def contamination(table: pa.Table, config: ContaminationConfig, context: FilterContext) -> Verdict:
    """Drops with the reason `contaminated: <set>`.

    Raises:
        ValueError: the context has no evaluation texts, or none of a requested set.
    """
    index = _Index(_chosen(config, context.eval_texts), config)
    verdict = Verdict(table.num_rows)
    for _, column in view.texts(table, config.text(tables.kind_of(table))):
        found = np.full(table.num_rows, -1, dtype=np.int64)
        for first, part in words.chunks(column):
            found[first : first + len(part)] = index.find(part)
        for number, name in enumerate(index.names):
            hit = found == number
            if hit.any():
                verdict.drop(hit, f"contaminated: {name}")
    return verdict


def _chosen(config: ContaminationConfig, given: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    if not any(len(texts) for texts in given.values()):
        raise ValueError("contamination needs evaluation texts: name the evaluation sets to exclude from the data")
    for name in config.sets:
        if not given.get(name):
            raise ValueError(
                f"contamination.sets: no texts of {name!r}{suggest(name, given)}; known: {', '.join(given)}"
            )
    return {name: texts for name, texts in given.items() if name in config.sets or not config.sets}


class _Index:
    """Index from n-grams to evaluation texts, and the texts too short for n-grams."""

    def __init__(self, sets: Mapping[str, Sequence[str]], config: ContaminationConfig) -> None:
        self.names, self.config = list(sets), config
        self.set_of = np.repeat(np.arange(len(sets)), [len(texts) for texts in sets.values()])
        texts = words.collect(pa.array([text for several in sets.values() for text in several], pa.large_string()))
        grams = texts.windows(config.n, whole_if_shorter=False)
        pairs = _distinct(grams.hashes, grams.rows)
        hashes, counts = np.unique(pairs[0], return_counts=True)
        telling = np.repeat(counts <= config.max_shared, counts)  # pairs are sorted by hash
        self.texts = pairs[1][telling]
        self.hashes, self.counts = hashes[counts <= config.max_shared], counts[counts <= config.max_shared]
        self.starts = np.cumsum(self.counts) - self.counts
        self.totals = np.bincount(self.texts, minlength=len(texts))
        short = np.flatnonzero((self.totals == 0) & (texts.counts > 0))
        self.short: dict[int, tuple[U64, I64]] = {}  # number of words -> hashes, sorted, and their sets
        whole = texts.whole()
        for size in np.unique(texts.counts[short]).tolist():
            rows = short[texts.counts[short] == size]
            known, first = np.unique(whole[rows], return_index=True)
            self.short[size] = (known, self.set_of[rows[first]])

    def find(self, rows: words.Words) -> I64:
        """[rows]: index of the evaluation set that the row contains a text of, -1 for none."""
        found = self._by_grams(rows)
        for size, (known, sets) in self.short.items():
            grams = rows.windows(size, whole_if_shorter=False)
            at, hit = _lookup(known, grams.hashes)
            owner = grams.rows
            if self.config.short == "equal":
                hit &= rows.counts[owner] == size
            owner, number = owner[hit], sets[at[hit]]
            new = found[owner] < 0
            found[owner[new]] = number[new]
        return found

    def _by_grams(self, rows: words.Words) -> I64:
        found = np.full(len(rows), -1, dtype=np.int64)
        grams = rows.windows(self.config.n, whole_if_shorter=False)
        at, hit = _lookup(self.hashes, grams.hashes)
        owner, at = grams.rows[hit], at[hit]
        if not len(owner):
            return found
        once = np.unique(owner * len(self.hashes) + at)
        owner, at = np.divmod(once, len(self.hashes))
        counts = self.counts[at]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        text = self.texts[np.repeat(self.starts[at], counts) + within]
        met, times = np.unique(np.repeat(owner, counts) * len(self.totals) + text, return_counts=True)
        owner, text = np.divmod(met, len(self.totals))
        share = times / self.totals[text]
        enough = share >= self.config.share - 1e-12
        order = np.argsort(share[enough], kind="stable")  # the best match is written last and wins
        found[owner[enough][order]] = self.set_of[text[enough][order]]
        return found


def _distinct(hashes: U64, rows: I64) -> tuple[U64, I64]:
    """Pairs without repeats, sorted by hash."""
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    new = np.ones(len(hashes), dtype=np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    return hashes[new], rows[new]


def _lookup(known: U64, asked: U64) -> tuple[I64, NDArray[np.bool_]]:
    if not len(known):
        return np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.asarray(at, dtype=np.int64), np.asarray(known[at] == asked, dtype=np.bool_)
