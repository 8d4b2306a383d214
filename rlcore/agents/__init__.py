"""Rollouts of several turns: environments with tools, and agents that call the model themselves.

`environment` and `rollout` register the user's classes and functions. A class written for TRL's `environment_factory`
works unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rlcore.registry import Registry

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., object])

# classes and rollout functions, by name
_CURE = "For a custom one, name its file in environment.files, or set environment.fn=path/to/file.py:Class"
ENVIRONMENTS = Registry("environment", _CURE, paths=True)


def environment(name: str) -> Callable[[C], C]:
    """Registers an environment class for `environment.fn`.

        @rlcore.environment("calculator")
        class Calculator:
            def reset(self, **row) -> str | None: ...     # a row of the data; a text is appended to the prompt
            def add(self, a: float, b: float) -> str: ... # public documented methods are tools
            def get_reward(self) -> float: ...            # optional; else the config's reward scores the text
            def close(self) -> None: ...                  # optional

    Instead of tools it may have `reply(self, text: str) -> str | None`: the model's turn as text, and the text that
    follows it; None ends the rollout. An instance lives in a process of its own and is used for many rollouts, one
    after the other.

    Raises:
        RegistryError: the name is empty, contains a colon, or is a duplicate.
    """
    return ENVIRONMENTS.register(name)


def rollout(name: str) -> Callable[[F], F]:
    """Registers an agent's own loop for `environment.fn`.

        @rlcore.rollout("my_agent")
        async def solve(task: rlcore.Task, model: rlcore.Model) -> float | None:
            reply = await model.chat(task.messages)     # token-exact; or any client of OpenAI at model.base_url
            ...

    It returns the reward, an `rlcore.RewardResult`, or None: then the reward of the config scores the last turn's text.
    It runs in a process of its own, within `environment.rollout_timeout_s`.

    Raises:
        RegistryError: the name is empty, contains a colon, or is a duplicate.
    """
    return ENVIRONMENTS.register(name)
