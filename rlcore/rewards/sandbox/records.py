"""What a sandbox is asked and what it answers. Expected values are in neither."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlcore.problems import UserError


class SandboxError(UserError, RuntimeError):
    """The sandbox itself failed, or there is none; never the program's fault."""


class SandboxLost(SandboxError):
    """A sandbox that had started, or could have, ended under its work: it was killed from outside."""


class Ending(str, enum.Enum):
    """How one test of a program ended, before any answer is looked at."""

    done = "done"  # there is an answer
    error = "error"  # an exception, a signal, an exit code
    timeout = "timeout"  # the time of one test is used up
    skipped = "skipped"  # the deadline of the whole job came first


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one test, except `deadline_s`."""

    time_s: float = 4.0  # of CPU, and of running or sleeping; waiting for a core does not count
    memory_mb: int = 1024  # address space
    output_mb: int = 16
    deadline_s: float = 30.0  # wall seconds of all tests together


@dataclass(frozen=True, slots=True)
class Call:
    """`name(*args, **kwargs)`; a name may be a method of the program's class Solution, or dotted."""

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A program and what to do with it: feed `inputs` to it, make `calls`, or run `asserts` against it."""

    source: str
    language: str = "python"
    inputs: Sequence[str] = ()
    calls: Sequence[Call] = ()
    asserts: Sequence[str] = ()
    setup: str = ""  # the author's definitions, for asserts
    shared_setup: str = ""  # the part of it that the program sees: imports and classes
    limits: Limits = field(default_factory=Limits)
    answer_bytes: int = 1 << 20  # of one encoded value; what is longer is no answer, and not read

    @property
    def num_tests(self) -> int:
        return len(self.inputs) + len(self.calls) + len(self.asserts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one test. Everything but `ending`, `seconds` and a check's verdict comes from the program and is its claim."""

    ending: Ending
    output: str = ""  # what it printed, for inputs
    value: Any = None  # what the call returned; for asserts, True when the statement held
    error: str = ""
    seconds: float = 0.0  # of CPU
    weak: bool = False  # of an assert: the program's own methods had a say in it
    broken: bool = False  # of an assert: the statement or its setup is at fault


class Sandbox(Protocol):
    """Runs jobs; safe to use from several threads."""

    description: str

    def run(self, job: Job) -> list[Outcome]:
        """One outcome for each test, in order, no later than the job's deadline plus a second.

        Raises:
            SandboxError: the sandbox failed, also on further tries.
        """
        ...

    def close(self) -> None: ...
