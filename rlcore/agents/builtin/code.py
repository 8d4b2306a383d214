"""A tool that runs Python programs in the sandbox."""

from __future__ import annotations

from typing import Any

from rlcore.agents import environment
from rlcore.rewards.config import SandboxConfig
from rlcore.rewards.sandbox import Ending, Job, Limits, get


@environment("code_interpreter")
class CodeInterpreter:
    """Each call is a new program: nothing is kept between calls.

    Args:
        time_limit_s: limit of one program, CPU time plus sleep.
        memory_limit_mb: address space of a program, in MiB.
        sandbox: fields of `rlcore.rewards.config.SandboxConfig`.
    """

    def __init__(
        self, time_limit_s: float = 4.0, memory_limit_mb: int = 512, sandbox: dict[str, Any] | None = None
    ) -> None:
        self._limits = Limits(time_limit_s, memory_limit_mb, 1, 5 * time_limit_s)
        self._config = SandboxConfig(**(sandbox or {}))

    def reset(self, **_: Any) -> None:
        get(self._config)  # probed before the first turn, because it takes a moment

    def python(self, code: str) -> str:
        """Runs a Python program and returns what it prints.

        Args:
            code: the program; it must print its result.
        """
        (outcome,) = get(self._config).run(Job(code, inputs=[""], limits=self._limits))
        if outcome.ending is Ending.done:
            return outcome.output
        return f"{outcome.output}{outcome.error or outcome.ending.value}"
