"""The artefacts of a run: finds finished ones by key, reopens partial ones, and records parents.

There is no index; folders are read. Finished artefacts never change; after a change of config a stage and round has
several. Damaged ones are renamed to `*.corrupt` and kept.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from rlcore.data import tables
from rlcore.redact import strip_secrets
from rlcore.rounds.plan.config import RECORDS, Made, StageConfig
from rlcore.rounds.store import artefact as records
from rlcore.rounds.store.artefact import PARTS, RECORD, Artefact, ArtefactError, DamagedError
from rlcore.rounds.store.content import folder_hash, table_hash
from rlcore.rounds.store.partial_artefact import (
    DRAFT,
    DRAFT_RECORD,
    WORK,
    PartialArtefact,
    free_name,
    last_written,
    part_indexes,
    remove,
    steps_done,
)
from rlcore.storage.durable import file_sums, sync, visible_files
from rlcore.storage.strict_json import json_hash, plain

__all__ = ["Artefact", "ArtefactError", "ArtefactStore", "HalfDone", "PartialArtefact", "key_of"]
CORRUPT = ".corrupt"
ROOTS = "roots.json"
FREE_OPTIONS = ("rounds", "checkpoint_every")  # keys of a stage that do not affect its output: rounds and saving
ADOPTED_ROWS = 1 << 17  # rows per part of an adopted table
T = TypeVar("T")
_log = logging.getLogger(__name__)


def key_of(
    config: StageConfig,
    reads: Mapping[str, Any],
    parents: Mapping[str, Sequence[str]],
    seed: int,
) -> str:
    """sha256 of everything that determines the output of a stage: equal keys give equal results.

    Args:
        config: of the stage. Instead of references, the content of their artefacts is hashed, so names do not matter.
        reads: the groups of the run's config that affect the result, without paths, logging, placement and secrets.
        parents: field -> content hashes, in order.
        seed: of this run of the stage.
    """
    own = _without(plain(config, "config"), (*FREE_OPTIONS, *config.CONSUMES))
    return json_hash({
        "format": config.VERSION, "kind": config.KIND, "config": own, "reads": strip_secrets(plain(reads, "reads")),
        "seed": seed, "parents": {name: list(hashes) for name, hashes in parents.items() if hashes},
    })  # fmt: skip


def _without(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """References are only at the top level; `checkpoint_every` also under `train`."""
    kept = {name: value for name, value in config.items() if name not in names}
    train = kept.get("train")
    return kept | {"train": _without(train, FREE_OPTIONS)} if isinstance(train, dict) else kept


@dataclass(frozen=True, slots=True)
class HalfDone:
    """Summary of a draft."""

    folder: Path
    key: str
    stage: str
    round: int
    parts: int  # of records
    steps: int  # step of the latest checkpoint
    seconds: float


class ArtefactStore:
    """The store of a run. One process writes until `close` or its end; others use `read_only=True`.

    Attributes:
        warnings: damaged artefacts, one line each; also logged.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        """
        Raises:
            ArtefactError: another process writes there, or the folder cannot be written.
        """
        self.directory, self.read_only = Path(directory).absolute(), read_only
        self.warnings: list[str] = []
        self._records: dict[str, Artefact] = {}  # by folder name: what is finished never changes
        self._lock: int | None = None
        if not read_only:
            self._take_lock()
            try:
                self._recover()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> ArtefactStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock; the store cannot be used afterwards."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- finding

    def artefacts(self) -> list[Artefact]:
        """All finished artefacts, latest first, without a check of their files.

        Raises:
            ArtefactError: the schema of one is not supported by this version.
        """
        found = []
        for folder in self._folders():
            if DRAFT not in folder.suffix:
                one = self._records.get(folder.name) or self._record(folder)
                if one is not None:
                    self._records[folder.name] = one
                    found.append(one)
        return sorted(found, key=lambda one: one.created, reverse=True)

    def find(self, key: str) -> Artefact | None:
        """The latest intact artefact with this key, see `artefact.verify`. A damaged one is renamed to `*.corrupt` and
        listed in `warnings`, and the next is tried.
        """
        for one in self.artefacts():
            if one.key == key and self._intact(one):
                return one
        return None

    def half_done(self) -> list[HalfDone]:
        found = []
        for folder in self._folders():
            if DRAFT in folder.suffix and (body := self._draft_body(folder)) is not None:
                parts, steps = len(part_indexes(folder)), steps_done(folder)
                seconds = sum(body["sessions"]) + max(0.0, last_written(folder) - body["begun"])
                found.append(HalfDone(folder, body["key"], body["stage"], body["round"], parts, steps, seconds))
        return found

    def remember_roots(self, roots: Mapping[str, Artefact]) -> None:
        """Records the artefacts that the run started with, for `roots`."""
        self._writable()
        body = {"roots": {name: one.hash for name, one in roots.items()}}
        if records.read_json(self.directory / ROOTS) != body:
            records.write_json(self.directory / ROOTS, body)

    def roots(self) -> dict[str, Artefact]:
        """Artefacts that the latest start used, by name; empty before the first.

        Raises:
            DamagedError: the record is not what was written.
        """
        body = records.read_json(self.directory / ROOTS) or {"roots": {}}
        known = {(one.stage, one.hash): one for one in self.artefacts() if one.round == 0}
        wanted = {name: known.get((name, content)) for name, content in body["roots"].items()}
        return {name: one for name, one in wanted.items() if one is not None}

    # ---- making

    def begin(
        self, key: str, *, stage: str, round: int, kind: str, made: Made, config: Mapping[str, Any],
        parents: Mapping[str, Sequence[Artefact]],
    ) -> PartialArtefact:  # fmt: skip
        """Opens a draft; reopens one with the same key from a killed start, with its parts and working files.

        Args:
            config: of the stage, for the record; secrets are masked.
            parents: field of the config -> artefacts.
        """
        self._writable()
        rows = [
            {"field": name, "hash": one.hash, "key": one.key, "stage": one.stage, "round": one.round}
            for name, several in parents.items()
            for one in several
        ]
        body = {
            "schema": records.SCHEMA, "key": key, "stage": stage, "round": round, "kind": kind, "made": made,
            "config": strip_secrets(plain(config, "config")), "parents": rows, "sessions": [], "begun": time.time(),
        }  # fmt: skip
        folder = self._draft_of(key)
        if folder is not None and (old := self._draft_body(folder)) is not None:
            spent = max(0.0, last_written(folder) - old["begun"])
            body["sessions"] = [*old["sessions"], spent]
        else:
            folder = self.directory / (self._name(stage, round, key) + DRAFT)
            if (folder / DRAFT_RECORD).exists():  # of another key with the same beginning
                folder = free_name(folder)
            folder.mkdir(exist_ok=True)
        records.write_json(folder / DRAFT_RECORD, body)
        sync(self.directory)
        return PartialArtefact(folder, plain(body), self._publish)

    def adopt_folder(self, name: str, path: Path, made: Made) -> Artefact:
        """Registers an external model folder as an artefact without a copy. Its bytes are hashed once, and again only
        if size or time of a file changes. A read-only store finds only folders registered before.

        Raises:
            ArtefactError: the folder is missing or empty; or the store is read-only and has no record of it.
        """
        path = Path(path).absolute()
        names = visible_files(path) if path.is_dir() else []
        if not names:
            raise ArtefactError(f"{path} ({name}) is no folder with a model: give the path of a Hugging Face folder")
        stats = {file: (path / file).stat() for file in names}
        seen = {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}
        known = [one for one in self.artefacts() if (one.stage, one.round, one.path, one.made) == (name, 0, path, made)]
        for one in known:
            if {file: (entry["bytes"], entry["mtime_ns"]) for file, entry in one.files.items()} == seen:
                return one
        files = file_sums(path, names)
        content, size = folder_hash(files), sum(entry["bytes"] for entry in files.values())
        if (same := next((one for one in known if one.hash == content), None)) is not None:
            return self._renewed(same, files)
        draft = self.begin(content, stage=name, round=0, kind="", made=made, config={}, parents={})
        one = Artefact(
            key=content, hash=content, made=made, stage=name, round=0, kind="", folder=draft.folder, path=path,
            num_rows=0, num_bytes=size, seconds=draft.seconds, created=time.time(), files=files,
        )  # fmt: skip
        records.save(draft.folder, one)
        return self._publish(draft, one)

    def adopt_table(self, name: str, table: pa.Table, made: Made) -> Artefact:
        """Registers built-in data as an artefact, with one copy per content.

        Raises:
            ArtefactError: the table is of another kind; or the store is read-only and has no record of it.
        """
        if made not in RECORDS or tables.kind_of(table) != made.value:
            raise ArtefactError(f"{name} is a table of {tables.kind_of(table)}, not of {made.value}")
        table = table.cast(tables.SCHEMAS[made.value])
        content = table_hash([table])
        for one in self.artefacts():
            if (one.hash, one.stage, one.round) == (content, name, 0) and self._intact(one):
                return one
        draft = self.begin(content, stage=name, round=0, kind="", made=made, config={}, parents={})
        for index, start in enumerate(range(0, max(table.num_rows, 1), ADOPTED_ROWS)):
            if not draft.has_part(index):
                draft.write_part(index, table.slice(start, ADOPTED_ROWS))
        return draft.finish_records({})

    # ---- the folders

    def _folders(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(p for p in self.directory.iterdir() if p.is_dir() and CORRUPT not in p.suffix)

    def _name(self, stage: str, number: int, key: str) -> str:
        return f"r{number:02d}-{stage}-{key[:8]}"

    def _draft_of(self, key: str) -> Path | None:
        for folder in self._folders():
            if DRAFT in folder.suffix and (body := self._draft_body(folder)) is not None and body["key"] == key:
                return folder
        return None

    def _draft_body(self, folder: Path) -> dict[str, Any] | None:
        return self._read(lambda: records.read_json(folder / DRAFT_RECORD), folder)

    def _record(self, folder: Path) -> Artefact | None:
        return self._read(lambda: records.load(folder), folder)

    def _read(self, read: Callable[[], T | None], folder: Path) -> T | None:
        """The record; None if it is missing, or damaged and set aside."""
        try:
            return read()
        except DamagedError as error:
            self._set_aside(folder, str(error))
            return None

    def _publish(self, draft: PartialArtefact, artefact: Artefact) -> Artefact:
        return self._give_name(draft.folder, artefact)

    def _give_name(self, folder: Path, artefact: Artefact) -> Artefact:
        """Renames a complete draft to its plain name, then deletes its working files."""
        final = free_name(self.directory / self._name(artefact.stage, artefact.round, artefact.key))
        os.rename(folder, final)
        sync(self.directory)
        _clean(final)
        path = artefact.path if artefact.external else final / artefact.path.relative_to(folder)
        return replace(artefact, folder=final, path=path)

    def _recover(self) -> None:
        """Completes a `_give_name` that was interrupted by a kill."""
        for folder in self._folders():
            if DRAFT in folder.suffix:
                if (one := self._record(folder)) is not None:
                    self._give_name(folder, one)
            elif (folder / RECORD).exists():
                _clean(folder)

    def _intact(self, one: Artefact) -> bool:
        wrong, later = records.verify(one, read=not self.read_only)
        if wrong:
            self._set_aside(one.folder, wrong)
        elif later:
            self._renewed(one, {**one.files, **later})
        return not wrong

    def _renewed(self, one: Artefact, files: Mapping[str, Mapping[str, Any]]) -> Artefact:
        """Updates the record of equal content with rewritten files."""
        renewed = replace(one, files=files)
        if not self.read_only:
            records.save(one.folder, renewed)
        self._records[one.name] = renewed
        return renewed

    def _set_aside(self, folder: Path, wrong: str) -> None:
        text = f"{folder} is damaged ({wrong})"
        if not self.read_only:
            target = free_name(folder.with_name(folder.name + CORRUPT))
            os.rename(folder, target)
            text += f": set aside as {target.name}, and rebuilt; delete it when you no longer need it"
        if text not in self.warnings:
            self.warnings.append(text)
            _log.warning(text)

    def _writable(self) -> None:
        if self._lock is None:
            raise ArtefactError(f"{self.directory} was opened read-only, or is closed")

    def _take_lock(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ArtefactError(f"{self.directory} cannot be written: {error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            text = "is in use by another process: wait for it, or set another run_dir"
            raise ArtefactError(f"{self.directory} {text}") from None
        except OSError as error:
            os.close(handle)
            text = "cannot be locked against other processes: set run_dir on another file system"
            raise ArtefactError(f"{self.directory} {text} ({error})") from error
        self._lock = handle


def _clean(folder: Path) -> None:
    for name in (DRAFT_RECORD, WORK):
        remove(folder / name)
    if (parts := folder / PARTS).is_dir() and not any(parts.iterdir()):
        parts.rmdir()
