"""Content hashes of tables, folders and JSON: equal content gives equal hashes.

The hash of a table does not depend on parts or chunks, the parquet file, schema metadata or library version: each
column is a separate stream of validity, lengths and values, row by row.
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
    """Like `json_hash`, without values that differ between equal runs: keys `seconds`, `*_s`, `timing_s/*`, `memory/*`
    and `perf/*`, at any depth.
    """
    return json_hash(_timeless(plain(report)))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = re.compile(r"seconds|.*_s|(timing_s|perf|memory)/.*", re.DOTALL)
        return {key: _timeless(item) for key, item in value.items() if not timed.fullmatch(key)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# ---- tables


def table_hash(tables: Iterable[pa.Table]) -> str:
    """sha256 in hex over the concatenated rows of all tables, which must have the same columns.

    Raises:
        ValueError: no table, or the columns of two differ.
        TypeError: a column type that records do not have.
    """
    hasher = TableHasher()
    for table in tables:
        hasher.update(table)
    return hasher.hexdigest()


class TableHasher:
    """Incremental `table_hash`; uses memory for one chunk of one column."""

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
    """Streams of one column, independent of chunk borders after concatenation."""

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
            self._child(0).update(array.flatten())  # skips values under nulls
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
    """Little-endian bytes; nulls become 0 and all NaNs equal, since their bits have no meaning."""
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
    """Hash over sorted relative names and the sha256 of each file."""
    return json_hash([[name, sums[name]["sha256"]] for name in sorted(sums)])
