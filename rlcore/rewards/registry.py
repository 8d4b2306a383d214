"""Registry of reward functions by name or path, and the only function that calls them.

A reward function takes one `RewardInput` (and keyword options), is sync or async, and returns a number, a bool or a
`RewardResult`. Every failure becomes `Status.ERROR` with a message, never a silent zero.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from rlcore.registry import MAX_MESSAGE as MAX_MESSAGE  # child.py reads it here
from rlcore.registry import Registry, RegistryError, describe, load_function, origin
from rlcore.types import REFERENCES, RewardInput, RewardResult, Status

RewardFn = Callable[..., Any]
F = TypeVar("F", bound=RewardFn)
NOTHING = "None"  # `info["returned"]` of a reward that returned None

_runner: asyncio.Runner | None = None
on_load: Callable[[str, bool], None] | None = None  # called with (name, finished); stops the sample's clock in between
_loads_under_way = 0


class RewardError(RegistryError):
    """A reward cannot be found, loaded, or used."""


REWARDS = Registry("reward", "Give a custom function by path: reward.fn=path/to/file.py:function", error=RewardError)
get, names = REWARDS.get, REWARDS.names


def reward(name: str) -> Callable[[F], F]:
    """Registers a reward function under a name and returns it unchanged.

    >>> @reward("shouts")
    ... def shouts(sample: RewardInput) -> float:
    ...     return float(sample.response.isupper())
    >>> names()[-1], get("shouts") is shouts
    ('shouts', True)

    Raises:
        RewardError: the name is empty or taken.
    """
    return REWARDS.register(name)


def load_fn(path: str) -> RewardFn:
    """Imports `path/to/file.py:function` or `package.module:function`.

    A file is imported once per process. Its folder is put first on `sys.path`, as for a script, so that modules next to
    it can be imported. Relative paths start at the working directory.

    Raises:
        RewardError: malformed path, missing file, module or function, an import that raises, or not a function.
    """
    return load_function(path, "reward", RewardError)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Marks a slow import, so that it does not count towards the time limit of a sample.

    Only the outermost of nested imports counts. `on_load` gets an empty name at the end of a failed import.
    """
    global _loads_under_way
    report = on_load if _loads_under_way == 0 else None
    _loads_under_way += 1
    loaded = ""
    try:
        if report is not None:
            report(name, False)
        yield
        loaded = name
    finally:
        _loads_under_way -= 1
        if report is not None:
            report(loaded, True)


def slow_module(name: str, what: str = "") -> Any:
    """Imports a slow module once, outside of the time limit of a sample.

    Raises:
        RewardError: its package is missing; `what` opens the message.
    """
    if name not in sys.modules:
        try:
            with loading(name):
                importlib.import_module(name)
        except (RuntimeError, ValueError) as error:
            raise RewardError(f"{what}{error}") from error
    return sys.modules[name]


def call(fn: RewardFn, sample: RewardInput, options: Mapping[str, Any] | None = None) -> RewardResult:
    """Calls a reward function and converts its return value to a `RewardResult`.

    None, NaN, infinity, strings, exceptions and other types give `Status.ERROR`, score 0.0 and `info["error"]` with the
    function and the cure; `info["exception"]` is the type name of a raised exception. A coroutine is awaited on an
    event loop that exists as long as the process.

    A row can have several acceptable answers, `metadata["references"]`: the function is called for each until the score
    is 1, and the best result counts.
    """
    best: RewardResult | None = None
    for reference in _references(sample):
        result = _call(fn, replace(sample, reference=reference), options)
        if best is None or (result.ok, result.score) > (best.ok, best.score):
            best = result
        if best.ok and best.score >= 1:
            break
    return _call(fn, sample, options) if best is None else best


def _references(sample: RewardInput) -> list[str]:
    """The acceptable answers; empty if `reference` is the only one."""
    given = sample.metadata.get(REFERENCES)
    known = isinstance(given, list) and sample.reference in given and all(isinstance(one, str) for one in given)
    return list(given) if known and given is not None and len(given) > 1 else []


def _call(fn: RewardFn, sample: RewardInput, options: Mapping[str, Any] | None) -> RewardResult:
    try:
        value = fn(sample, **(options or {}))
        if inspect.isawaitable(value):
            value = _await(value)
    except (Exception, SystemExit) as error:
        return _raised(fn, error, options)
    return _coerce(fn, value)


def failure(message: str, status: Status = Status.ERROR, **info: Any) -> RewardResult:
    """A failed result with the error."""
    return RewardResult(score=0.0, status=status, info={"error": message[:MAX_MESSAGE], **info})


def _await(value: Any) -> Any:
    global _runner
    if _runner is None:
        _runner = asyncio.Runner()

    async def wait() -> Any:
        return await value

    return _runner.run(wait())


def _raised(fn: RewardFn, error: BaseException, options: Mapping[str, Any] | None) -> RewardResult:
    frames = traceback.extract_tb(error.__traceback__)[1:]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = f"{_origin(fn)} raised {describe(error)}{where}"
    misused = isinstance(error, TypeError | AttributeError) and "RewardInput" in str(error)
    if misused or (isinstance(error, TypeError) and not frames):
        given = ", ".join(options or ()) or "none"
        message = (
            f"a reward takes one RewardInput (sample.response, sample.reference, ...), not columns of a batch, and its "
            f"options as keyword arguments (options given: {given}): {message}"
        )
    if isinstance(error, SystemExit):
        message += "; a reward must return, not exit"
    if isinstance(error, MemoryError):
        message += "; raise reward.memory_limit_mb or use less memory"
    return failure(message, exception=type(error).__name__)


def _coerce(fn: RewardFn, value: Any) -> RewardResult:
    cure = "return a float, an int, a bool or a RewardResult"
    if isinstance(value, RewardResult):
        return _checked(fn, value)
    if value is None:
        return failure(f"{_origin(fn)} returned None: a path without a return statement? {cure}", returned=NOTHING)
    if isinstance(value, str | bytes):
        return failure(f"{_origin(fn)} returned the {type(value).__name__} {value[:80]!r}: {cure}")
    if not isinstance(value, numbers.Real) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # a zero-dimensional tensor or array
    if not isinstance(value, numbers.Real):
        return failure(f"{_origin(fn)} returned a {type(value).__name__}: {cure}")
    return _checked(fn, RewardResult(score=_float(value)))


def _checked(fn: RewardFn, result: RewardResult) -> RewardResult:
    score = result.score
    if not isinstance(score, numbers.Real):
        return failure(f"{_origin(fn)} returned a RewardResult; its score is a {type(score).__name__}, not a number")
    if not isinstance(result.status, Status):
        return failure(f"{_origin(fn)} returned a RewardResult; its status is {result.status!r}, not a Status")
    bad = [name for name, part in result.parts.items() if not isinstance(part, numbers.Real)]
    if bad:
        return failure(f"{_origin(fn)} returned a RewardResult whose parts {bad} are not numbers")
    parts = {str(name): _float(part) for name, part in result.parts.items()}
    if not all(map(math.isfinite, (_float(score), *parts.values()))):
        shown = next(x for x in (_float(score), *parts.values()) if not math.isfinite(x))
        return failure(f"{_origin(fn)} returned {shown}: rewards must be finite; guard the division or the log in it")
    return RewardResult(_float(score), result.status, parts, result.info)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _origin(fn: RewardFn) -> str:
    return f"reward {origin(fn)}"
