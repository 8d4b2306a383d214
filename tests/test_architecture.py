"""The house rules that a machine can check: sizes, import direction."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("rlcore/**/*.py"), *ROOT.glob("actors/**/*.py")])
MAX_FILE, MAX_FUNCTION = 400, 60
EXCEPTIONS: dict[str, str] = {}  # "file" or "file:function" -> why it may be larger


def test_sizes():
    large = []
    for path in SOURCES:
        text, name = path.read_text(), str(path.relative_to(ROOT))
        if text.count("\n") > MAX_FILE and name not in EXCEPTIONS:
            large.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines())
                if length > MAX_FUNCTION and f"{name}:{node.name}" not in EXCEPTIONS:
                    large.append(f"{name}:{node.name}: {length} lines")
    assert not large, "\n".join(large)


def test_no_utils():
    assert not [p for p in SOURCES if re.search(r"util|helper|misc|common", p.stem)]


LIGHT = ["rlcore", "rlcore.loops.online", "rlcore.rewards", "rlcore.tracking.trackers", "rlcore.report"]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_rlcore_is_light(module):
    heavy = ["ray", "vllm", "deepspeed", "hydra", "omegaconf", "wandb", "transformers", "pandas"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_import_circles():
    graph = grimp.build_graph("rlcore", "actors", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_their_owners_import_deepspeed_and_vllm():
    owners = {
        "deepspeed": {"engine.py", "masters.py"},
        "vllm": {"vllm_engine.py", "vllm_model.py", "vllm_settings.py", "vllm_side.py", "doctor.py"},
    }
    for package, files in owners.items():
        pattern = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
        users = {p.name for p in SOURCES if pattern.search(p.read_text())}
        assert users <= files, f"{package} is imported by {users - files}"
