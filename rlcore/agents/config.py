"""Config of environments."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import bounded


class Overlong(str, enum.Enum):
    """Treatment of a rollout that ends because of `max_turns`, `max_tokens` or the length limit of a turn."""

    mask = "mask"  # it is not trained on, and excluded from the statistics of its group
    keep = "keep"  # it is trained on with its reward
    fail = "fail"  # the run stops


class ToolFormat(str, enum.Enum):
    """How the model writes a call of a tool."""

    auto = "auto"  # by the chat template; `text` without one
    hermes = "hermes"  # <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Qwen, SmolLM, Hermes
    llama = "llama"  # {"name": ..., "parameters": {...}} as the whole turn: Llama 3
    python = "python"  # [name(x=1), other(y="a")] as the whole turn, or in a ```tool_code block: Llama 3.2, Gemma
    text = "text"  # no calls: the turn goes to the environment's `reply`


@dataclass
class EnvironmentConfig:
    """Rollouts of several turns against an environment."""

    # registered name or path/to/file.py:Class of an environment, or of a rollout function; None: one turn
    fn: str | None = None
    files: list[str] = field(default_factory=list)  # Python files to import first; they may register the name in fn
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the environment's class
    python: str | None = None  # another interpreter for its processes, with packages of its own; needs numpy and regex
    max_turns: int = bounded(8, ge=1)  # turns of the model in a rollout
    max_tokens: int | None = bounded(None, ge=1)  # of prompt and all turns; None: the engines' context
    on_overlong: Overlong = Overlong.mask  # treatment of rollouts that reach a limit
    tools: ToolFormat = ToolFormat.auto  # how the model writes a call of a tool
    concurrency: int = bounded(256, ge=1)  # rollouts at the same time, each with an environment in a process
    reset_timeout_s: float = bounded(60.0, gt=0)  # limit of a reset, with the imports of the environment's file
    step_timeout_s: float = bounded(30.0, gt=0)  # limit of a tool call, a reply and a reward
    rollout_timeout_s: float = bounded(600.0, gt=0)  # limit of a whole rollout of a rollout function
    host: str = "127.0.0.1"  # address where rollout functions reach the model; elsewhere they need an API key
    retries: int = bounded(1, ge=0)  # whole rollouts that are tried again after a failure of the environment
    memory_limit_mb: int = bounded(2048, ge=0)  # address space of an environment's process, in MiB; 0: no limit
    max_result_chars: int = bounded(20_000, ge=1)  # a longer result of a tool is cut
