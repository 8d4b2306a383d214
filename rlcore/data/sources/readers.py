"""Files to rows: jsonl, parquet, folders written by `datasets.Dataset.save_to_disk`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.data.sources.config import SourceKind
from rlcore.problems import UserError, nearest

NUM_SHOWN = 5
_HALF = re.compile("[\ud800-\udfff]")


class DataError(UserError, ValueError):
    """Data that cannot be used; the text names the file, the line or row, and the reason."""


@dataclass
class Problems:
    """Collects what is wrong with the rows of one file, so that all of it is told at once.

    A line of a jsonl file counts from 1, as editors do; a row of a table from 0, as pandas and datasets do.
    """

    path: Path
    unit: str  # "line" | "row"
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        self.count += 1
        if len(self.first) < NUM_SHOWN:
            self.first.append(f"  {self.unit} {number}: {reason}")

    def check(self, num_rows: int) -> None:
        """Raises DataError if there were any."""
        if not self.count:
            return
        few = "" if self.count == len(self.first) else f"; the first {len(self.first)}"
        raise DataError(f"{self.path}: {self.count} of {num_rows} rows are broken{few}:\n" + "\n".join(self.first))


@dataclass
class Table:
    """Rows as read. `rows` holds (line or row number, columns)."""

    path: Path
    rows: list[tuple[int, dict[str, Any]]]
    columns: list[str]  # of all rows together
    num_read: int  # broken rows included
    problems: Problems


def read(kind: SourceKind, path: str, key: str) -> Table:
    """Reads a whole file or folder.

    Args:
        key: the config key that named the path, for errors.

    Raises:
        DataError: no such file, a folder where a file is wanted or the reverse, no rows, not the format it should be.
            Rows that cannot be read are collected in `problems` and not raised here.
    """
    file = Path(path).expanduser()
    if not file.exists():
        near = nearest(file.name, _names(file.parent), cutoff=0.5)
        cure = f". Did you mean {file.parent / near}?" if near else f" in {file.parent.resolve()}"
        raise DataError(f"{key}={path}: no such file{cure}")
    if kind is SourceKind.jsonl:
        if file.is_dir():
            raise DataError(f"{key}={path} is a folder; data.source=jsonl reads one file of one JSON object per line")
        table = _read_jsonl(file)
    else:
        columns = _arrow_columns(file, key) if kind is SourceKind.dataset else _parquet_columns(file)
        rows = columns.to_pylist()
        names = list(columns.column_names)
        table = Table(file, list(enumerate(rows)), names, len(rows), Problems(file, "row"))
    if not table.num_read:
        raise DataError(f"{file} is empty: it has no rows")
    return table


def _read_jsonl(path: Path) -> Table:
    problems, rows, read_lines = Problems(path, "line"), [], 0
    columns: dict[str, None] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            read_lines += 1
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == 1 and line.lstrip().startswith(b"["):
                    raise DataError(
                        f"{path} starts with '[': it looks like one JSON array; jsonl is one object per line, no commas"
                    ) from error
                problems.add(number, f"not JSON ({error}): {_excerpt(line)}")
                continue
            if b"\\ud" in line.lower() and _HALF.search(json.dumps(value, ensure_ascii=False)):
                problems.add(number, f"half a character (a lone surrogate), which is no text: {_excerpt(line)}")
                continue
            if not isinstance(value, dict):
                problems.add(number, f"a JSON object is wanted, this is a {type(value).__name__}: {_excerpt(line)}")
                continue
            columns.update(dict.fromkeys(value))
            rows.append((number, value))
    return Table(path, rows, list(columns), read_lines, problems)


def _parquet_columns(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not parquet: {error}") from error


def _arrow_columns(path: Path, key: str) -> Any:
    """A saved dataset is Arrow stream files named in state.json: read without the package that wrote them."""
    import pyarrow as pa

    if (path / "dataset_dict.json").is_file():
        names = [n for n in _names(path) if (path / n / "state.json").is_file()]
        one = path / (names or ["train"])[0]
        raise DataError(f"{path} holds the splits {', '.join(names)}: name one, as {key}={one}")
    if not (path / "state.json").is_file():
        raise DataError(f"{path} is not a folder written by datasets.save_to_disk: it has no state.json")
    try:
        state = json.loads((path / "state.json").read_bytes())
        tables = []
        for part in state["_data_files"]:
            with pa.memory_map(str(path / part["filename"])) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        return pa.concat_tables(tables) if tables else pa.table({})
    except (ValueError, KeyError, OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is not a whole saved dataset: {type(error).__name__}: {error}") from error


def _names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []


def _excerpt(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 60 else text[:60] + "..."
