"""A finished artefact: a folder that has its final name only when it is complete, and a record with a checksum.

    artefacts/r02-sft-1f6c0a9b/
        artefact.json           what it is, what it was made of, and size and checksum of every other file
        model/ ...              of a model: the folder that was handed over
        parts/part-00000.parquet ...    of records
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlcore.problems import UserError
from rlcore.rounds.plan.config import RECORDS, Made
from rlcore.storage.durable import content_problems, replacing, size_problems, write_text
from rlcore.storage.strict_json import json_hash, plain, restored

SCHEMA = 1
RECORD, MODEL, PARTS = "artefact.json", "model", "parts"


class ArtefactError(UserError, RuntimeError):
    """An artefact could not be written or may not be read; the message holds path, reason and cure."""


class DamagedError(ArtefactError):
    """What is on disk is not what was written."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What an artefact was made of, and which field of the stage's config read it."""

    field: str
    hash: str
    key: str
    stage: str
    round: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact. Two of the same `hash` hold the same; two of the same `key` were made in the same way."""

    key: str
    hash: str  # sha256 of the content, hex
    made: Made
    stage: str
    round: int  # 0: there from the start
    kind: str  # of the stage; "" for what was there from the start
    folder: Path  # where its record is
    path: Path  # of a model: its folder, which may lie outside the store; otherwise `folder`
    num_rows: int  # of records; 0 for the rest
    num_bytes: int  # of its files
    seconds: float  # wall time, summed over restarts
    created: float  # Unix time
    config: Mapping[str, Any] = field(default_factory=dict)  # of the stage, secrets masked
    report: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # relative to `folder`, or to an outer `path`

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def external(self) -> bool:
        """Whether its files lie outside the store, as those of a model that the user gave."""
        return self.folder not in (self.path, self.path.parent)

    def parts(self) -> list[Path]:
        return sorted(self.folder / name for name in self.files if name.startswith(f"{PARTS}/"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, one part after the other.

        Raises:
            ArtefactError: it holds no records, or a part is damaged.
        """
        if self.made not in RECORDS:
            raise ArtefactError(f"{self.folder} is a {self.made.value} and has no rows")
        for part in self.parts():
            yield read_table(part, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        return pa.concat_tables(self.tables(columns))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """
    Raises:
        DamagedError: the file is missing, torn or changed.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path} is damaged: {error}; start again, and it will be made anew") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Durable, and under its name only when complete. Writing the same name again replaces it."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Durable, atomic, with a checksum of itself."""
    clean = plain(body, path.name)
    write_text(path, json.dumps({**clean, "checksum": json_hash(clean)}, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """None: it is not there.

    Raises:
        DamagedError: it is there and not what was written.
    """
    try:
        body = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
        wanted = body.pop("checksum")
        found = json_hash(body)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if found != wanted:
        raise DamagedError(f"{path} is damaged (wrong checksum)")
    return body  # type: ignore[no-any-return]


# ---- the record


def save(folder: Path, artefact: Artefact) -> None:
    """Writes `artefact.json`; everything it names must be there and durable."""
    location = str(artefact.path) if artefact.external else None
    names = ("key", "hash", "made", "stage", "round", "kind", "num_rows", "num_bytes", "seconds", "created")
    body = {name: getattr(artefact, name) for name in names}
    body |= {"config": artefact.config, "report": artefact.report, "location": location}
    body |= {"parents": [_parent_row(parent) for parent in artefact.parents], "files": artefact.files}
    write_json(folder / RECORD, {"schema": SCHEMA, **body})


def _parent_row(parent: Parent) -> dict[str, Any]:
    return {name: getattr(parent, name) for name in ("field", "hash", "key", "stage", "round")}


def load(folder: Path) -> Artefact | None:
    """None: there is no record in the folder.

    Raises:
        DamagedError: the record is not what was written.
        ArtefactError: it is of a schema that this version does not read.
    """
    body = read_json(folder / RECORD)
    if body is None:
        return None
    if body["schema"] != SCHEMA:
        raise ArtefactError(
            f"{folder / RECORD} has schema {body['schema']}, this version reads {SCHEMA}: resume with the version that "
            "wrote it, or start in another run_dir"
        )
    made, location = Made(body["made"]), body["location"]
    inside = folder / MODEL if made in (Made.model, Made.reward_model) else folder
    return Artefact(
        key=body["key"], hash=body["hash"], made=made, stage=body["stage"], round=body["round"], kind=body["kind"],
        folder=folder, path=Path(location) if location else inside, num_rows=body["num_rows"],
        num_bytes=body["num_bytes"], seconds=body["seconds"], created=body["created"], config=restored(body["config"]),
        report=restored(body["report"]), parents=tuple(Parent(**row) for row in body["parents"]), files=body["files"],
    )  # fmt: skip


def verify(artefact: Artefact, read: bool) -> tuple[str, dict[str, dict[str, Any]]]:
    """What is wrong with the files, in short ("": nothing), and new entries of those written since the record.

    Files were hashed when they were written, so size and time of the last write decide. `read`: files of another time,
    as those of a folder that was copied, are hashed again; without it sizes alone count.
    """
    root = artefact.path if artefact.external else artefact.folder
    if wrong := size_problems(root, artefact.files):
        return wrong[0], {}
    now = {name: {**entry, "mtime_ns": (root / name).stat().st_mtime_ns} for name, entry in artefact.files.items()}
    later = {name: entry for name, entry in now.items() if entry != artefact.files[name]}
    if not (read and later):
        return "", {}
    wrong = content_problems(root, later)
    return (wrong[0], {}) if wrong else ("", later)
