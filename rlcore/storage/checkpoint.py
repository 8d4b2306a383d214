"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a lost run.

A checkpoint is a folder:

    checkpoints/latest          name of the latest one, for shell scripts
    checkpoints/step-000050/
        state.json              the driver's state
        manifest.json           size and checksum of every other file, and a checksum of itself
        ...                     files of the workers

It is written as `step-000050.partial`, fsynced and renamed, then `latest` is updated: only complete checkpoints have
the plain name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlcore.problems import UserError
from rlcore.storage.durable import (
    PARTIAL,
    FileSums,
    content_problems,
    is_disk_full,
    size_problems,
    sync,
    synced_sums,
    write_text,
)
from rlcore.storage.strict_json import plain, restored

FORMAT = 1
STATE, MANIFEST, LATEST = "state.json", "manifest.json", "latest"
REPLACED, REMOVED, CORRUPT = ".replaced", ".removed", ".corrupt"
SPARE_BYTES = 1 << 20  # free space required beyond the previous checkpoint's size
_NAME = re.compile(r"step-(\d{6,})")
_log = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be written or read; the message has path, reason and cure."""


class Checkpoints:
    """The checkpoints of one run; implements `interfaces.CheckpointStore`.

    One process writes; opening the store removes partial files of a killed process. Other processes use
    `read_only=True`. Workers write into the same folder, so several nodes need a shared file system.

    Attributes:
        warnings: problems found by the last `load_latest`, one line each; also logged.
    """

    def __init__(self, directory: Path, keep: int, read_only: bool = False) -> None:
        """`keep`: number of checkpoints to keep, at least 1.

        Raises:
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}: the latest checkpoint is never deleted")
        self.directory, self.keep, self.read_only = Path(directory), keep, read_only
        self.warnings: list[str] = []
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clean()

    # ---- writing

    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], FileSums | None]) -> Path:
        """Writes the checkpoint of `step`, replacing one of the same step, then deletes those beyond `keep`.

        A complete checkpoint is on disk at every moment, if there was one before. On failure the partial folder is
        removed and existing checkpoints are unchanged.

        Args:
            step: completed steps, >= 0.
            state: JSON-able; numpy scalars and arrays, enums, paths and non-finite floats are converted.
            write: writes the workers' files into the given folder; may create folders, but no links. It returns size
                and checksum of the files that their writers have fsynced and hashed; this process hashes the others.

        Raises:
            CheckpointError: the disk is full, `write` created a link or a file with a reserved name, or a file that a
                worker has hashed is missing here or of another size.
            TypeError, ValueError: `state` has a value that JSON cannot represent (the message has its path); nothing is
            written.
        """
        if self.read_only:
            raise CheckpointError(f"{self.directory} was opened read-only")
        text = _state_text(step, state)
        final = self.directory / f"step-{step:06d}"
        partial = self.directory / (final.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        needed = self._expected_bytes()
        if (free := shutil.disk_usage(self.directory).free) < needed:
            raise self._full(partial, needed, free)
        try:
            partial.mkdir()
            _seal(partial, step, text, write(partial) or {})
            self._commit(partial, final)
            write_text(self.directory / LATEST, final.name + "\n")
        except BaseException as error:
            free = shutil.disk_usage(self.directory).free
            needed = max(needed, _tree_bytes(partial))
            shutil.rmtree(partial, ignore_errors=True)
            if is_disk_full(error):
                raise self._full(partial, needed, free) from error
            raise
        self._prune(step)
        return final

    def _commit(self, partial: Path, final: Path) -> None:
        """Renames the checkpoint. Folders cannot be swapped portably, so an old one of the same step is moved aside
        first; `_clean` restores it if the process dies between the two renames.
        """
        aside = self.directory / (final.name + REPLACED)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(final, aside)
        try:
            os.rename(partial, final)
        except BaseException:
            if aside.exists():
                os.rename(aside, final)
            raise
        sync(self.directory)
        shutil.rmtree(aside, ignore_errors=True)

    def _prune(self, newest: int) -> None:
        for step in [s for s in self.steps() if s <= newest][self.keep :]:
            folder = self.directory / f"step-{step:06d}"
            doomed = self.directory / (folder.name + REMOVED)
            os.rename(folder, doomed)  # so that a kill during deletion leaves no folder with a checkpoint name
            shutil.rmtree(doomed, ignore_errors=True)

    def _clean(self) -> None:
        for path in list(self.directory.iterdir()):
            if path.name == LATEST + PARTIAL:
                path.unlink()
            elif path.suffix in (PARTIAL, REMOVED) and _NAME.fullmatch(path.stem):
                shutil.rmtree(path)
            elif path.suffix == REPLACED and _NAME.fullmatch(path.stem):
                if (self.directory / path.stem).exists():
                    shutil.rmtree(path)
                else:
                    os.rename(path, self.directory / path.stem)

    def _expected_bytes(self) -> int:
        """Estimated bytes of the next checkpoint, from the latest one; 0 without one."""
        newest = self.steps()[:1]
        return _tree_bytes(self.directory / f"step-{newest[0]:06d}") + SPARE_BYTES if newest else 0

    def _full(self, partial: Path, needed: int, free: int) -> CheckpointError:
        newest = next(iter(self.steps()), None)
        stays = "there is no earlier one" if newest is None else f"step {newest} is kept"
        return CheckpointError(
            f"no space for checkpoint {partial.with_suffix('')}: it needs {needed:,} bytes, {free:,} are free; "
            f"{stays}. Free some space there, lower trainer.checkpoint.keep (now {self.keep}), or give a run_dir on a "
            "larger disk"
        )

    # ---- reading

    def steps(self) -> list[int]:
        """Steps with a checkpoint, intact or not, latest first."""
        if not self.directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir() if path.is_dir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def load_latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and driver state of the latest intact checkpoint, or None. Verifies every byte.

        A damaged one is renamed to `step-000100.corrupt` (not when read-only) and listed in `warnings`, and the
        previous one is used.

        Raises:
            CheckpointError: the latest checkpoint is intact, but of an unsupported format; or no checkpoint is intact,
                because the user must decide to start again.
        """
        self.warnings = []
        damaged: list[tuple[Path, str]] = []
        for folder in self._candidates():
            if problems := _problems(folder):
                more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
                damaged.append((folder, "; ".join(problems[:3]) + more))
                continue
            for other, wrong in damaged:
                self._set_aside(other, wrong)
            self._check_pointer()
            stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return folder, restored(stored["state"])
        if damaged:
            self.warnings = [f"{folder.name}: {wrong}" for folder, wrong in damaged]
            raise CheckpointError(
                f"no intact checkpoint is left in {self.directory}:\n  " + "\n  ".join(self.warnings) + "\n"
                "Restore one from a copy, or start in another run_dir"
            )
        return None

    def _candidates(self) -> Iterator[Path]:
        """Folders, latest first. A read-only store cannot undo an interrupted replacement, so it also searches there.
        """
        if not self.directory.is_dir():
            return
        steps = set(self.steps())
        aside = {int(m[1]) for p in self.directory.glob("*" + REPLACED) if (m := _NAME.fullmatch(p.stem))}
        for step in sorted(steps | aside, reverse=True):
            yield self.directory / f"step-{step:06d}{'' if step in steps else REPLACED}"

    def _set_aside(self, folder: Path, wrong: str) -> None:
        kept = ""
        if not self.read_only:
            target = self.directory / (folder.name + CORRUPT)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(folder, target)
            kept = f" (set aside as {target.name}; delete it when it is of no use to you)"
        self._warn(f"checkpoint {folder} is damaged: {wrong}; using the one before it{kept}")

    def _check_pointer(self) -> None:
        path = self.directory / LATEST
        try:
            name = path.read_bytes().decode("ascii").strip()
        except FileNotFoundError:  # killed between rename and update of `latest`, or never written
            return
        except UnicodeDecodeError:
            name = "?"
        if not _NAME.fullmatch(name):
            self._warn(f"{path} names no checkpoint; going by the folders, the next save rewrites it")

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _log.warning(text)


# ---- one folder


def _seal(folder: Path, step: int, state_text: str, written: FileSums) -> None:
    """Adds state and manifest, and fsyncs everything that its writer has not.

    Raises:
        CheckpointError: the folder contains a link, a special file, or a reserved name; or see `save`.
    """
    for name in (STATE, MANIFEST):
        if (folder / name).exists():
            raise CheckpointError(f"the workers wrote {folder / name}: that name belongs to the store")
    (folder / STATE).write_text(state_text)
    paths: list[Path] = []
    folders = [folder]
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is a link or a special file: a checkpoint contains only plain files")
        (folders if path.is_dir() else paths).append(path)
    if problems := size_problems(folder, written):
        raise CheckpointError(
            f"{folder} is not as the workers wrote it: {'; '.join(problems[:3])}. The run_dir must be on a file system "
            "that all nodes share"
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = {**written, **synced_sums(folder, [name for name in names if name not in written])}
    (folder / MANIFEST).write_text(_manifest_text({"format": FORMAT, "step": step, "files": files}))
    for path in (folder / MANIFEST, *reversed(folders)):
        sync(path)


def _problems(folder: Path) -> list[str]:
    """The damage of a checkpoint; empty if every byte is as written.

    Raises:
        CheckpointError: intact, but of another format.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        if _manifest_text(body).encode() != text:
            return [f"{MANIFEST} does not match its own checksum"]
    except OSError as error:
        return [f"{MANIFEST} is unreadable ({error.strerror})"]
    except (ValueError, AttributeError):
        return [f"{MANIFEST} is not JSON"]
    if body["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} has format {body['format']}, this version reads {FORMAT}: "
            "resume with the version that wrote it, or start in another run_dir"
        )
    files: dict[str, dict[str, Any]] = body["files"]
    return size_problems(folder, files) or content_problems(folder, files)


def _manifest_text(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True)
    checksum = hashlib.blake2b(canonical.encode(), digest_size=32).hexdigest()
    return json.dumps({**body, "checksum": checksum}, indent=1, sort_keys=True) + "\n"


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _state_text(step: int, state: Mapping[str, Any]) -> str:
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    return json.dumps({"format": FORMAT, "step": step, "state": plain(state, "state", exact=True)}) + "\n"
