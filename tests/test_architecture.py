"""The house rules that a machine can check: sizes, import direction, a test file per module."""

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
        "deepspeed": {"distributed.py", "engine.py", "masters.py"},
        "vllm": {"vllm_engine.py", "vllm_model.py", "vllm_settings.py", "vllm_side.py", "doctor.py"},
    }
    for package, files in owners.items():
        pattern = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
        users = {p.name for p in SOURCES if pattern.search(p.read_text())}
        assert users <= files, f"{package} is imported by {users - files}"


# Modules without a test file of their name -> the test file that covers them.
COVERED_BY = {
    "actors/commands/doctor.py": "tests/actors/commands/test_plan.py",
    "actors/config/schema.py": "tests/actors/config/test_compose.py",
    "actors/generation/handle.py": "tests/actors/placement/test_restarts.py",
    "actors/generation/vllm_engine.py": "tests/actors/generation/test_rollout.py",
    "actors/generation/vllm_settings.py": "tests/actors/generation/test_rollout.py",
    "actors/inputs.py": "tests/actors/commands/test_plan.py",
    "actors/training/distributed.py": "tests/integration/test_training.py",
    "actors/training/handles.py": "tests/actors/weights/test_handle.py",
    "rlcore/ragged.py": "tests/test_types.py",
    "actors/training/masters.py": "tests/integration/test_training.py",
    "actors/training/reshard.py": "tests/integration/test_training.py",
    "actors/verifying/handle.py": "tests/actors/placement/test_restarts.py",
    "actors/weights/__init__.py": "tests/actors/weights/test_ipc.py",
    "actors/weights/collective.py": "tests/integration/test_weights.py",
    "actors/weights/engine_group.py": "tests/integration/test_weights.py",
    "actors/weights/host.py": "tests/integration/test_weights.py",
    "actors/weights/records.py": "tests/integration/test_weights.py",
    "actors/weights/sender.py": "tests/integration/test_weights.py",
    "actors/weights/vllm_side.py": "tests/actors/generation/test_rollout.py",
    "rlcore/__init__.py": "tests/actors/test_api.py",
    "rlcore/__main__.py": "tests/actors/commands/test_plan.py",
    "rlcore/agents/__init__.py": "tests/agents/test_capture.py",
    "rlcore/agents/builtin/__init__.py": "tests/agents/test_builtin.py",
    "rlcore/agents/builtin/code.py": "tests/agents/test_builtin.py",
    "rlcore/agents/builtin/gym.py": "tests/agents/test_builtin.py",
    "rlcore/agents/builtin/mcp.py": "tests/agents/test_builtin.py",
    "rlcore/agents/client.py": "tests/agents/test_capture.py",
    "rlcore/agents/config.py": "tests/agents/test_tools.py",
    "rlcore/agents/play.py": "tests/agents/test_rollouts.py",
    "rlcore/agents/process.py": "tests/agents/test_environments.py",
    "rlcore/agents/record.py": "tests/agents/test_rollouts.py",
    "rlcore/agents/setup.py": "tests/agents/test_environments.py",
    "rlcore/algorithms/config.py": "tests/actors/config/test_compose.py",
    "rlcore/algorithms/reward_config.py": "tests/actors/training/test_worker.py",
    "rlcore/data/examples/config.py": "tests/data/examples/test_load.py",
    "rlcore/data/filters/__init__.py": "tests/data/filters/test_apply.py",
    "rlcore/data/filters/config.py": "tests/data/filters/test_checking.py",
    "rlcore/data/filters/verdict.py": "tests/data/filters/test_apply.py",
    "rlcore/data/sources/config.py": "tests/data/sources/test_load.py",
    "rlcore/data/sources/problem.py": "tests/data/sources/test_conversations.py",
    "rlcore/data/tokenizer.py": "tests/integration/test_reward_model.py",
    "rlcore/gym_tasks.py": "tests/test_problems.py",
    "rlcore/interfaces.py": "tests/actors/placement/test_gpu_sharing.py",
    "rlcore/loops/config.py": "tests/loops/test_schedule.py",
    "rlcore/loops/experience.py": "tests/loops/test_families.py",
    "rlcore/loops/stop.py": "tests/loops/test_online.py",
    "rlcore/processes/__init__.py": "tests/processes/test_zygote.py",
    "rlcore/processes/child.py": "tests/processes/test_zygote.py",
    "rlcore/rewards/__init__.py": "tests/rewards/test_registry.py",
    "rlcore/rewards/config.py": "tests/actors/verifying/test_verifier.py",
    "rlcore/rewards/judge/__init__.py": "tests/rewards/judge/test_endpoint.py",
    "rlcore/rewards/languages.py": "tests/rewards/test_text.py",
    "rlcore/rewards/sandbox/checker.py": "tests/rewards/sandbox/test_remote.py",
    "rlcore/rewards/sandbox/landlock.py": "tests/rewards/sandbox/test_tiers.py",
    "rlcore/rewards/sandbox/outcome.py": "tests/rewards/sandbox/test_local.py",
    "rlcore/rewards/sandbox/program.py": "tests/rewards/sandbox/test_values.py",
    "rlcore/rewards/sandbox/records.py": "tests/rewards/sandbox/test_local.py",
    "rlcore/rewards/sandbox/runner.py": "tests/rewards/sandbox/test_zygote.py",
    "rlcore/rewards/sandbox/seccomp.py": "tests/rewards/sandbox/test_tiers.py",
    "rlcore/rewards/sandbox/server.py": "tests/rewards/sandbox/test_remote.py",
    "rlcore/rewards/schemas.py": "tests/rewards/test_format.py",
    "rlcore/rounds/plan/__init__.py": "tests/rounds/plan/test_settings.py",
    "rlcore/rounds/plan/config.py": "tests/rounds/plan/test_settings.py",
    "rlcore/rounds/stages/__init__.py": "tests/test_reader.py",
    "rlcore/tracking/base.py": "tests/tracking/test_tensorboard.py",
    "rlcore/tracking/config.py": "tests/tracking/test_wandb.py",
}


