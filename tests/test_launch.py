"""The console script next to packages of other projects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(first: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{first}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "rlcore", *arguments]
    return subprocess.run(command, cwd=first, env=env, capture_output=True, text=True, timeout=120)


def test_a_package_conf_of_another_project_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "__init__.py").touch()
    for arguments in (["plan"], ["train", "--cfg", "job"]):
        done = run(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "grpo" in done.stdout or "Batches" in done.stdout


def test_a_package_actors_of_another_project_is_named(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    assert run(tmp_path, "train", "--cfg", "job").returncode == 0, "a folder without __init__.py hides nothing"
    (tmp_path / "actors" / "__init__.py").touch()
    done = run(tmp_path, "plan")
    assert done.returncode == 1
    assert f"Python finds {tmp_path / 'actors'}" in done.stderr
    assert "rename your package" in done.stderr
