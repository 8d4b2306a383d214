"""Requests and answers of a sandbox. Neither contains expected values."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlcore.problems import UserError


class SandboxError(UserError, RuntimeError):
    """The sandbox failed or is missing; never the fault of the program."""


class SandboxLost(SandboxError):
    """A working sandbox was killed from outside."""


class Ending(str, enum.Enum):
    """End of a test, before its answer is checked."""

    done = "done"  # there is an answer
    error = "error"  # an exception, a signal, an exit code
    timeout = "timeout"  # the time limit of the test was reached
    skipped = "skipped"  # the deadline of the whole job was reached


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one test, except `deadline_s`."""

    time_s: float = 4.0  # seconds of CPU time plus sleep; waiting for a core is not counted
    memory_mb: int = 1024  # address space
    output_mb: int = 16
    deadline_s: float = 30.0  # wall-clock seconds for all tests


@dataclass(frozen=True, slots=True)
class Call:
    """The call `name(*args, **kwargs)`; the name may be dotted, or a method of the class Solution."""

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A program and its tests: `inputs` for standard input, `calls`, or `asserts`."""

    source: str
    language: str = "python"
    inputs: Sequence[str] = ()
    calls: Sequence[Call] = ()
    asserts: Sequence[str] = ()
    setup: str = ""  # definitions of the tests, for asserts
    shared_setup: str = ""  # the part of `setup` that the program sees: imports and classes
    limits: Limits = field(default_factory=Limits)
    answer_bytes: int = 1 << 20  # limit of one encoded value; longer ones are not read

    @property
    def num_tests(self) -> int:
        return len(self.inputs) + len(self.calls) + len(self.asserts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one test. Everything except `ending`, `seconds` and the verdict of a check is a claim of the program.
    """

    ending: Ending
    output: str = ""  # printed output, for inputs
    value: Any = None  # return value of the call; for asserts True if the statement held
    error: str = ""
    seconds: float = 0.0  # CPU seconds
    weak: bool = False  # for asserts: methods of the program affected the result
    broken: bool = False  # for asserts: the statement or its setup is broken


class Sandbox(Protocol):
    """Runs jobs; thread-safe."""

    description: str

    def run(self, job: Job) -> list[Outcome]:
        """One outcome per test, in order, at most one second after the job's deadline.

        Raises:
            SandboxError: the sandbox failed repeatedly.
        """
        ...

    def close(self) -> None: ...
