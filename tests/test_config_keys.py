"""No dead config key: code outside the rules reads every one of them.

The type checker tells: in a copy of the sources every plain field of every config dataclass gets another name, and each
read of the old name is then an error that names class and field. Equal names in several classes cannot hide each other.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.config.schema import Config

ROOT = Path(__file__).parent.parent
NO_ATTRIBUTE = re.compile(r'(\S+?):\d+: error: (?:Item )?"(\w+)".* has no attribute "(\w+)"')
CHECKS_ALONE = re.compile(r"^(rules|validate|compose)")  # modules that look at a value without using it
THROUGH_PROTOCOL = "read as `PromptSettings`, a protocol that data and examples share"
READ_OTHERWISE = {
    ("ColumnsConfig", "tools"): "read by its name, with the other columns",
    ("DataConfig", "chat_template"): THROUGH_PROTOCOL,
    ("DataConfig", "chat_template_file"): THROUGH_PROTOCOL,
    ("DataConfig", "chat_options"): THROUGH_PROTOCOL,
    ("DataConfig", "prompt_template"): THROUGH_PROTOCOL,
    ("RewardConfig", "fallback_weight"): "in a call of `replace` whose keyword the renaming breaks too",
    ("Config", "name"): "interpolated into run_dir",
}


def held(kind: type, name: str) -> list[type]:
    """Config dataclasses in the type of a field."""
    hint = typing.get_type_hints(kind)[name]
    return [t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t) and isinstance(t, type)]


def tree(kind: type, seen: set[type]) -> Iterator[type]:
    if kind not in seen:
        seen.add(kind)
        yield kind
        for field in dataclasses.fields(kind):
            for inner in held(kind, field.name):
                yield from tree(inner, seen)


def rename_plain_fields(path: Path, kinds: dict[str, type]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    for node in ast.walk(ast.parse("".join(lines))):
        if not isinstance(node, ast.ClassDef) or node.name not in kinds:
            continue
        for part in node.body:
            if not (isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)):
                continue
            if not held(kinds[node.name], part.target.id):
                row, end = part.target.lineno - 1, part.target.end_col_offset
                lines[row] = lines[row][:end] + "_renamed" + lines[row][end:]
    path.write_text("".join(lines))


@pytest.mark.timeout(900)
def test_every_config_key_is_read(tmp_path: Path) -> None:
    for name in ("rlcore", "actors"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kinds = list(tree(Config, set()))
    by_file: dict[Path, dict[str, type]] = {}
    for kind in kinds:
        file = Path(typing.cast(str, inspect.getsourcefile(kind))).relative_to(ROOT)
        by_file.setdefault(file, {})[kind.__name__] = kind
    for file, of_file in by_file.items():
        rename_plain_fields(tmp_path / file, of_file)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    command += ["rlcore", "actors"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    found = [m for line in output.splitlines() if (m := NO_ATTRIBUTE.match(line))]
    read = {(m[2], m[3]) for m in found if not CHECKS_ALONE.match(Path(m[1]).name)}
    keys = {(k.__name__, f.name) for k in kinds for f in dataclasses.fields(k) if not held(k, f.name)}
    assert len(keys) > 100
    assert keys & read, output[-2000:]
    unread = keys - read - READ_OTHERWISE.keys()
    assert not unread, f"no code reads {sorted(unread)}: use them or delete them"
