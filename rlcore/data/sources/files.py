"""Resolves a path of the config to files: a file, a list, a glob, or a folder with the splits of a data set."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.data.sources.config import SourceKind
from rlcore.problems import UserError, nearest

ENDINGS = {
    SourceKind.jsonl: (".jsonl", ".ndjson", ".json"),
    SourceKind.parquet: (".parquet", ".pq"),
    SourceKind.csv: (".csv", ".tsv"),
}
COMPRESSED = (".gz", ".bz2", ".xz")
_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_SHARD = re.compile(r"(?P<name>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
NO_SPLIT = ""  # split of files without a split in their name


class DataError(UserError, ValueError):
    """Data that cannot be used; the message has the file, the line or row, and the reason."""


def find(kind: SourceKind, given: Any, key: str, split: str = "", for_eval: bool = False) -> list[Path]:
    """The files to read, in order; a folder written by `datasets.save_to_disk` counts as one file.

    Only one split of a folder or glob is read: `split`, else the only one, else `train` for training and the only other
    one for evaluation. Split names come from the names of files and subfolders, as in `datasets`:
    `train-00000-of-00004.parquet`, `test/0.jsonl`. Hidden files and other formats (README.md) are ignored.

    Args:
        given: a path, a glob, or a list of them.
        key: config key of the path for error messages, for example `data.train`.

    Raises:
        DataError: no such file, a folder without data, files of two formats or of several data sets in one folder, an
            unknown split, or several splits and none selected.
    """
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list | tuple) or not paths or not all(isinstance(p, str) and p for p in paths):
        raise DataError(f"{key} must be a path or a list of paths, not {given!r}")
    files: list[Path] = []
    for path in paths:
        files += _files(kind, path, key, split, for_eval)
    seen: dict[Path, Path] = {}
    for file in files:
        if file.resolve() in seen:
            raise DataError(f"{key} names {file} twice")
        seen[file.resolve()] = file
    return files


def format_of(path: Path) -> SourceKind | None:
    """Format by file extension, ignoring compression; None for other files."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    if name in _NO_DATA:
        return None
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)


def stem(path: Path) -> str:
    """The file name without the extensions of format and compression.

    >>> stem(Path("a/train.v2.jsonl.gz"))
    'train.v2'
    """
    name = path.name
    for ending in (*COMPRESSED, *(e for endings in ENDINGS.values() for e in endings)):
        name = name[: -len(ending)] if name.lower().endswith(ending) and len(name) > len(ending) else name
    return name


def labels(files: Sequence[Path]) -> list[str]:
    """A short, unique name for every file."""
    names = [stem(file) for file in files]
    if len(set(names)) == len(names):
        return names
    root = Path(os.path.commonpath([file.resolve().parent for file in files]))
    names = [(file.resolve().relative_to(root).parent / stem(file)).as_posix() for file in files]
    return names if len(set(names)) == len(names) else [f"{name}.{i}" for i, name in enumerate(names)]


def split_of(path: Path) -> str:
    """The split in the name of a path below the data folder.

    >>> [split_of(Path(p)) for p in ("train-00000-of-00002.parquet", "val/0.jsonl", "math_test.csv", "data.parquet")]
    ['train', 'validation', 'test', '']
    >>> split_of(Path("data/train_sft-00000-of-00003-a3ecf92756993583.parquet"))
    'train_sft'
    """
    name = stem(path)
    if shard := _SHARD.fullmatch(name):
        found = _canonical(shard["name"])
        return found if not found or shard["name"].lower() in _SPLIT_OF else shard["name"]
    for part in (name, *reversed(path.parent.parts)):
        if found := _canonical(part):
            return found
    return NO_SPLIT


def _canonical(name: str) -> str:
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", name.lower())]
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), NO_SPLIT)


def _files(kind: SourceKind, given: str, key: str, split: str, for_eval: bool) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(kind, path, key, split, for_eval)
    if path.exists():
        if kind is SourceKind.dataset:
            raise DataError(f"{key}={given} is a file; data.source=dataset reads a folder of datasets.save_to_disk")
        if kind is SourceKind.file and format_of(path) is None:
            known = ", ".join(e for endings in ENDINGS.values() for e in endings)
            raise DataError(f"{key}={given}: unknown file extension ({known}): set source to one of "
                            f"{', '.join(k.value for k in ENDINGS)}")  # fmt: skip
        return [path]
    if glob.has_magic(given):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        files = [f for f in found if f.is_file() and not f.name.startswith((".", "_")) and _is_of(kind, f)]
        folders = [f for f in found if f.is_dir() and (f / "state.json").is_file()]
        if not files and not folders:
            raise DataError(f"{key}={given}: no data file matches{_in(path)}")
        root = Path(os.path.commonpath([f.parent for f in (*files, *folders)]))
        _check_one_format(files, root, key)
        return _choose(files, root, split, key, for_eval) + folders
    raise DataError(f"{key}={given}: no such file{_in(path)}")