def test_every_module_has_a_test_file():
    """tests/ mirrors the tree: tests/a/test_b.py tests rlcore/a/b.py, and tests/actors/a/test_b.py actors/a/b.py."""
    modules = {str(path.relative_to(ROOT)) for path in SOURCES if path.read_text().strip()}
    missing = sorted(name for name in modules if not (ROOT / _test_file(name)).exists() and name not in COVERED_BY)
    assert not missing, f"write the test file, or add the module to COVERED_BY: {missing}"
    needless = sorted(name for name in COVERED_BY if name not in modules or (ROOT / _test_file(name)).exists())
    assert not needless, f"remove from COVERED_BY: {needless}"


def test_listed_test_files_run_their_modules():
    """The test file imports the module, or one that imports it or its package (which may run it in a process)."""
    graph = grimp.build_graph("rlcore", "actors")
    for name, test in COVERED_BY.items():
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        near = {module, *graph.find_modules_that_directly_import(module)}
        if module.count(".") > 1:
            near |= set(graph.find_descendants(module.rpartition(".")[0]))
        runs = module in (ROOT / test).read_text() or _imports(ROOT / test) & near
        assert runs, f"{test} does not run {name}"


def _test_file(name: str) -> str:
    folder, _, stem = name.removesuffix(".py").removeprefix("rlcore/").rpartition("/")
    if stem == "__init__":
        stem = folder.rpartition("/")[2]
    return "/".join(part for part in ("tests", folder, f"test_{stem}.py") if part)


def _imports(path: Path) -> set[str]:
    """Modules that a file or the helpers of its folder import."""
    found = set()
    for file in (path, path.with_name("cases.py"), path.with_name("world.py")):
        for node in ast.walk(ast.parse(file.read_text())) if file.exists() else ():
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
