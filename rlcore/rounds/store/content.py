"""What an artefact holds, as one number: hashes of tables, folders and JSON that equal content always shares.

A table's hash does not see how its rows were cut into parts or chunks, its parquet file, its schema's metadata or the
version of the library that wrote it: each column is a stream of its own, of validity, lengths and values, row by row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlcore.storage.strict_json import json_hash, plain

_WIDE = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary(), pa.string_view(): pa.string()}


def report_hash(report: Mapping[str, Any]) -> str:
    """As `json_hash`, without what differs in every run of the same thing: keys `seconds`, `*_s`, `timing_s/*`,
    `memory/*` and `perf/*`, at any depth."""
    return json_hash(_timeless(plain(report)))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = re.compile(r"seconds|.*_s|(timing_s|perf|memory)/.*", re.DOTALL)
        return {key: _timeless(item) for key, item in value.items() if not timed.fullmatch(key)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# ---- tables


def table_hash(tables: Iterable[pa.Table]) -> str:
    """sha256 in hex over the rows of all tables, one behind the other; they must have the same columns.

    Raises:
        ValueError: no table, or the columns of two differ.
        TypeError: a column's type is none that records have.
    """
    hasher = TableHasher()
    for table in tables:
        hasher.update(table)
    return hasher.hexdigest()


class TableHasher:
    """`table_hash` of tables that come one by one; memory: one chunk of one column."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._schema: list[tuple[str, str]] | None = None
        self._columns: list[_Column] = []

    def update(self, table: pa.Table) -> None:
        schema = [(field.name, _type_name(field.type)) for field in table.schema]
        if self._schema is None:
            self._schema, self._columns = schema, [_Column() for _ in schema]
        elif schema != self._schema:
            raise ValueError(f"tables of one artefact have the same columns; found {self._schema} and {schema}")
        self.num_rows += table.num_rows
        for column, chunked in zip(self._columns, table.columns, strict=True):
            for chunk in chunked.chunks:
                column.update(chunk)

    def hexdigest(self) -> str:
        if self._schema is None:
            raise ValueError("there is no table to hash: an artefact without rows still has columns")
        return json_hash([self._schema, self.num_rows, [column.digests() for column in self._columns]])


class _Column:
    """Streams of one column; concatenated over chunks they do not tell where the cuts were."""

    def __init__(self) -> None:
        self.valid, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.children: list[_Column] = []

    def update(self, array: pa.Array) -> None:
        kind = array.type
        if pa.types.is_dictionary(kind):
            return self.update(array.dictionary_decode())
        if pa.types.is_null(kind):
            return self.valid.update(bytes(len(array)))
        if kind in _WIDE:
            array, kind = array.cast(_WIDE[kind]), _WIDE[kind]
        self.valid.update(_bytes(pc.is_valid(array)))
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            self._add_texts(array)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self.lengths.update(_numbers(pc.list_value_length(array), np.int64))
            self._child(0).update(array.flatten())  # leaves out what lies under nulls
        elif pa.types.is_struct(kind):
            for i, part in enumerate(array.flatten()):
                self._child(i).update(part)
        elif pa.types.is_boolean(kind):
            self.values.update(_bytes(array))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            self.values.update(_numbers(array, kind.to_pandas_dtype()))
        else:
            raise TypeError(f"records hold texts, numbers, truth values and lists of them, not {kind}")
        return None

    def _add_texts(self, array: pa.Array) -> None:
        if array.null_count:
            array = pc.fill_null(array, "" if pa.types.is_string(array.type) else b"")
        if not len(array):
            return
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4)
        self.lengths.update(np.diff(ends).astype("<i8").tobytes())
        if data is not None:
            self.values.update(memoryview(data)[int(ends[0]) : int(ends[-1])])

    def _child(self, index: int) -> _Column:
        if index == len(self.children):
            self.children.append(_Column())
        return self.children[index]

    def digests(self) -> list[Any]:
        own = [stream.hexdigest() for stream in (self.valid, self.lengths, self.values)]
        return [*own, [child.digests() for child in self.children]]


def _bytes(array: pa.Array) -> bytes:
    """One byte, 0 or 1, per truth value; a null counts as 0."""
    filled = pc.fill_null(array, False) if array.null_count else array
    return bytes(pc.cast(filled, pa.uint8()).to_numpy(zero_copy_only=False).tobytes())


def _numbers(array: pa.Array, dtype: Any) -> bytes:
    """Little-endian; nulls are 0 and there is one NaN: neither's bits mean anything."""
    filled = pc.fill_null(array, 0) if array.null_count else array
    values = filled.to_numpy(zero_copy_only=False).astype(np.dtype(dtype).newbyteorder("<"))
    if values.dtype.kind == "f":
        values[np.isnan(values)] = np.nan
    return bytes(values.tobytes())


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        fields = (f"{kind.field(i).name}: {_type_name(kind.field(i).type)}" for i in range(kind.num_fields))
        return f"struct<{', '.join(fields)}>"
    return str(_WIDE.get(kind, kind))


def folder_hash(sums: Mapping[str, Mapping[str, Any]]) -> str:
    """Over sorted relative names and the files' bytes, these by their sha256."""
    return json_hash([[name, sums[name]["sha256"]] for name in sorted(sums)])
