"""Exact duplicates, and near duplicates (MinHash with locality-sensitive hashing).

Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3. Candidates that share a band are verified by their exact Jaccard similarity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rlcore.data import tables
from rlcore.data.filters import verdict as view
from rlcore.data.filters import words
from rlcore.data.filters.config import DuplicatesConfig, IdenticalConfig, NearDuplicatesConfig
from rlcore.data.filters.verdict import FilterContext, Verdict

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

WINDOW = 16  # neighbours in a large bucket that a row is compared with, in addition to the bucket's first row
SLACK = 4.0  # tolerance of a signature's estimate below the threshold, in standard errors
PAIRS = 1 << 16  # pairs verified at a time
_RECALL = 0.995  # probability that the bands find a pair at the threshold


def duplicates(table: pa.Table, config: DuplicatesConfig, context: FilterContext) -> Verdict:
    of = config.text(tables.kind_of(table))
    columns = [normalized(column, config.normalize_space, config.ignore_case) for _, column in view.texts(table, of)]
    group = view.codes(table["uid"]) if config.within_prompt else np.zeros(table.num_rows, dtype=np.int64)
    for column in columns:
        group = _dense(group * (table.num_rows + 1) + view.codes(column))
    order = view.preference(table, config.keep)
    _, first = np.unique(group[order], return_index=True)
    repeated = np.ones(table.num_rows, dtype=np.bool_)
    repeated[order[first]] = False
    verdict = Verdict(table.num_rows)
    verdict.drop(repeated, "duplicate")
    return verdict


def identical_responses(table: pa.Table, config: IdenticalConfig, context: FilterContext) -> Verdict:
    chosen, rejected = (normalized(c, True, config.ignore_case) for _, c in view.texts(table, "response"))
    verdict = Verdict(table.num_rows)
    verdict.drop(pc.equal(chosen, rejected), "identical responses")
    return verdict


def normalized(column: Any, space: bool, ignore_case: bool) -> Any:
    """The texts with normalised white space and case, as configured."""
    column = column.cast(pa.large_string())
    if ignore_case:
        column = pc.utf8_lower(column)
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(column, r"[\s\p{Z}]+", " ")) if space else column


def near_duplicates(table: pa.Table, config: NearDuplicatesConfig, context: FilterContext) -> Verdict:
    """Drops a row if its similarity to a kept row, earlier in the order of preference, reaches the threshold.

    Similarity is not chained: every dropped row is similar to a kept one. Rows without words are ignored.
    """
    column = view.joined(table, config.text(tables.kind_of(table)))
    order = view.preference(table, config.keep)
    prompts = words.text_hashes(table["uid"], 0) if config.within_prompt else None
    sketch = _Sketch(column, config, prompts)
    drops = np.zeros(table.num_rows, dtype=np.bool_)
    same = order[sketch.present[order]]
    _, first = np.unique(sketch.whole[same], return_index=True)
    drops[same] = True
    rows = same[np.sort(first)]  # one of each sequence of words, in order of preference
    drops[rows] = False
    pairs = _candidates(sketch, rows, config.threshold)
    drops[rows[_greedy(column.take(pa.array(rows)), pairs, config)]] = True
    verdict = Verdict(table.num_rows)
    verdict.drop(drops, "near duplicate")
    return verdict


class _Sketch:
    """Keys of the bands [bands, rows], one byte per hash [rows, hashes], one hash of each row's words [rows]."""

    def __init__(self, column: Any, config: NearDuplicatesConfig, prompts: U64 | None) -> None:
        self.rows_per_band, self.num_bands = bands(config.threshold, config.num_hashes)
        num_rows = len(column)
        self.keys = np.zeros((self.num_bands, num_rows), dtype=np.uint64)
        self.bytes = np.zeros((num_rows, config.num_hashes), dtype=np.uint8)
        self.whole = np.zeros(num_rows, dtype=np.uint64)
        self.present = np.zeros(num_rows, dtype=np.bool_)
        self.sizes = np.zeros(num_rows, dtype=np.int64)  # shingles, including repeats
        random = np.random.default_rng(config.seed)
        self.factors = random.integers(0, 1 << 63, config.num_hashes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.shifts = random.integers(0, 1 << 63, config.num_hashes, dtype=np.uint64)
        for first, found in words.chunks(column, config.unit):
            self._add(first, found, config.shingle)
        if prompts is not None:
            self.whole = words.mix(self.whole ^ prompts)
            for key in self.keys:
                key[:] = words.mix(key ^ prompts)

    def _add(self, first: int, found: words.Words, shingle: int) -> None:
        shingles = found.windows(shingle, whole_if_shorter=True)
        rows = np.flatnonzero(shingles.counts)
        at = first + rows
        self.whole[first : first + len(found)] = found.whole()
        self.sizes[first : first + len(found)] = shingles.counts
        self.present[at] = True
        if not len(rows):
            return
        starts, scratch = shingles.offsets[rows], np.empty_like(shingles.hashes)
        for band in range(self.num_bands):
            key = np.full(len(rows), band, dtype=np.uint64)
            for h in range(band * self.rows_per_band, (band + 1) * self.rows_per_band):
                key = words.mix(key ^ self._minima(h, shingles.hashes, starts, scratch, at))
            self.keys[band, at] = key
        for h in range(self.num_bands * self.rows_per_band, len(self.factors)):
            self._minima(h, shingles.hashes, starts, scratch, at)

    def _minima(self, h: int, hashes: U64, starts: I64, scratch: U64, at: I64) -> U64:
        np.multiply(hashes, self.factors[h], out=scratch)
        scratch += self.shifts[h]
        low = np.minimum.reduceat(scratch, starts)
        # a minimum has mostly zero high bits and a product weak low bits; after mixing, any byte can be used
        low = words.mix(low)
        self.bytes[at, h] = (low >> np.uint64(56)).astype(np.uint8)
        return low


def bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """(hashes per band, bands): the longest bands that find at least 99.5 % of the pairs at the threshold.

    A pair of similarity s shares one of b bands of r hashes with probability `1 - (1 - s^r)^b`.

    >>> bands(0.8, 128)
    (6, 21)
    """
    fits = [r for r in range(1, num_hashes + 1) if 1 - (1 - threshold**r) ** (num_hashes // r) >= _RECALL]
    per_band = min(max(fits, default=1), 16)  # longer bands give no gain
    return per_band, num_hashes // per_band


def _candidates(sketch: _Sketch, rows: I64, threshold: float) -> U64:
    """Sorted pairs of positions in `rows`, as earlier * 2^32 + later, that share a band and have similar signatures."""
    error = np.sqrt(threshold * (1 - threshold) / sketch.bytes.shape[1])
    least = (threshold - SLACK * error) * sketch.bytes.shape[1]
    found = [np.zeros(0, dtype=np.uint64)]
    for band in range(sketch.num_bands):
        key, following = (sketch.keys[b % sketch.num_bands][rows] for b in (band, band + 1))
        for early, late in _bucket_pairs(key, following):
            for start in range(0, len(early), PAIRS):
                a, b = early[start : start + PAIRS], late[start : start + PAIRS]
                agreed = (sketch.bytes[rows[a]] == sketch.bytes[rows[b]]).sum(1)
                pairs = (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)
                found.append(pairs[agreed >= least])
        found = [np.unique(np.concatenate(found))]
    return found[0]


def _bucket_pairs(key: U64, following: U64) -> Iterator[tuple[I64, I64]]:
    """Pairs (earlier, later) of equal key: all pairs of a small bucket; in a large one each row with the first row, and
    with its neighbours after sorting by the next band, where near rows are adjacent.
    """
    order = np.argsort(key)
    equal = key[order[1:]] == key[order[:-1]]
    crowd = np.zeros(len(key), dtype=np.bool_)
    crowd[1:] |= equal
    crowd[:-1] |= equal
    members = order[crowd]
    if not len(members):
        return
    members = members[np.lexsort((members, following[members], key[members]))]
    starts = np.flatnonzero(np.concatenate([[True], key[members[1:]] != key[members[:-1]]]))
    sizes = np.diff(np.append(starts, len(members)))
    place = np.arange(len(members)) - np.repeat(starts, sizes)
    for distance in range(1, WINDOW + 1):
        later = np.flatnonzero(place >= distance)
        if not len(later):
            return
        a, b = members[later - distance], members[later]
        yield np.minimum(a, b), np.maximum(a, b)
    large = np.repeat(sizes > WINDOW + 1, sizes)
    leader = np.repeat(np.minimum.reduceat(members, starts), sizes)
    far = large & (leader != members)
    yield leader[far], members[far]


def _greedy(column: Any, pairs: U64, config: NearDuplicatesConfig) -> NDArray[np.bool_]:
    """[rows]: true for dropped rows. `column` is in order of preference; pairs are verified only if their earlier row
    is kept.
    """
    drops = np.zeros(len(column), dtype=np.bool_)
    late, early = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64), (pairs >> np.uint64(32)).astype(np.int64)
    order = np.lexsort((early, late))
    late, early = late[order], early[order]
    start = 0
    while start < len(late):
        stop = min(start + PAIRS, len(late))
        stop = int(np.searchsorted(late, late[stop - 1], side="right"))  # pairs of a row stay in one chunk
        a, b = early[start:stop], late[start:stop]
        open_ = ~drops[a]
        a, b = a[open_], b[open_]
        near = _similarity(column, a, b, config) >= config.threshold - 1e-12
        for first, second in zip(a[near].tolist(), b[near].tolist(), strict=True):
            if not drops[first]:
                drops[second] = True
        start = stop
    return drops


def _similarity(column: Any, a: I64, b: I64, config: NearDuplicatesConfig) -> NDArray[np.float64]:
    """[pairs]: exact Jaccard similarity of the sets of shingles."""
    rows, both = np.unique(np.concatenate([a, b]), return_inverse=True)
    a, b = both[: len(a)], both[len(a) :]
    shingles = words.collect(column.take(pa.array(rows)), config.unit).windows(config.shingle, whole_if_shorter=True)
    # 32 bits for the row and 32 of the hash: two shingles of a pair collide with probability 2^-32
    sets = np.unique((shingles.rows.astype(np.uint64) << np.uint64(32)) | (shingles.hashes >> np.uint64(32)))
    sizes = np.bincount((sets >> np.uint64(32)).astype(np.int64), minlength=len(rows))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    counts = sizes[a]
    pair = np.repeat(np.arange(len(a)), counts)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    asked = (sets[starts[a][pair] + within] & np.uint64(0xFFFFFFFF)) | (b[pair].astype(np.uint64) << np.uint64(32))
    at = np.minimum(np.searchsorted(sets, asked), max(len(sets) - 1, 0))
    common = np.bincount(pair, weights=sets[at] == asked, minlength=len(a)) if len(pair) else np.zeros(len(a))
    return np.asarray(common / np.maximum(sizes[a] + sizes[b] - common, 1), dtype=np.float64)


def _dense(values: I64) -> I64:
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)
