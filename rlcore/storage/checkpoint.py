"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a lost run.

A checkpoint is a folder:

    checkpoints/latest          name of the newest one, for shell scripts
    checkpoints/step-000050/
        state.json              the driver's state
        manifest.json           size and checksum of every other file, and a checksum of itself
        ...                     files of the workers

It is written as `step-000050.partial`, fsynced and renamed, then `latest` moves: the plain name means complete.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rlcore.problems import UserError

FORMAT = 1
STATE, MANIFEST, LATEST = "state.json", "manifest.json", "latest"
PARTIAL, REPLACED, REMOVED, CORRUPT = ".partial", ".replaced", ".removed", ".corrupt"
SPARE_BYTES = 1 << 20  # free space asked for beyond the previous checkpoint's size
_NAME = re.compile(r"step-(\d{6,})")
_FLOAT = "$float"  # JSON has no NaN and no infinities
_log = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint could not be written or may not be read; the message holds path, reason and cure."""


class Checkpoints:
    """The checkpoints of one run; implements `interfaces.CheckpointStore`.

    One process writes; opening the store clears what a killed one left half-way. Others open it with `read_only=True`.
    The workers' files must be visible to the driver, which checksums them: on several nodes, a shared file system.

    Attributes:
        warnings: what the last `load_latest` found wrong, one readable line each; also logged.
    """

    def __init__(self, directory: Path, keep: int, read_only: bool = False) -> None:
        """`keep`: how many checkpoints stay, at least 1.

        Raises:
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}: the newest checkpoint is never deleted")
        self.directory, self.keep, self.read_only = Path(directory), keep, read_only
        self.warnings: list[str] = []
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clean()

    # ---- writing

    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """Writes the checkpoint of `step`, replacing one of the same step, then deletes those beyond `keep`.

        At every moment a complete checkpoint is on disk, if there was one before. When anything fails, the partial is
        removed and what was there before stays.

        Args:
            step: completed steps, >= 0.
            state: JSON-able; numpy scalars and arrays, enums, paths and non-finite floats are converted.
            write: puts the workers' files into the folder it is given; may make folders, not links.

        Raises:
            CheckpointError: the disk is full, or `write` made a link or a file whose name is the store's own.
            TypeError, ValueError: `state` holds what JSON cannot, named by its path; nothing is written.
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
            write(partial)
            _seal(partial, step, text)
            self._commit(partial, final)
            self._point(final.name)
        except BaseException as error:
            free = shutil.disk_usage(self.directory).free
            needed = max(needed, _tree_bytes(partial))
            shutil.rmtree(partial, ignore_errors=True)
            if _is_disk_full(error):
                raise self._full(partial, needed, free) from error
            raise
        self._prune(step)
        return final

    def _commit(self, partial: Path, final: Path) -> None:
        """Gives the checkpoint its name. No file system swaps two folders portably, so an old one of the same step
        steps aside first; `_clean` puts it back if the process dies between the two renames."""
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
        _fsync(self.directory)
        shutil.rmtree(aside, ignore_errors=True)

    def _point(self, name: str) -> None:
        aside = self.directory / (LATEST + PARTIAL)
        _write(aside, name + "\n")
        os.replace(aside, self.directory / LATEST)
        _fsync(self.directory)

    def _prune(self, newest: int) -> None:
        for step in [s for s in self.steps() if s <= newest][self.keep :]:
            folder = self.directory / f"step-{step:06d}"
            doomed = self.directory / (folder.name + REMOVED)
            os.rename(folder, doomed)  # so that a kill while deleting leaves nothing that looks like a checkpoint
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
        """Bytes the next checkpoint will need, judged by the newest one; 0 when there is none to judge by."""
        newest = self.steps()[:1]
        return _tree_bytes(self.directory / f"step-{newest[0]:06d}") + SPARE_BYTES if newest else 0

    def _full(self, partial: Path, needed: int, free: int) -> CheckpointError:
        newest = next(iter(self.steps()), None)
        stays = "there is no earlier one" if newest is None else f"step {newest} is kept"
        return CheckpointError(
            f"no room for checkpoint {partial.with_suffix('')}: it needs {needed:,} bytes at least, {free:,} are free; "
            f"{stays}. Free some space there, lower trainer.checkpoint.keep (now {self.keep}), or give a run_dir on a "
            "larger disk"
        )

    # ---- reading

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, intact or not, newest first."""
        if not self.directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir() if path.is_dir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def load_latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and driver state of the newest intact checkpoint, or None. Reads every byte to check it.

        A damaged one is renamed `step-000100.corrupt` (left alone when read-only), named in `warnings`, and the one
        before it is used.

        Raises:
            CheckpointError: the newest checkpoint is intact, but of a format that this version does not read; or
                there are checkpoints and none is intact: starting anew over them must be somebody's decision.
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
            return folder, _decode(stored["state"])
        if damaged:
            self.warnings = [f"{folder.name}: {wrong}" for folder, wrong in damaged]
            raise CheckpointError(
                f"no intact checkpoint is left in {self.directory}:\n  " + "\n  ".join(self.warnings) + "\n"
                "Restore one from a copy, or start in another run_dir"
            )
        return None

    def _candidates(self) -> Iterator[Path]:
        """Folders, newest first. A read-only store has not undone an interrupted replacement, so it looks there too."""
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
        except FileNotFoundError:  # killed between the rename and the pointer; or never written
            return
        except UnicodeDecodeError:
            name = "?"
        if not _NAME.fullmatch(name):
            self._warn(f"{path} names no checkpoint; going by the folders, the next save rewrites it")

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _log.warning(text)


