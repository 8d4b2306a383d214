from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.filters import words


def counts(*texts: str | None, unit: str = "words") -> list[int]:
    return words.collect(pa.array(texts, pa.string()), unit).counts.tolist()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello,  World!", "hello world", True),
        ("well-known", "well known", True),
        ("74+85", "74-85", False),
        ("**bold** text", "bold text", True),
        ("２+２", "2+2", True),  # NFKC
        ("ab c", "a bc", False),
        ("a b", "b a", False),
        ("don’t", "don't", True),
    ],
)
def test_which_texts_are_the_same_words(one, other, same):
    whole = words.collect(pa.array([one, other])).whole()
    assert (whole[0] == whole[1]) == same


def test_counts():
    assert counts("one two", None, "", "日本 a", "𠀀x", "3-4 x**2") == [2, 0, 0, 3, 2, 5]
    assert counts("ab, cd.", " a", unit="characters") == [5, 1]


texts = st.lists(st.text("ab -*日é.\n2", max_size=12), max_size=8)


@settings(deadline=None)
@given(texts, st.integers(1, 4), st.sampled_from(["words", "characters"]))
def test_a_row_hashes_the_same_whatever_stands_around_it(rows, n, unit):
    together = words.collect(pa.array(rows, pa.string()), unit).windows(n, True)
    for i, row in enumerate(rows):
        alone = words.collect(pa.array([row]), unit).windows(n, True)
        assert together.hashes[together.offsets[i] : together.offsets[i + 1]].tolist() == alone.hashes.tolist()


def test_windows_are_those_of_a_loop():
    found = words.collect(pa.array(["a b c a b", "a b", ""]))
    whole, short = found.windows(2, False), found.windows(3, True)
    assert whole.counts.tolist() == [4, 1, 0]
    assert short.counts.tolist() == [3, 1, 0]
    assert whole.hashes[0] == whole.hashes[3] == whole.hashes[4]
    assert len(set(whole.hashes.tolist())) == 3
    assert short.hashes[3] == whole.hashes[0]  # both stand for "a b"


def test_chunks_and_slices_do_not_change_hashes(monkeypatch):
    rows = [f"row {i} of é" for i in range(50)] + [None]
    expected = words.collect(pa.array(rows))
    monkeypatch.setattr(words, "CHUNK", 40)
    pieces = pa.chunked_array([pa.array(["x", *rows[:20]]).slice(1), pa.array(rows[20:], pa.string())])
    found = words.collect(pieces)
    assert np.array_equal(found.hashes, expected.hashes)
    assert np.array_equal(found.offsets, expected.offsets)
    assert len(list(words.chunks(pieces))) > 5


def test_text_hashes_depend_on_text_and_seed_alone():
    column = pa.array(["a", "b", "a", ""])
    one, other = words.text_hashes(column, 0), words.text_hashes(column, 1)
    assert one[0] == one[2] != one[1]
    assert one[0] != other[0]
