from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data import tables
from rlcore.rounds.store.content import TableHasher, folder_hash, report_hash, table_hash
from rlcore.storage.durable import file_sums
from rlcore.types import Prompt, RewardResult, Sample

TEXTS = st.one_of(st.none(), st.text(max_size=6))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": TEXTS,
            "ids": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=4)),
            "words": st.one_of(st.none(), st.lists(TEXTS, max_size=3)),
            "flag": st.one_of(st.none(), st.booleans()),
            "score": st.one_of(st.none(), st.floats(width=64)),
            "inner": st.fixed_dictionaries({"a": st.one_of(st.none(), st.integers(0, 9))}),
        }
    ),
    min_size=1,
    max_size=12,
)
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("words", pa.list_(pa.string())),
        ("flag", pa.bool_()),
        ("score", pa.float64()),
        ("inner", pa.struct([("a", pa.int64())])),
    ]
)


def samples(n, first=0):
    return tables.from_samples(
        Sample(Prompt(f"p-{i}", (i, 2), f"{i}+1="), f"p-{i}#0", str(i), (3,) * (i % 5), reward=RewardResult(i / 7))
        for i in range(first, first + n)
    )


@settings(deadline=None, max_examples=200)
@given(ROWS, st.lists(st.integers(0, 12), max_size=4), st.integers(1, 5))
def test_the_hash_of_rows_does_not_see_the_cuts(rows, cuts, chunk):
    whole = pa.Table.from_pylist(rows, SCHEMA)
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    expected = table_hash([whole])
    assert table_hash(parts) == expected
    assert table_hash([pa.Table.from_batches(whole.to_batches(max_chunksize=chunk), SCHEMA)]) == expected
    rebuilt = pa.concat_tables([pa.Table.from_pylist(part.to_pylist(), SCHEMA) for part in parts])
    assert table_hash([rebuilt.combine_chunks()]) == expected


@settings(deadline=None, max_examples=200)
@given(ROWS, ROWS)
def test_other_rows_have_another_hash(rows, others):
    def text(value):
        return repr(pa.Table.from_pylist(value, SCHEMA).to_pylist())

    same = table_hash([pa.Table.from_pylist(rows, SCHEMA)]) == table_hash([pa.Table.from_pylist(others, SCHEMA)])
    assert same == (text(rows) == text(others))


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("text", ["ab", "c"], ["a", "bc"]),
        ("text", ["", "a"], [None, "a"]),
        ("ids", [[1], [2]], [[1, 2], []]),
        ("ids", [None, [1]], [[], [1]]),
        ("words", [["a", "b"]], [["ab", ""]]),
        ("flag", [False], [None]),
        ("score", [0.0], [None]),
        ("score", [math.nan], [None]),
        ("score", [1.0], [math.nextafter(1.0, 2.0)]),
        ("inner", [{"a": None}], [{"a": 0}]),
    ],
)
def test_what_looks_alike_is_told_apart(name, left, right):
    schema = pa.schema([SCHEMA.field(name)])
    tables_ = [pa.Table.from_pylist([{name: v} for v in values], schema) for values in (left, right)]
    assert table_hash(tables_[:1]) != table_hash(tables_[1:])


def test_rows_in_another_order_and_columns_of_another_name():
    table = pa.table({"a": ["x", "y"], "b": ["x", "y"]})
    assert table_hash([table]) != table_hash([table.take([1, 0])])
    assert table_hash([table]) != table_hash([table.rename_columns(["b", "a"])])
    assert table_hash([table]) != table_hash([table.select(["a"])])
    assert table_hash([table]) != table_hash([table.slice(0, 0)])


def test_the_hash_sees_neither_file_nor_encoding(tmp_path):
    table = samples(100)
    expected = table_hash([table])
    for i, options in enumerate([{}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 7}]):
        pq.write_table(table, tmp_path / f"{i}.parquet", **options)
        assert table_hash([pq.read_table(tmp_path / f"{i}.parquet")]) == expected
    assert table_hash([table.replace_schema_metadata({"pandas": "x"})]) == expected
    wide = pa.schema([pa.field(f.name, pa.large_string() if f.type == pa.string() else f.type) for f in table.schema])
    assert table_hash([table.cast(wide)]) == expected
    encoded = table.set_column(1, "source", table["source"].dictionary_encode())
    assert table_hash([encoded]) == expected


def test_all_nans_are_one():
    odd = np.frombuffer(np.uint64(0x7FF8_0000_0000_0001).tobytes(), np.float64)
    assert table_hash([pa.table({"x": odd})]) == table_hash([pa.table({"x": [math.nan]})])


def test_hash_is_stable():
    """Artefacts of earlier versions must be found: a change here needs a new SCHEMA."""
    assert table_hash([samples(3)]) == "91622e2acba8ae57efab5f8776de9ec70d462a209273b5db0c2857fd250b4c64"


def test_tables_that_do_not_belong_together():
    hasher = TableHasher()
    hasher.update(pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="same columns"):
        hasher.update(pa.table({"a": ["1"]}))
    with pytest.raises(ValueError, match="still has columns"):
        table_hash([])
    with pytest.raises(TypeError, match="date32"):
        table_hash([pa.table({"a": pa.array([1], pa.date32())})])


def test_seconds_do_not_enter_the_hash_of_a_report():
    one = {
        "accuracy": 0.5,
        "seconds": 3.0,
        "timing_s": {"gen": 1},
        "perf/x": 1,
        "memory/actor_update_peak_gib": 2.0,
        "timing_s/gen": 2,
        "parts": [{"gen_s": 1, "n": 2}],
    }
    other = {"accuracy": 0.5, "seconds": 9.0, "parts": [{"gen_s": 7, "n": 2}]}
    assert report_hash(one) == report_hash(other) != report_hash(other | {"accuracy": 0.6})


def test_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for file, text in (("a.bin", "1"), ("sub/b.bin", "2"))[:: 1 if name == "one" else -1]:
            (tmp_path / name / file).write_text(text)
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "x").write_text("hidden files do not count")
    one, two = file_sums(tmp_path / "one"), file_sums(tmp_path / "two")
    assert folder_hash(one) == folder_hash(two), "neither the order nor the time of writing counts"
    assert list(one) == ["a.bin", "sub/b.bin"]
    assert one["a.bin"]["bytes"] == 1
    assert one["a.bin"]["sha256"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    before = folder_hash(one)
    (tmp_path / "one" / "a.bin").write_text("2")
    assert folder_hash(file_sums(tmp_path / "one")) != before
    (tmp_path / "two" / "a.bin").rename(tmp_path / "two" / "c.bin")
    assert folder_hash(file_sums(tmp_path / "two")) != before
