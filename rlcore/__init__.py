"""rlcore: records, pure functions, algorithms, rewards and loops of online RL for language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlcore.registry import advantage, policy_loss
    from rlcore.rewards.registry import reward
    from rlcore.types import RewardInput, RewardResult, Status

__all__ = ["RewardInput", "RewardResult", "Status", "advantage", "policy_loss", "reward"]

_MODULES = {"advantage": "rlcore.registry", "policy_loss": "rlcore.registry", "reward": "rlcore.rewards.registry"}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: `rlcore doctor` must start where packages are missing."""
    if name not in __all__:
        raise AttributeError(f"module 'rlcore' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "rlcore.types")), name)