def _in(path: Path) -> str:
    near = nearest(path.name, names_in(path.parent), cutoff=0.5)
    return f". Did you mean {path.parent / near}?" if near else f" in {path.parent.resolve()}"


def _is_of(kind: SourceKind, file: Path) -> bool:
    return format_of(file) is not None or (kind in ENDINGS and file.suffix.lower() in ("", ".txt"))


def names_in(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []


def _folder(kind: SourceKind, folder: Path, key: str, split: str, for_eval: bool) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        _check_saved(kind, folder, key)
        return [folder / _name(_saved_splits(folder), folder, split, key, for_eval)]
    if (folder / "state.json").is_file():
        _check_saved(kind, folder, key)
        return [folder]
    if kind is SourceKind.dataset:
        raise DataError(f"{key}={folder} is not a folder written by datasets.save_to_disk: it has no state.json")
    files = _below(folder)
    if not files:
        names = names_in(folder)
        raise DataError(f"{key}={folder}: the folder has no data file; it has {', '.join(names[:5]) or 'nothing'}")
    _check_one_format(files, folder, key)
    formats = {format_of(file) for file in files}
    if kind is not SourceKind.file and kind not in formats:
        found = files[0].relative_to(folder)
        raise DataError(f"{key}={folder}: source={kind.value}, but the folder holds {found}: set source=file")
    _check_one_data_set(files, folder, key)
    return _choose(files, folder, split, key, for_eval)


def _below(folder: Path) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        files += [Path(parent, n) for n in sorted(names) if not n.startswith((".", "_")) and format_of(Path(n))]
    return files


def _check_saved(kind: SourceKind, folder: Path, key: str) -> None:
    if kind not in (SourceKind.dataset, SourceKind.file):
        raise DataError(f"{key}={folder} was written by datasets.save_to_disk: set source=dataset")


def _saved_splits(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
    except (ValueError, KeyError, TypeError, OSError):
        names = names_in(folder)
    found = [str(name) for name in names if (folder / str(name) / "state.json").is_file()]
    if not found:
        raise DataError(f"{folder} is not a complete saved dataset: none of its splits has a state.json")
    return found


def _check_one_format(files: Sequence[Path], root: Path, key: str) -> None:
    first: dict[Any, Path] = {}
    for file in files:
        first.setdefault(format_of(file), file.relative_to(root))
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise DataError(
            f"{key}: {root} holds files of several formats, as {one} and {other}: choose one by a glob, as "
            f"{key}='{root}/*{one.suffix}'"
        )
    plain: dict[Path, Path] = {}
    for file in files:
        twin = plain.setdefault(file.parent / stem(file), file)
        if twin is not file:
            raise DataError(f"{key}: {root} holds {twin.name} and {file.name}: one of them is a copy; name the file")


def _check_one_data_set(files: Sequence[Path], root: Path, key: str) -> None:
    """Subfolders may be splits or values of a column (`year=2024`); others are other data sets."""
    inner = {
        "/".join(p for p in file.relative_to(root).parent.parts if "=" not in p and not _canonical(p)) for file in files
    }
    if len(inner) > 1:
        names = sorted(name or "." for name in inner)
        one = root / next(name for name in sorted(inner) if name)
        raise DataError(
            f"{key}={root} holds files in several folders: {', '.join(names)}. Name one, as {key}={one}, or all of "
            f"them by a glob, as {key}='{root}/**/*'"
        )


def _choose(files: list[Path], root: Path, split: str, key: str, for_eval: bool) -> list[Path]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(split_of(file.relative_to(root)), []).append(file)
    if not groups:
        return []
    return groups[_name(list(groups), root, split, key, for_eval)]


def _name(names: Sequence[str], root: Path, split: str, key: str, for_eval: bool) -> str:
    """Selects the split to read."""
    key_of = "split" if key.endswith(".path") else "eval_split" if for_eval else "train_split"
    key_of = f"{key.rpartition('.')[0]}.{key_of}"
    shown = ", ".join(sorted(n for n in names if n)) or "none: no file name contains one"
    if split:
        found = [n for n in names if n == split] or [n for n in names if n and _canonical(split) == _canonical(n)]
        if len(found) != 1:
            near = nearest(split, names)
            cure = f". Did you mean {near}?" if near else ""
            raise DataError(f"{key_of}={split}: {root} has no such split; it has {shown}{cure}")
        return found[0]
    if len(names) == 1:
        return names[0]
    if NO_SPLIT not in names:
        wanted = [n for n in names if (_canonical(n) == "train") != for_eval]
        if len(wanted) == 1:
            return wanted[0]
        example = (wanted or list(names))[0]
        raise DataError(f"{key}={root} has the splits {shown}: choose one, for example {key_of}={example}")
    raise DataError(
        f"{key}={root} has the splits {shown}, and files without a split in their names: choose by {key_of}=..., a "
        "glob, or a list of files"
    )
