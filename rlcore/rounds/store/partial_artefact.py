"""A partial artefact: an interrupted stage resumes from the parts and checkpoints on disk.

    artefacts/r02-sft-1f6c0a9b.draft/
        draft.json          key, stage, config, parents, seconds of earlier starts
        work/               working files of the stage: checkpoints; deleted when the artefact is finished
        parts/part-00000.parquet ...

Finishing writes `artefact.json` and renames the folder; the next start completes an interrupted finish.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlcore.data import tables
from rlcore.rounds.plan.config import RECORDS, Made
from rlcore.rounds.store import artefact as records
from rlcore.rounds.store.artefact import MODEL, PARTS, Artefact, ArtefactError, DamagedError, Parent
from rlcore.rounds.store.content import TableHasher, folder_hash, report_hash
from rlcore.storage.durable import PARTIAL, file_sums, is_disk_full, sync, sync_tree

DRAFT, DRAFT_RECORD, WORK = ".draft", "draft.json", "work"
_PART, _STEP = re.compile(r"part-(\d{5,})\.parquet"), re.compile(r"step-(\d{6,})")
_log = logging.getLogger(__name__)


class PartialArtefact:
    """A partial artefact, opened by `ArtefactStore.begin`; one process writes it until a `finish_*`.

    Attributes:
        reopened: true if an earlier start began it.
    """

    def __init__(
        self, folder: Path, body: Mapping[str, Any], publish: Callable[[PartialArtefact, Artefact], Artefact]
    ) -> None:
        self.folder, self.body, self._publish = folder, dict(body), publish
        self.key, self.stage, self.round = body["key"], body["stage"], body["round"]
        self.made = Made(body["made"])
        self.reopened = bool(body["sessions"])
        self._before, self._begun = sum(body["sessions"]), time.monotonic()
        self._intact: set[int] = set()
        for path in (folder / WORK, folder / PARTS):
            path.mkdir(exist_ok=True)
        for path in (folder / PARTS).glob("*" + PARTIAL):
            path.unlink()

    @property
    def directory(self) -> Path:
        """Folder for working files of the stage; deleted when the artefact is finished."""
        return self.folder / WORK

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of work over all starts; for a killed start until its last written file."""
        return float(self._before + time.monotonic() - self._begun)

    # ---- records

    def has_part(self, index: int) -> bool:
        """True if part `index` was written by this or an earlier start; a damaged part is set aside."""
        path = self._part(index)
        if index not in self._intact and path.exists():
            try:
                pq.read_metadata(path)
                self._intact.add(index)
            except (OSError, pa.ArrowException) as error:
                self._set_aside(index, str(error))
        return index in self._intact

    def parts(self) -> list[int]:
        """Sorted indexes of the existing parts."""
        return [index for index in part_indexes(self.folder) if self.has_part(index)]

    def write_part(self, index: int, table: pa.Table) -> None:
        """Writes one part durably; replaces an earlier one with the same index. Parts may be written in any order.

        Raises:
            ArtefactError: the table's columns are not those of `made`, or the disk is full.
        """
        if index < 0:
            raise ValueError(f"parts are counted from 0, not {index}")
        if self.made not in RECORDS:
            raise ArtefactError(f"{self.stage} makes a {self.made.value}, which has no parts")
        schema = tables.SCHEMAS[self.made.value]
        if table.schema.names != schema.names:
            raise ArtefactError(
                f"part {index} of {self.stage} has the columns {', '.join(table.schema.names)}; {self.made.value} have "
                f"{', '.join(schema.names)}: make tables by rlcore.data.tables"
            )
        try:
            table = table.cast(schema)
        except pa.ArrowException as error:
            raise ArtefactError(f"part {index} of {self.stage} does not fit {self.made.value}: {error}") from error
        with enough_room(self.folder):
            records.write_table(self._part(index), table)
        self._intact.add(index)

    def read_part(self, index: int) -> pa.Table:
        """
        Raises:
            DamagedError: the part is missing or damaged; a damaged part is set aside.
        """
        try:
            return records.read_table(self._part(index))
        except DamagedError as error:
            if self._part(index).exists():
                self._set_aside(index, str(error))
            raise

    def finish_records(self, report: Mapping[str, Any]) -> Artefact:
        """Finishes the artefact from its parts, which must be 0 to n-1, at least one, possibly empty.

        Raises:
            ArtefactError: a part is missing or damaged, or the disk is full.
        """
        self._expect(*RECORDS)
        found = self.parts()
        if not found or found != list(range(len(found))):
            missing = sorted(set(range(max(found, default=0) + 1)) - set(found))
            raise ArtefactError(
                f"{self.folder} lacks part {missing[0]} (there are {len(found)}): write it first; an artefact without "
                "rows has one empty part"
            )
        hasher = TableHasher()
        for index in found:
            hasher.update(self.read_part(index))
        files = file_sums(self.folder, [f"{PARTS}/{self._part(index).name}" for index in found])
        return self._finish(hasher.hexdigest(), files, report, hasher.num_rows)

    # ---- models and reports

    def finish_folder(self, folder: Path, report: Mapping[str, Any]) -> Artefact:
        """Moves a model folder into the artefact. Its hash covers sorted relative names and bytes, without hidden
        files.

        Raises:
            ArtefactError: the folder is missing, empty or contains links; or the disk is full.
        """
        self._expect(Made.model, Made.reward_model)
        if not folder.is_dir() or not any(folder.iterdir()):
            raise ArtefactError(f"{folder} holds no model: save it there before the stage is finished")
        if links := [path for path in folder.rglob("*") if path.is_symlink()]:
            raise ArtefactError(f"{links[0]} is a link: an artefact holds its own bytes; save the model without links")
        target = self.folder / MODEL
        with enough_room(self.folder):
            if folder.resolve() != target.resolve():
                remove(target)  # left by a start killed after the move; the model was rebuilt from its checkpoint
                _move(folder, target)
            sync_tree(target)
            sync(self.folder)
        sums = file_sums(target)
        return self._finish(folder_hash(sums), {f"{MODEL}/{name}": entry for name, entry in sums.items()}, report)

    def finish_report(self, report: Mapping[str, Any]) -> Artefact:
        """Finishes a report; seconds in it (`seconds`, `*_s`) are not part of its hash."""
        self._expect(Made.report)
        return self._finish(report_hash(report), {}, report)

    def _finish(self, content: str, files: Mapping[str, Any], report: Mapping[str, Any], num_rows: int = 0) -> Artefact:
        made = Artefact(
            key=self.key, hash=content, made=self.made, stage=self.stage, round=self.round, kind=self.body["kind"],
            folder=self.folder, path=self.folder / MODEL if self.made not in (*RECORDS, Made.report) else self.folder,
            num_rows=num_rows, num_bytes=sum(entry["bytes"] for entry in files.values()), seconds=self.seconds,
            created=time.time(), config=self.body["config"], report=dict(report),
            parents=tuple(Parent(**row) for row in self.body["parents"]), files=files,
        )  # fmt: skip
        with enough_room(self.folder):
            records.save(self.folder, made)
        return self._publish(self, made)

    def _expect(self, *kinds: Made) -> None:
        if self.made not in kinds:
            raise ArtefactError(f"{self.stage} makes a {self.made.value}, not {kinds[0].value}: finish it as such")

    def _part(self, index: int) -> Path:
        return self.folder / PARTS / f"part-{index:05d}.parquet"

    def _set_aside(self, index: int, wrong: str) -> None:
        path = self._part(index)
        kept = free_name(path.with_name(path.name + ".corrupt"))
        os.rename(path, kept)
        self._intact.discard(index)
        _log.warning("%s is damaged (%s): set aside as %s, and made anew", path, wrong, kept.name)


