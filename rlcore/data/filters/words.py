"""Hashes of the words of a text column, for near duplicates, contamination and repetition.

No string is built per row or word. Text becomes code points, and the hash of any span is a difference of prefix sums of
a polynomial modulo 2^64 (Karp and Rabin 1987), whose base is odd and therefore has an inverse:

    h(s, e) = mix(p^-s * sum_{s <= i < e} c_i p^i)      c_i 64 random bits of character (or word) i

so a window of n words costs the same for every n.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

CHUNK = 1 << 18  # characters at a time, so that the working set stays in the processor's cache
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_TABLE = 1 << 17  # code points with a table entry; above are rare Han, tags and private use
_SEPARATOR, _LETTER, _DIGIT, _SINGLE = range(4)
_OPERATORS = frozenset("-*/^%")  # in addition to category Sm: `74-85` and `74+85` are different texts
_NOT_WORDS = frozenset("|~`")  # excluded: marks of tables and code
_UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_HYPHEN, _STAR = ord("-"), ord("*")


@dataclass(frozen=True, slots=True)
class Words:
    """Hashes of the words (or characters) of consecutive rows, concatenated.

    Row i is `hashes[offsets[i]:offsets[i + 1]]`.
    """

    hashes: U64  # [words]
    offsets: I64  # [rows + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> I64:
        """[rows]: number of words."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> I64:
        """[words]: row of each word."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def windows(self, n: int, whole_if_shorter: bool) -> Words:
        """Hashes of all n consecutive words of a row, in order, including repeats.

        A row of 1 to n - 1 words has none, or a single one over all its words if `whole_if_shorter`.
        """
        lengths = np.minimum(self.counts, n) if whole_if_shorter else np.full(len(self), n, dtype=np.int64)
        counts = np.where(lengths > 0, np.maximum(self.counts - lengths + 1, 0), 0)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], counts)
        starts = np.repeat(self.offsets[:-1], counts) + within
        return Words(span_hashes(self.hashes, starts, starts + np.repeat(lengths, counts)), offsets)

    def whole(self) -> U64:
        """[rows]: one hash over all words of a row; equal for equal sequences of words."""
        return span_hashes(self.hashes, self.offsets[:-1], self.offsets[1:])


def chunks(column: Any, unit: str = "words") -> Iterator[tuple[int, Words]]:
    """The column in pieces of about `CHUNK` characters: the first row of each, and its words.

    Words are runs of letters, marks and digits, in lower case after Unicode NFKC. A Han character, a kana or a
    mathematical operator is a word (but not a hyphen between letters or a doubled `*`). Everything else separates
    words. The unit `characters` gives the characters of the words, and one for each gap between two words.

    Args:
        column: a string array, whole or in chunks; null counts as empty.
        unit: "words" or "characters".
    """
    first = 0
    for piece in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        sizes = np.asarray(pc.fill_null(pc.binary_length(piece), 0), dtype=np.int64)
        ends = np.cumsum(sizes)
        start = 0
        while start < len(sizes):
            limit = (ends[start - 1] if start else 0) + CHUNK
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
            yield first + start, _words(piece.slice(start, stop - start), unit)
            start = stop
        first += len(sizes)


def collect(column: Any, unit: str = "words") -> Words:
    """All words of a small column, without chunks."""
    parts = [words for _, words in chunks(column, unit)]
    counts = [part.counts for part in parts]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if parts else np.zeros(1, dtype=np.int64)
    hashes = np.concatenate([part.hashes for part in parts]) if parts else np.zeros(0, dtype=np.uint64)
    return Words(hashes, offsets.astype(np.int64))


def span_hashes(codes: U64, starts: I64, ends: I64) -> U64:
    """Hashes of `codes[starts[i]:ends[i]]`, each [spans]; equal spans have equal hashes at any position."""
    powers, inverses = _powers(max(16, len(codes).bit_length()))
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=prefix[1:])
    return mix((prefix[ends] - prefix[starts]) * inverses[starts])


def mix(values: U64) -> U64:
    """A bijection of 64-bit numbers that changes half the bits for every changed bit (splitmix64, Steele 2014)."""
    values = values + np.uint64(_BASE)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def text_hashes(column: Any, seed: int) -> U64:
    """[rows]: a 64-bit hash of each unmodified text and the seed, equal on every machine."""
    found = []
    for piece in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        points, offsets = _points(pc.fill_null(piece, ""))
        found.append(span_hashes(mix(points.astype(np.uint64)), offsets[:-1], offsets[1:]))
    hashes = np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)
    return mix(hashes ^ mix(np.array([seed], dtype=np.int64).astype(np.uint64)))


def _words(texts: Any, unit: str) -> Words:
    texts = pc.fill_null(texts, "")
    if not pc.all(pc.string_is_ascii(texts), min_count=0).as_py():
        texts = pc.utf8_normalize(texts, "NFKC")
    points, offsets = _points(texts)
    kinds, codes = _classified(points)
    first = np.zeros(len(points) + 1, dtype=np.bool_)  # also at the end, so that both ends of every row are marked
    first[offsets] = True
    before = np.concatenate([kinds[:0], np.zeros(1, np.uint8), kinds[:-1]])[: len(kinds)]
    before[first[:-1]] = _SEPARATOR
    after = np.concatenate([kinds[1:], np.zeros(1, np.uint8)])[: len(kinds)]
    after[first[1:]] = _SEPARATOR
    unwanted = (points == _HYPHEN) & (before == _LETTER) & (after == _LETTER)
    stars = points == _STAR
    unwanted[1:] |= stars[1:] & stars[:-1] & ~first[1:-1]
    unwanted[:-1] |= stars[:-1] & stars[1:] & ~first[1:-1]
    for array, where in ((kinds, unwanted), (before[1:], unwanted[:-1]), (after[:-1], unwanted[1:])):
        array[where] = _SEPARATOR
    inside = kinds != _SEPARATOR
    single = kinds == _SINGLE
    starts = inside & ((before == _SEPARATOR) | (before == _SINGLE) | single)
    if unit == "characters":
        return _characters(codes, inside, offsets)
    ends = inside & ((after == _SEPARATOR) | (after == _SINGLE) | single)
    counted = np.concatenate([[0], np.cumsum(starts)])
    hashes = span_hashes(codes, np.flatnonzero(starts), np.flatnonzero(ends) + 1)
    return Words(hashes, counted[offsets])


def _characters(codes: U64, inside: NDArray[np.bool_], offsets: I64) -> Words:
    counted = np.concatenate([[0], np.cumsum(inside)])
    began = counted[1:] > np.repeat(counted[offsets[:-1]], np.diff(offsets))
    gap = np.zeros_like(inside)
    last = np.zeros(len(inside) + 1, dtype=np.bool_)
    last[offsets] = True
    gap[:-1] = ~inside[:-1] & inside[1:] & ~last[1:-1] & began[:-1]
    kept = inside | gap
    codes = np.where(gap, np.uint64(_BASE), codes)[kept]
    return Words(codes, np.concatenate([[0], np.cumsum(kept)])[offsets])


def _points(texts: Any) -> tuple[NDArray[np.uint32], I64]:
    """Concatenated code points of the texts, and the start of each text: [rows + 1]."""
    lengths = np.asarray(pc.utf8_length(texts), dtype=np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, positions, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return np.zeros(0, dtype=np.uint32), np.zeros(len(texts) + 1, dtype=np.int64)
    bounds = np.frombuffer(positions, dtype=width)[texts.offset : texts.offset + len(texts) + 1]
    text = bytes(data.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))).decode("utf-8")
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return points, np.concatenate([[0], np.cumsum(lengths)])


def _classified(points: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], U64]:
    kinds, codes = _tables()
    near = np.minimum(points, _TABLE)
    found, values = kinds[near], codes[near]
    far = points >= _TABLE
    if far.any():
        han = far & (points >= 0x20000) & (points <= 0x3FFFF)
        found[han] = _SINGLE
        values[far] = mix(points[far].astype(np.uint64))
    return found, values


@functools.cache
def _tables() -> tuple[NDArray[np.uint8], U64]:
    """For every code point below `_TABLE`: its kind and its lower-case code; one more entry for all others."""
    kinds = np.zeros(_TABLE + 1, dtype=np.uint8)
    lower = np.arange(_TABLE + 1, dtype=np.uint64)
    for point in range(_TABLE):
        character = chr(point)
        kinds[point] = _kind(character, point)
        small = character.lower()
        if len(small) == 1:
            lower[point] = ord(small)
    return kinds, mix(lower)


def _kind(character: str, point: int) -> int:
    category = unicodedata.category(character)
    if any(low <= point <= high for low, high in _UNSPACED) and category[0] in "LN":
        return _SINGLE
    if category[0] in "LM":
        return _LETTER
    if category[0] == "N":
        return _DIGIT
    if character in _OPERATORS or (category == "Sm" and character not in _NOT_WORDS):
        return _SINGLE
    return _SEPARATOR


@functools.lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[U64, U64]:
    """base^i and base^-i for i in [0, 2^bits]."""
    both = []
    for base in (_BASE, _INVERSE):
        factors = np.full((1 << bits) + 1, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.multiply.accumulate(factors))
    return both[0], both[1]
