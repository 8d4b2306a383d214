"""Reads rows from files: jsonl and JSON arrays, csv, parquet, folders written by `datasets.Dataset.save_to_disk`."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from rlcore.data.sources.config import SourceKind
from rlcore.data.sources.files import DataError as DataError
from rlcore.data.sources.files import find, format_of, labels, stem

NUM_SHOWN = 5
_HALF = re.compile("[\ud800-\udfff]")
_OPEN: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN_FILE = (OSError, EOFError, lzma.LZMAError, zlib.error)


class Place(NamedTuple):
    """Position of a row. Lines of text files count from 1, as in editors; rows of tables from 0, as in pandas.

    >>> str(Place(3, "line", "train-1", "b/train-1.jsonl")), Place(3, "line", "train-1").uid
    ('b/train-1.jsonl, line 3', 'train-1-3')
    """

    number: int
    unit: str = "row"
    label: str = ""  # name of the file; uids begin with it
    file: str = ""  # shown in errors; "" for a single file

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.file else ''}{self.unit} {self.number}"

    @property
    def uid(self) -> str:
        return f"{self.label}-{self.number}"


class TextRow(dict[str, Any]):
    """A row of a format in which all values are text."""


@dataclass
class Problems:
    """Collects the errors in the rows of a source, to report them together."""

    path: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: Place, reason: str) -> None:
        self.count += 1
        if len(self.first) < NUM_SHOWN:
            self.first.append(f"  {place}: {reason}")

    def check(self, num_rows: int) -> None:
        """Raises DataError if there were any."""
        if not self.count:
            return
        few = "" if self.count == len(self.first) else f"; the first {len(self.first)}"
        raise DataError(f"{self.path}: {self.count} of {num_rows} rows are broken{few}:\n" + "\n".join(self.first))


@dataclass
class Table:
    """Unprocessed rows of all files of a source."""

    path: str  # for errors
    files: list[Path]
    name: str  # name of the file, or of the pattern for several files
    rows: list[tuple[Place, dict[str, Any]]]
    columns: list[str]  # over all rows
    num_read: int  # including broken rows
    problems: Problems


def read(kind: SourceKind, given: Any, key: str, split: str = "", for_eval: bool = False, label: str = "") -> Table:
    """Reads all files of `given`, see `files.find`.

    Args:
        key: config key of the path, for error messages.
        label: name of the source. uids begin with it instead of the file name, or with both for several files.

    Raises:
        DataError: see `files.find`; no rows, or a wrong format. Unreadable rows are collected in `problems` instead.
    """
    files = find(kind, given, key, split, for_eval)
    one = len(files) == 1
    first = given if isinstance(given, str) else given[0]
    path = str(files[0]) if one else first if isinstance(given, str) else f"{first} and {len(given) - 1} more"
    table = Table(path, files, stem(files[0].resolve() if one else Path(first)), [], [], 0, Problems(path))
    columns: dict[str, None] = {}
    for file, own in zip(files, labels([file.resolve() for file in files]), strict=True):
        start = Place(0, "row", (label if one else f"{label}-{own}") if label else own, "" if one else str(file))
        before = table.num_read
        found = SourceKind.dataset if file.is_dir() else kind if kind is not SourceKind.file else format_of(file)
        columns |= dict.fromkeys(_READERS[found or kind](file, start, table))
        if table.num_read == before:
            raise DataError(f"{file} is empty: it has no rows")
    table.columns = list(columns)
    return table


def _open(path: Path) -> IO[bytes]:
    stream: IO[bytes] = _OPEN.get(path.suffix.lower(), open)(path, "rb")
    return stream


def _read_jsonl(path: Path, start: Place, table: Table) -> list[str]:
    columns: dict[str, None] = {}
    first = True
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                place = start._replace(number=number, unit="line")
                value, error = _parsed(line)
                if first and (error or isinstance(value, list)) and (array := _array(path, error)) is not None:
                    return _rows_of_array(array, start, table)
                first = False
                if error:
                    table.num_read += 1
                    table.problems.add(place, f"not JSON ({error}): {_cut(line)}")
                else:
                    _add(value, place, columns, table, line)
    except _BROKEN_FILE as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return list(columns)


def _parsed(text: bytes) -> tuple[Any, str]:
    """The parsed JSON, or an error."""
    try:
        return json.loads(text), ""
    except (ValueError, RecursionError) as error:
        return None, str(error)


def _array(path: Path, error_of_line: str) -> list[Any] | None:
    """A file that is one JSON array; None for JSON lines.

    Raises:
        DataError: it begins like an array but is not one, or is a single object over many lines.
    """
    with _open(path) as stream:
        text = stream.read()
    value, error = _parsed(text)
    if isinstance(value, dict):
        raise DataError(
            f"{path} is one JSON object with the keys {', '.join(list(value)[:5])}: write one object per line, or a "
            "JSON array of objects"
        )
    if error and error_of_line and text.lstrip().startswith(b"["):
        raise DataError(f"{path} starts with '[', but is not a JSON array: {error}")
    return value if isinstance(value, list) else None


def _rows_of_array(values: list[Any], start: Place, table: Table) -> list[str]:
    columns: dict[str, None] = {}
    for number, value in enumerate(values):
        _add(value, start._replace(number=number), columns, table)
    return list(columns)


def _add(value: Any, place: Place, columns: dict[str, None], table: Table, line: bytes | None = None) -> None:
    table.num_read += 1
    text = repr(value).encode(errors="replace") if line is None else line
    if (line is None or b"\\ud" in line.lower()) and _HALF.search(json.dumps(value, ensure_ascii=False)):
        table.problems.add(place, f"a lone surrogate, which is not valid text: {_cut(text)}")
    elif not isinstance(value, dict):
        table.problems.add(place, f"expected a JSON object, got a {type(value).__name__}: {_cut(text)}")
    else:
        columns.update(dict.fromkeys(value))
        table.rows.append((place, value))


def _cut(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 60 else text[:60] + "..."


def _read_csv(path: Path, start: Place, table: Table) -> list[str]:
    """All values are text; an empty field is null. The place of a row is its first line."""
    tabs = path.name.lower().removesuffix(path.suffix if path.suffix.lower() in _OPEN else "").endswith(".tsv")
    csv.field_size_limit(2**31 - 1)
    try:
        with _open(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
            header = next(reader, [])
            if len(set(header)) < len(header) or "" in header:
                raise DataError(f"{path}: the first line must name the columns, each once: {', '.join(header)}")
            line = reader.line_num + 1
            for values in reader:
                place, line = start._replace(number=line, unit="line"), reader.line_num + 1
                if not values:
                    continue
                table.num_read += 1
                if len(values) != len(header):
                    text_of = f"{len(values)} fields, the header has {len(header)}: {_cut(','.join(values).encode())}"
                    table.problems.add(place, text_of)
                else:
                    table.rows.append((place, TextRow((k, v or None) for k, v in zip(header, values, strict=True))))
    except (csv.Error, UnicodeDecodeError, *_BROKEN_FILE) as error:
        raise DataError(f"{path} cannot be read as csv: {type(error).__name__}: {error}") from error
    return header


def _read_parquet(path: Path, start: Place, table: Table) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() in _OPEN:
            with _open(path) as stream:
                return _of_arrow(pq.read_table(pa.BufferReader(stream.read())), start, table)
        return _of_arrow(pq.read_table(path), start, table)
    except (pa.ArrowInvalid, *_BROKEN_FILE) as error:
        raise DataError(f"{path} is not parquet: {error}") from error


def _read_saved(path: Path, start: Place, table: Table) -> list[str]:
    """Reads a saved dataset (Arrow stream files listed in state.json) without the package `datasets`."""
    import pyarrow as pa

    try:
        state = json.loads((path / "state.json").read_bytes())
        tables = []
        for part in state["_data_files"]:
            with pa.memory_map(str(path / part["filename"])) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        return _of_arrow(pa.concat_tables(tables) if tables else pa.table({}), start, table)
    except (ValueError, KeyError, OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is not a complete saved dataset: {type(error).__name__}: {error}") from error


def _of_arrow(columns: Any, start: Place, table: Table) -> list[str]:
    rows = columns.to_pylist()
    table.num_read += len(rows)
    table.rows += [(start._replace(number=number), row) for number, row in enumerate(rows)]
    return list(columns.column_names)


_READERS: Mapping[SourceKind, Any] = {
    SourceKind.jsonl: _read_jsonl,
    SourceKind.csv: _read_csv,
    SourceKind.parquet: _read_parquet,
    SourceKind.dataset: _read_saved,
}


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """Value of a column; `a.b.0` reads inside of a column. None if the path ends early.

    >>> look_up({"reward_model": {"ground_truth": ["7", "seven"]}}, "reward_model.ground_truth")
    ['7', 'seven']

    Raises:
        KeyError: there is no such column, nor a column at the start of the path.
    """
    if name in values:
        return values[name]
    first, *rest = _path(values, name)
    value: Any = values[first]
    for part in rest:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def _path(values: Mapping[str, Any], name: str) -> list[str]:
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if (first := ".".join(parts[:cut])) in values:
            return [first, *parts[cut:]]
    raise KeyError(name)


def nested_columns(table: Table, num_rows: int = 100) -> list[str]:
    """Column names of the first rows, and dotted keys inside of columns of objects."""

    def inside(prefix: str, value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield f"{prefix}.{key}"
                yield from inside(f"{prefix}.{key}", inner)

    names = dict.fromkeys(table.columns)
    for _, values in table.rows[:num_rows]:
        for column, value in values.items():
            names |= dict.fromkeys(inside(column, value))
    return list(names)


def has_column(table: Table, name: str) -> bool:
    """True if some row has this column or dotted path."""
    if name in table.columns or "." not in name:
        return name in table.columns
    for _, values in table.rows:
        try:
            if look_up(values, name) is not None:
                return True
        except KeyError:
            continue
    return False