def part_indexes(folder: Path) -> list[int]:
    """Sorted indexes of a draft's parts, from file names."""
    matches = (_PART.fullmatch(path.name) for path in (folder / PARTS).glob("part-*"))
    return sorted(int(match[1]) for match in matches if match)


def steps_done(folder: Path) -> int:
    """Latest checkpoint step in the draft's working files; 0: none."""
    matches = (_STEP.fullmatch(path.name) for path in (folder / WORK).glob("**/step-*"))
    return max((int(match[1]) for match in matches if match), default=0)


def last_written(folder: Path) -> float:
    """Unix time of the latest file in the folder, the last activity of its writer; 0.0 if the folder is gone."""
    times = [0.0]
    for root, folders, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in (*folders, *names))):
            with suppress(FileNotFoundError):  # its writer is at work
                times.append(os.lstat(path).st_mtime)
    return max(times)


def free_name(path: Path) -> Path:
    """`path`, with a suffix -2, -3, ... if it already exists."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def remove(path: Path) -> None:
    """Deletes a file or folder of the store, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(target.name + PARTIAL)  # from another file system: copied, then the original goes
        remove(aside)
        shutil.copytree(source, aside)
        sync_tree(aside)
        os.rename(aside, target)
        shutil.rmtree(source)


@contextmanager
def enough_room(folder: Path) -> Iterator[None]:
    """
    Raises:
        ArtefactError: replaces the system's error if the disk or a quota is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise ArtefactError(
            f"no room for {folder}: {free:,} bytes are free; what is finished is kept. Free some space there and start "
            "again: the stage resumes"
        ) from error
