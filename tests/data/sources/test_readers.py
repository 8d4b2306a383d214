"""Every format gives the same rows, with errors that name file and row."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcore.data.sources.config import SourceKind
from rlcore.data.sources.readers import DataError, Table, has_column, look_up, nested_columns, read

ROWS = [{"prompt": "a, b", "reference": "x"}, {"prompt": "two\nlines", "reference": None}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'prompt,reference\n"a, b",x\n"two\nlines",\n'
# The bytes are part of a test's name, and every worker must collect the same names.
zipped = functools.partial(gzip.compress, mtime=0)


def table(*paths: Path, kind: SourceKind = SourceKind.file) -> Table:
    return read(kind, [str(path) for path in paths] if len(paths) > 1 else str(paths[0]), "data.train")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.ndjson", LINES.encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.jsonl.gz", zipped(LINES.encode())),
        ("a.jsonl.bz2", bz2.compress(LINES.encode())),
        ("a.jsonl.xz", lzma.compress(LINES.encode())),
        ("a.json.gz", zipped(json.dumps(ROWS).encode())),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv.gz", zipped(CSV.encode())),
        ("a.tsv", CSV.replace('"a, b",', "a, b\t").replace("prompt,", "prompt\t").replace('",\n', '"\t\n').encode()),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    found = table(tmp_path / name)
    assert [dict(values) for _, values in found.rows] == ROWS
    assert (found.name, found.columns, found.num_read) == ("a", ["prompt", "reference"], 2)
    assert not found.problems.count


def test_rows_are_named_as_editors_and_pandas_name_them(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + LINES)
    (tmp_path / "b.csv").write_text(CSV)
    (tmp_path / "c.json").write_text(json.dumps(ROWS))
    assert [str(place) for place, _ in table(tmp_path / "a.jsonl").rows] == ["line 2", "line 3"]
    assert [str(place) for place, _ in table(tmp_path / "b.csv").rows] == ["line 2", "line 3"]
    assert [str(place) for place, _ in table(tmp_path / "c.json").rows] == ["row 0", "row 1"]


def test_of_several_files_each_error_names_its_own(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.jsonl").write_text("[1]\n" + LINES + "nonsense\n")
    found = table(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert [place.uid for place, _ in found.rows] == ["a-1", "a-2", "b-2", "b-3"]
    with pytest.raises(DataError) as caught:
        found.problems.check(found.num_read)
    assert "2 of 6 rows are broken" in str(caught.value)
    assert f"{tmp_path / 'b.jsonl'}, line 1: expected a JSON object, got a list: [1]" in str(caught.value)
    assert f"{tmp_path / 'b.jsonl'}, line 4: not JSON" in str(caught.value)


def test_parquet_shards_and_hive_columns(tmp_path):
    for year in (2023, 2024):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(pa.table({"x": [Decimal("1.50")]}), tmp_path / f"year={year}" / "part.parquet")
    found = table(tmp_path)
    assert [values["x"] for _, values in found.rows] == [Decimal("1.50")] * 2
    assert [place.uid for place, _ in found.rows] == ["year=2023/part-0", "year=2024/part-0"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"a,b\n1\n1,2\n", "1 of 2 rows are broken:\n  line 2: 1 fields, the header has 2: 1"),
        ("a.csv", b"a,a\n1,2\n", "the first line must name the columns, each once: a, a"),
        ("a.csv", b'a,b\n"1,2\n', "a.csv cannot be read as csv: Error: unexpected end of data"),
        ("a.csv", b"a\n\xff\n", "a.csv cannot be read as csv: UnicodeDecodeError"),
        ("a.csv", b"", "a.csv is empty: it has no rows"),
        ("a.json", b"[]", "a.json is empty: it has no rows"),
        ("a.json", b'[{"a": 1},\n', "a.json starts with '[', but is not a JSON array"),
        ("a.json", b'{\n"data": []}', "is one JSON object with the keys data"),
        ("a.json", b'[1, {"a": 1}]', "1 of 2 rows are broken:\n  row 0: expected a JSON object, got a int: 1"),
        ("a.jsonl.gz", b"{}", "a.jsonl.gz cannot be read: BadGzipFile"),
        ("a.jsonl.gz", zipped(LINES.encode() * 1000)[:-20], "a.jsonl.gz cannot be read: EOFError"),
        ("a.parquet", b"no", "a.parquet is not parquet"),
    ],
)
def test_broken_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)

    def checked() -> None:
        found = table(tmp_path / name)
        found.problems.check(found.num_read)

    with pytest.raises(DataError) as caught:
        checked()
    assert message in str(caught.value)


def test_dotted_names_read_the_inside_of_a_column(tmp_path):
    row = {"a": {"b": [{"c": 1}], "d": None}, "x.y": 2, "x.y2": {"z": 3}}
    assert [look_up(row, name) for name in ("a.b.0.c", "a.b.1.c", "a.d.e", "a.q", "x.y", "x.y2.z")] == [
        1, None, None, None, 2, 3,
    ]  # fmt: skip
    with pytest.raises(KeyError):
        look_up(row, "b.c")
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    found = table(tmp_path / "a.jsonl")
    assert has_column(found, "a.b.0")
    assert not has_column(found, "a.q")
    assert nested_columns(found) == ["a", "x.y", "x.y2", "a.b", "a.d", "x.y2.z"]
