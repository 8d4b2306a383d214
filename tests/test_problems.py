"""Bounds in field metadata, the walker over nested settings, suggestions, and the base class of user errors."""

from __future__ import annotations

import ast
import builtins
import doctest
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

import rlcore.problems
from actors.cli import guarded
from actors.config.schema import Config
from rlcore.problems import Bounds, Problem, bounded, nearest, setting_problems, suggest

ROOT = Path(__file__).parent.parent


@dataclass
class Inner:
    share: float = bounded(0.5, ge=0, le=1)
    free: float = 0.0


@dataclass
class Outer:
    count: int = bounded(1, ge=1)
    limit: float | None = bounded(None, gt=0, le=math.inf)
    flag: bool = bounded(False, ge=1)
    weights: list[float] = bounded(default_factory=lambda: [1.0], ge=0)
    inner: Inner = field(default_factory=Inner)
    listed: list[Inner] = field(default_factory=list)


def test_doctests():
    assert doctest.testmod(rlcore.problems).failed == 0


def test_every_number_of_a_nested_dataclass_is_checked():
    settings = Outer(0, 0.0, False, [1.0, -1.0], Inner(2.0, math.nan), [Inner(), Inner(share=-0.1)])
    found = {problem.key: problem for problem in setting_problems(settings, "root")}
    assert set(found) == {
        "root.count", "root.limit", "root.weights.1", "root.inner.share", "root.inner.free", "root.listed.1.share",
    }  # fmt: skip
    assert found["root.count"].cure == "must be 1 or more"
    assert found["root.inner.share"].cure == "must be from 0 to 1"
    assert not list(setting_problems(Outer()))


@pytest.mark.parametrize(
    ("bounds", "allowed", "refused"),
    [
        (Bounds(ge=0), [0, 0.0, 1e300, 10**400], [-1, math.inf, -math.inf, math.nan]),
        (Bounds(gt=0, le=math.inf), [1e-300, math.inf], [0, math.nan, -math.inf]),
        (Bounds(ge=1, le=2), [1, 2], [2.01, 0.99]),
        (Bounds(), [-5], [math.inf, math.nan]),
    ],
)
def test_bounds(bounds, allowed, refused):
    assert [v for v in allowed if not bounds.allow(v)] == []
    assert [v for v in refused if bounds.allow(v)] == []


def test_defaults_of_the_config_are_within_their_bounds():
    assert not list(setting_problems(Config()))


def test_numbers_of_the_config_have_bounds_or_a_reason():
    """An unbounded number in the config is a decision, not an oversight."""
    any_number = {
        "algorithm.entropy_coef",  # negative: less entropy is wanted
        "reward.fallback_weight", "reward.judge.scale.low", "reward.judge.scale.high",
        "reward.terms.0.weight",  # negative: a penalty
        "data.procedural.seed", "rounds.count",
        "rollout.top_p", "rollout.top_k",  # only "off" is allowed: actors.config.rules
    }  # fmt: skip
    assert set(_unbounded(Config(), "")) <= any_number


def _unbounded(settings, path):
    for f in fields(settings):
        value, key = getattr(settings, f.name), f"{path}{f.name}"
        if hasattr(value, "__dataclass_fields__"):
            yield from _unbounded(value, key + ".")
        elif isinstance(value, list) and value and hasattr(value[0], "__dataclass_fields__"):
            yield from _unbounded(value[0], f"{key}.0.")
        elif any(n in f.type for n in ("int", "float")) and "list" not in f.type and "bounds" not in f.metadata:
            yield key


def test_a_secret_is_not_shown():
    assert "hunter2" not in Problem("tracking.wandb.api_key", "hunter2", "unknown", "remove it").render()
    assert "pw" not in Problem("cluster.address", "ray://me:pw@host:1", "unknown", "remove it").render()


def test_suggestions():
    assert nearest("Reward", ["reward", "model"]) == "reward"
    assert nearest("answer", ["reference", "prompt"], also=["reference"]) == "reference"
    assert nearest("xyz", ["reference"]) == ""
    assert suggest("grop", ["grpo"]) == " (did you mean 'grpo'?)"


INTERNAL = {
    "Interrupted": "a stop that was asked for, with an exit code of its own",
    "_Failed": "caught by its own module", "_Wrong": "caught by its own module", "Tie": "caught by its own module",
    "RolloutAbandoned": "raised in calls that their own caller ends",
    "Unreadable": "caught by the math reward", "Undefined": "caught by the math reward",
    "OutOfBounds": "caught by the math reward", "ZygoteLost": "caught by the pools of processes",
    "ToolError": "shown to the model", "BadRequest": "becomes an answer in OpenAI's form",
    "EnvironmentFailure": "becomes a status of its rollout", "ModelError": "for the user's rollout function",
    "ValueRefused": "becomes a status of a sandboxed program",
    "ReferenceFault": "becomes a Problem of its stage", "BrokenRow": "counted and shown with its row",
    "NotRational": "caught by the math reward", "GroupBrokenError": "becomes a WeightSyncError",
}  # fmt: skip


def test_every_error_class_is_a_user_error_or_has_a_reason():
    bases: dict[str, list[str]] = {}
    for path in [*ROOT.glob("rlcore/**/*.py"), *ROOT.glob("actors/**/*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base) for base in node.bases]

    def ancestors(name):
        return {name}.union(*(ancestors(base) for base in bases.get(name, ())))

    raised = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    errors = {name for name in bases if ancestors(name) & raised}
    assert {"RegistryError", "WorkerError", "DamagedError"} <= errors
    assert {name for name in errors if "UserError" not in ancestors(name)} - {"UserError", *INTERNAL} == set()


def test_a_duplicate_name_and_a_wrong_task_end_without_a_traceback(capsys):
    from rlcore.gym_tasks import TaskError
    from rlcore.registry import RegistryError

    for error in (RegistryError("'a' is registered twice"), TaskError("no task 'b'")):

        def fails(error=error):
            raise error

        assert guarded(fails) == 1
        shown = capsys.readouterr().err
        assert str(error) in shown
        assert "Traceback" not in shown