# ---- one folder


def _seal(folder: Path, step: int, state_text: str) -> None:
    """Adds state and manifest, and makes everything durable.

    Raises:
        CheckpointError: the folder holds a link, something that is no plain file, or a reserved name.
    """
    for name in (STATE, MANIFEST):
        if (folder / name).exists():
            raise CheckpointError(f"the workers wrote {folder / name}: that name belongs to the store")
    _write(folder / STATE, state_text)
    paths: list[Path] = []
    folders = [folder]
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is a link or no plain file: a checkpoint holds its own bytes")
        (folders if path.is_dir() else paths).append(path)
    with _pool(len(paths)) as pool:
        list(pool.map(_fsync, paths))
        sums = list(pool.map(_checksum, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": checksum}
        for path, checksum in zip(paths, sums, strict=True)
    }
    _write(folder / MANIFEST, _manifest_text({"format": FORMAT, "step": step, "files": files}))
    for path in reversed(folders):
        _fsync(path)


def _problems(folder: Path) -> list[str]:
    """What is wrong with a checkpoint; empty when every byte is as written.

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
    problems = []
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif (size := path.stat().st_size) != entry["bytes"]:
            problems.append(f"{name} has {size:,} bytes instead of {entry['bytes']:,}")
    if problems:
        return problems  # found without reading anything
    with _pool(len(files)) as pool:
        sums = pool.map(_checksum_or_error, [folder / name for name in files])
        return [
            f"{name}: {found if found.startswith('unreadable') else 'wrong checksum'}"
            for (name, entry), found in zip(files.items(), sums, strict=True)
            if found != entry["blake2b"]
        ]


def _manifest_text(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True)
    checksum = hashlib.blake2b(canonical.encode(), digest_size=32).hexdigest()
    return json.dumps({**body, "checksum": checksum}, indent=1, sort_keys=True) + "\n"


def _checksum(path: Path) -> str:
    with path.open("rb") as file:  # streamed; the interpreter lock is free while hashing
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _checksum_or_error(path: Path) -> str:
    try:
        return _checksum(path)
    except OSError as error:  # a bad sector is damage like any other
        return f"unreadable ({error.strerror})"


def _pool(num_files: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1, num_files)), "checkpoint")


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is somewhere in the chain; remote errors may have kept only the text."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# ---- the driver's state as strict JSON


def _state_text(step: int, state: Mapping[str, Any]) -> str:
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    return json.dumps({"format": FORMAT, "step": step, "state": _encode(state, "state")}, allow_nan=False) + "\n"


def _encode(value: Any, where: str) -> Any:
    """Plain JSON values. NaN and infinities become `{"$float": "nan"}`, because a best metric may start at -inf."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _FLOAT:
                raise TypeError(f"{where} has the key {key!r}: keys must be strings other than {_FLOAT!r}")
        return {str(key): _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which strict JSON cannot hold")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _decode(item) for key, item in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value
