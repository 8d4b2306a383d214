"""rlcore: records, pure functions, algorithms, rewards and loops of online RL for language models.

`train`, `evaluate`, `plan` and `compose` start actors; `actors.api` defines them. They are imported on first use, so
that `import rlcore` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlcore.agents import environment, rollout
    from rlcore.agents.client import Model, Task
    from rlcore.problems import UserError
    from rlcore.registry import advantage, policy_loss
    from rlcore.rewards.registry import reward
    from rlcore.types import RewardInput, RewardResult, Status

__all__ = [
    "Model", "RewardInput", "RewardResult", "Status", "Task", "UserError", "advantage", "environment", "policy_loss",
    "reward", "rollout",
]  # fmt: skip

_MODULES = {
    "advantage": "rlcore.registry", "policy_loss": "rlcore.registry", "reward": "rlcore.rewards.registry",
    "environment": "rlcore.agents", "rollout": "rlcore.agents", "UserError": "rlcore.problems",
    "Model": "rlcore.agents.client", "Task": "rlcore.agents.client",
}  # fmt: skip
_ACTORS = ("EvalResult", "Plan", "RunResult", "compose", "evaluate", "plan", "train")


def __getattr__(name: str) -> Any:
    """Imports public names on first use, because `rlcore doctor` must start without optional packages."""
    if name in _ACTORS:
        return getattr(import_module("actors.api"), name)
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module 'rlcore' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "rlcore.types")), name)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("rlcore")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
