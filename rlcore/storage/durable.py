"""Crash-safe files and folders: written aside, fsynced, renamed; checksums detect later damage."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

PARTIAL = ".partial"
HASHES: dict[str, Any] = {"sha256": hashlib.sha256, "blake2b": lambda: hashlib.blake2b(digest_size=32)}
FileSums = Mapping[str, Mapping[str, Any]]  # by relative name: "bytes" and the hash, by its name in HASHES
T = TypeVar("T")
R = TypeVar("R")


# ---- writing


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that atomically replaces `path` if the block ends without an error."""
    aside = path.with_name(path.name + PARTIAL)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes text atomically, including lone surrogates, which byte-level tokenizers can produce."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "surrogatepass"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder that atomically replaces the folder `path` if the block ends without an error."""
    aside = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed process
    aside.mkdir(parents=True)
    try:
        yield aside
        sync_tree(aside)
        if path.exists():
            shutil.rmtree(path)
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Fsyncs the content of a file or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            sync(path)


def is_disk_full(error: BaseException | None) -> bool:
    """True if a full disk or quota is in the exception chain; remote errors may contain only the text."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# ---- checking


def in_parallel(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Threads for reading files; hashing releases the interpreter lock."""
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1, len(items))), "files") as pool:
        return list(pool.map(function, items))


def file_sums(folder: Path, names: Iterable[str] | None = None, hash: str = "sha256") -> dict[str, dict[str, Any]]:
    """Relative name -> bytes, mtime_ns and hash (hex) of every file below `folder` (or of `names`), sorted.

    Without `names`, hidden files and folders are skipped; links are followed.
    """

    def entry(name: str) -> dict[str, Any]:
        with (folder / name).open("rb") as file:
            stat = os.fstat(file.fileno())  # before reading, so that a later change is visible in the time
            digest = hashlib.file_digest(file, HASHES[hash]).hexdigest()
            return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, hash: digest}

    found = sorted(names if names is not None else visible_files(folder))
    return dict(zip(found, in_parallel(entry, found), strict=True))


def synced_sums(folder: Path, names: Iterable[str]) -> FileSums:
    """Fsyncs files of `folder` and hashes them. For checkpoints: the process that wrote a file calls it."""
    found = list(names)
    in_parallel(sync, [folder / name for name in found])
    sums = file_sums(folder, found, "blake2b")
    return {name: {key: entry[key] for key in ("bytes", "blake2b")} for name, entry in sums.items()}


def visible_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def size_problems(folder: Path, files: FileSums) -> list[str]:
    """Names of files that are missing or differ in size; reads no content."""
    found = []
    for name, entry in files.items():
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
        elif (size := (folder / name).stat().st_size) != entry["bytes"]:
            found.append(f"{name} has {size:,} bytes instead of {entry['bytes']:,}")
    return found


def content_problems(folder: Path, files: FileSums) -> list[str]:
    """Names of files that differ in hash; reads every byte."""

    def problem(name: str) -> str:
        hash = next(hash for hash in HASHES if hash in files[name])
        try:
            found = file_sums(folder, [name], hash)[name][hash]
        except OSError as error:  # an unreadable sector counts as damage
            return f"{name}: unreadable ({error.strerror})"
        return "" if found == files[name][hash] else f"{name}: wrong checksum"

    return [text for text in in_parallel(problem, list(files)) if text]


# ---- lines


class JsonLines:
    """A file with one strict-JSON object per line, ordered by `step`. A truncated last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path, self._started, self._last_step = path, False, -math.inf
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.truncate_after(math.inf)

    def append(self, step: int, rows: Sequence[Mapping[str, Any]], join: bool = False) -> None:
        """Writes the rows of a step. Existing rows of this step and later ones are moved aside first.

        `join`: keeps rows of this step that were appended since the file was opened.
        """
        if step < self._last_step or (step == self._last_step and not (join and self._started)):
            self.truncate_after(step - 1)
        self._last_step, self._started = step, True
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:  # lone surrogates
            file.write("".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows))

    def truncate_after(self, step: float) -> int:
        """Moves the rows of later steps to `<name>.bak-<n>`; returns their number."""
        kept: list[bytes] = []
        dropped: list[bytes] = []
        torn = False
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                later = json.loads(line)["step"] > step
                torn = torn or not line.endswith(b"\n")
            except (ValueError, TypeError, KeyError):
                torn = True
                continue
            (dropped if later else kept).append(line.rstrip(b"\n") + b"\n")
        if dropped:
            number = 1
            while (backup := self.path.with_name(f"{self.path.name}.bak-{number}")).exists():
                number += 1
            backup.write_bytes(b"".join(dropped))
        if dropped or torn:
            with replacing(self.path) as file:
                file.writelines(kept)
        self._last_step = max((json.loads(line)["step"] for line in kept[-1:]), default=-math.inf)
        return len(dropped)
