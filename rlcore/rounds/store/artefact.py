"""A finished artefact: a folder that gets its final name only when complete, and a record with a checksum.

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
    """An artefact cannot be written or read; the message has path, reason and cure."""


class DamagedError(ArtefactError):
    """Files on disk differ from what was written."""


@dataclass(frozen=True, slots=True)
class Parent:
    """An input of an artefact, and the field of the stage's config that read it."""

    field: str
    hash: str
    key: str
    stage: str
    round: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact. Equal `hash` means equal content, equal `key` means an equal way of production."""

    key: str
    hash: str  # sha256 of the content, hex
    made: Made
    stage: str
    round: int  # 0: a built-in input
    kind: str  # key of the stage; "" for built-in inputs
    folder: Path  # folder of its record
    path: Path  # folder of a model, possibly outside of the store; otherwise `folder`
    num_rows: int  # number of records; 0 for other kinds
    num_bytes: int  # of its files
    seconds: float  # wall time, summed over restarts
    created: float  # Unix time
    config: Mapping[str, Any] = field(default_factory=dict)  # config of the stage, with masked secrets
    report: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # relative to `folder`, or to an outer `path`

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def external(self) -> bool:
        """True if its files are outside of the store, as for a model of the user."""
        return self.folder not in (self.path, self.path.parent)

    def parts(self) -> list[Path]:
        return sorted(self.folder / name for name in self.files if name.startswith(f"{PARTS}/"))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of all parts, concatenated.

        Raises:
            ArtefactError: it has no records, or a part is damaged.
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
        raise DamagedError(f"{path} is damaged: {error}; start again to rebuild it") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a parquet file durably and atomically; replaces an existing one."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Writes JSON durably and atomically, with its own checksum."""
    clean = plain(body, path.name)
    write_text(path, json.dumps({**clean, "checksum": json_hash(clean)}, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None if the file is missing.

    Raises:
        DamagedError: the file differs from what was written.
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
    """Writes `artefact.json`; all listed files must exist and be durable."""
    location = str(artefact.path) if artefact.external else None
    names = ("key", "hash", "made", "stage", "round", "kind", "num_rows", "num_bytes", "seconds", "created")
    body = {name: getattr(artefact, name) for name in names}
    body |= {"config": artefact.config, "report": artefact.report, "location": location}
    body |= {"parents": [_parent_row(parent) for parent in artefact.parents], "files": artefact.files}
    write_json(folder / RECORD, {"schema": SCHEMA, **body})


def _parent_row(parent: Parent) -> dict[str, Any]:
    return {name: getattr(parent, name) for name in ("field", "hash", "key", "stage", "round")}


def load(folder: Path) -> Artefact | None:
    """The record, or None if the folder has none.

    Raises:
        DamagedError: the record differs from what was written.
        ArtefactError: its schema is not supported by this version.
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
    """A short description of damage ("" if none), and new entries of files written since the record.

    Files were hashed when written, so size and modification time are compared. `read`: hashes files with another time,
    for example in a copied folder; without it only sizes are compared.
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
