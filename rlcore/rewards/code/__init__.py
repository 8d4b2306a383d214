"""The reward `code`: the fraction of tests that the program in a response passes.

The program runs in `rlcore.rewards.sandbox`; answers are compared in this module. Expected values never enter the
process of the program, and its results are text or plain values. So a program scores only for right answers, whatever
it prints, overrides or claims.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rlcore.rewards.code import layouts as code_layouts
from rlcore.rewards.code.compare import Tolerance, equal, same_output, same_value
from rlcore.rewards.code.layouts import Tests, TestsError
from rlcore.rewards.config import SandboxConfig, Tier
from rlcore.rewards.registry import failure, loading, reward
from rlcore.rewards.sandbox import Call, Ending, Job, Limits, Outcome, Sandbox, SandboxError, get, held
from rlcore.rewards.sandbox.commands import language as language_name
from rlcore.types import RewardInput, RewardResult, Status

MAX_PROGRAM = 1 << 20  # characters
MIN_MEMORY_MB, MAX_MEMORY_MB = 64, 1 << 16
_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)


@reward("code")
def _code(sample: RewardInput, **options: Any) -> RewardResult:
    """The tests are the row's column `tests` (`metadata["tests"]`), otherwise its reference, as JSON."""
    tests = sample.metadata.get("tests", sample.reference)
    if tests is None:
        tests = next((sample.metadata for place in code_layouts.PLACES if place in sample.metadata), None)
    if tests is None:
        error = "the row has neither a column tests nor a reference, which the reward code needs"
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": error})
    return score(sample.response, tests, **options)


def score(
    response: str,
    tests: Mapping[str, Any] | Sequence[Any] | str,
    *,
    all_or_nothing: bool = False,
    whitespace: str = "lines",
    float_tolerance: float | None = 1e-6,
    time_limit_s: float = 4.0,
    memory_limit_mb: int = 1024,
    output_limit_mb: int = 16,
    deadline_s: float = 30.0,
    language: str = "python",
    weak_asserts: bool = True,
    sandbox: Mapping[str, Any] | SandboxConfig | None = None,
) -> RewardResult:
    """The fraction of `tests` that the program in the last fenced code block of `response` passes.

    Args:
        tests: one of the layouts of `code.layouts`; its limits and language take precedence.
        all_or_nothing: 1.0 for all tests, 0.0 for fewer.
        whitespace: comparison of printed answers, see `code.compare.same_output`: `lines`, `tokens` or `exact`.
        float_tolerance: relative tolerance of decimals; None: no tolerance.
        time_limit_s: limit of one test, CPU time plus sleep. Waiting for a core is not counted.
        memory_limit_mb: address space of the program, in MiB.
        output_limit_mb: limit of the printed output; writing more fails.
        deadline_s: wall-clock seconds for all tests. The result arrives at most one second later.
        weak_asserts: counts asserts that compare two objects of a class of the program, which controls their `==`;
            `info["weak"]` is the number of those passed.
        sandbox: fields of `SandboxConfig`.

    Returns:
        `parts["passed"]` and `parts["all_passed"]`; `info`: `num_tests`, `failed` (the reason of the first failed
        test), `sandbox`. A program that fails or exceeds the time of a test gives `Status.OK`. Invalid tests give
        `Status.UNPARSABLE`, a deadline before all tests were started `Status.TIMEOUT`, a sandbox that fails repeatedly
        `Status.ERROR`.

    Raises:
        SandboxError: no sandbox works on this machine.
        ValueError: an invalid option.

    >>> score("```python\\nprint(int(input()) + 1)\\n```", {"type": "stdin", "inputs": ["1"], "outputs": ["2"]}).score
    1.0
    """
    if whitespace not in ("lines", "tokens", "exact"):
        raise ValueError(f"whitespace is {whitespace!r}: it must be lines, tokens or exact")
    if not (time_limit_s > 0 and memory_limit_mb > 0 and output_limit_mb > 0 and deadline_s > 0):
        raise ValueError("the limits of the reward code must be positive")
    try:
        read = _read(tests) if isinstance(tests, str) else code_layouts.read(tests)
    except (TestsError, TypeError, ValueError, RecursionError) as error:
        return failure(f"the tests cannot be read: {error}", Status.UNPARSABLE)
    spoken = language_name(read.language or language)
    source = program(response, spoken)
    if source is None:
        return _result(read, [], all_or_nothing, {"failed": "the response has no program"})
    limits = Limits(
        read.time_limit_s or time_limit_s,
        int(min(max(read.memory_limit_mb or memory_limit_mb, MIN_MEMORY_MB), MAX_MEMORY_MB)),
        output_limit_mb,
        deadline_s,
    )
    where = _sandbox(sandbox)
    try:
        outcomes = where.run(_job(source, spoken, read, limits))
    except SandboxError as error:
        return failure(f"the sandbox failed: {error}")
    judge = Judge(read, whitespace, Tolerance(float_tolerance) if float_tolerance is not None else None, weak_asserts)
    return _settle(read, outcomes, judge, all_or_nothing, where.description)


_SAMPLE, *_ = inspect.signature(_code).parameters.values()
_OPTIONS = [p for p in inspect.signature(score).parameters.values() if p.kind is p.KEYWORD_ONLY]
_code.__signature__ = inspect.Signature([_SAMPLE, *_OPTIONS])  # type: ignore[attr-defined]  # options.py checks them


@lru_cache(maxsize=64)
def _read(tests: str) -> Tests:
    return code_layouts.read(tests)


def program(response: str, language: str = "python") -> str | None:
    """The program of a response: the last fenced block of its language, otherwise the last block, otherwise the whole
    text.

    Text before a closing `</think>` is ignored. An unclosed block extends to the end. A response without a block is a
    program only if it parses as Python.
    """
    text = response.rpartition("</think>")[2]
    blocks = _blocks(text)
    tagged = [body for tag, body in blocks if tag and language_name(tag) == language]
    plain = [body for tag, body in blocks if not tag]
    for found in (tagged, plain, [body for _, body in blocks]):
        if found:
            return found[-1] if len(found[-1]) <= MAX_PROGRAM else None
    if len(text) > MAX_PROGRAM or not text.strip():
        return None
    return text if language != "python" or _is_python(text) else None


def _blocks(text: str) -> list[tuple[str, str]]:
    """(tag, content) of every fenced block."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match
        elif match[2].startswith(opened[2]) and not match[3]:
            blocks.append((opened[3], _body(text, opened, match.start())))
            opened = None
        elif match[3]:  # a new block although the last was not closed
            blocks.append((opened[3], _body(text, opened, match.start())))
            opened = match
    if opened is not None:
        blocks.append((opened[3], _body(text, opened, len(text))))
    return blocks


def _body(text: str, opened: re.Match[str], end: int) -> str:
    """Removes the indentation of an indented fence from its content."""
    indent, body = opened[1], text[opened.end() + 1 : end]
    return "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) if indent else body


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _job(source: str, language: str, tests: Tests, limits: Limits) -> Job:
    if tests.kind == "stdin":
        return Job(source, language, inputs=tests.inputs, limits=limits)
    if tests.kind == "function":
        calls = [Call(tests.fn_name, args) for args in tests.inputs]
        return Job(source, language, calls=calls, limits=limits, answer_bytes=_room(tests.outputs))
    if (simple := _simple_asserts(tests)) is not None:
        room = _room([literal for _, literal in simple])
        return Job(source, language, calls=[call for call, _ in simple], limits=limits, answer_bytes=room)
    shared = _shared(tests.setup, tuple(tests.asserts))
    return Job(source, language, asserts=tests.asserts, setup=tests.setup, shared_setup=shared, limits=limits)


def _room(expected: Sequence[Any]) -> int:
    """Upper bound on the encoded size of a right answer; longer answers are not read."""
    return 65536 + 8 * max(_length(value) for value in expected)


def _length(value: Any) -> int:
    """Characters of a value as text, without converting long integers."""
    if isinstance(value, list | tuple | set | frozenset):
        return 2 + sum(_length(item) + 2 for item in value)
    if isinstance(value, Mapping):
        return 2 + sum(_length(key) + _length(item) + 4 for key, item in value.items())
    return value.bit_length() // 3 + 2 if isinstance(value, int) else len(str(value)) + 2


def _simple_asserts(tests: Tests) -> list[tuple[Call, Any]] | None:
    """All simple asserts as calls, or None if one is not simple."""
    simple = [found for a in tests.asserts if (found := _simple_assert(a)) is not None]
    return simple if not tests.setup and len(simple) == len(tests.asserts) else None


@lru_cache(maxsize=4096)
def _simple_assert(statement: str) -> tuple[Call, Any] | None:
    """`assert f(literals) == literal` as the call and the literal, which need no second process; otherwise None."""
    try:
        match ast.parse(statement).body:
            case [
                ast.Assert(
                    test=ast.Compare(left=ast.Call(func=ast.Name(id=name)) as call, ops=[ast.Eq()], comparators=[right])
                )
            ]:
                pass
            case _:
                return None
        if any(keyword.arg is None for keyword in call.keywords):  # f(**options)
            return None
        args = [ast.literal_eval(a) for a in call.args]
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        literal = ast.literal_eval(right)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return Call(name, args, kwargs), literal


@lru_cache(maxsize=256)
def _shared(setup: str, asserts: tuple[str, ...]) -> str:
    """The part of the setup that the program may see: imports, classes, and names that no test uses, directly or
    indirectly.

    A function or a constant that a test uses may contain expected values.
    """
    body = ast.parse(setup).body
    defined = {node: _bound(node) for node in body}
    used = {name for a in asserts for name in _names(ast.parse(a))}
    kept: list[ast.stmt] = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)]
    rest = [node for node in body if node not in kept]
    used |= {name for node in rest if not defined[node] for name in _names(node)}  # a loop, a bare call
    while hidden := [node for node in rest if defined[node] & used]:
        rest = [node for node in rest if node not in hidden]
        used |= {name for node in hidden for name in _names(node)}
    kept = [node for node in kept if not any(isinstance(part, ast.Assert) for part in ast.walk(node))]
    kept += [node for node in rest if defined[node]]
    return "\n".join(ast.unparse(node) for node in body if node in kept)


def _names(tree: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}


def _bound(node: ast.stmt) -> set[str]:
    """Names bound by a top-level definition or assignment."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return {p.id for p in ast.walk(node) if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)}
    return set()


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares answers with expected values."""

    tests: Tests
    whitespace: str
    tolerance: Tolerance | None
    weak_asserts: bool

    def passed(self, number: int, outcome: Outcome) -> bool:
        if outcome.ending is not Ending.done:
            return False
        if self.tests.kind == "stdin":
            return same_output(self.tests.outputs[number], outcome.output, self.whitespace, self.tolerance)
        if self.tests.kind == "assert":
            if (simple := _simple_asserts(self.tests)) is not None:
                return equal(simple[number][1], outcome.value)
            return outcome.value is True and (self.weak_asserts or not outcome.weak)
        expected = self.tests.outputs[number]
        if same_value(expected, outcome.value, self.tolerance):
            return True
        wrapped = self.tests.wrapped and isinstance(expected, list) and len(expected) > 0
        return wrapped and same_value(expected[0], outcome.value, self.tolerance)


def _settle(tests: Tests, outcomes: Sequence[Outcome], judge: Judge, all_or_nothing: bool, where: str) -> RewardResult:
    broken = next((o for o in outcomes if o.broken), None)
    if broken is not None:
        return failure(f"an assert of the tests fails by itself: {broken.error}", Status.UNPARSABLE)
    verdicts = [judge.passed(number, outcome) for number, outcome in enumerate(outcomes)]
    info: dict[str, Any] = {"sandbox": where}
    first = next((o for o, passed in zip(outcomes, verdicts, strict=True) if not passed), None)
    if first is not None:
        info["failed"] = first.error or ("the wrong answer" if first.ending is Ending.done else first.ending.value)
    weak = sum(o.weak and passed for o, passed in zip(outcomes, verdicts, strict=True))
    if weak:
        info["weak"] = weak
    result = _result(tests, verdicts, all_or_nothing, info)
    slow = any(o.ending is Ending.timeout for o in outcomes)
    if any(o.ending is Ending.skipped for o in outcomes) and not slow:
        error = f"the deadline came before {sum(o.ending is Ending.skipped for o in outcomes)} of {len(tests)} tests"
        return replace(result, score=0.0, status=Status.TIMEOUT, info={**info, "error": error})
    return result


def _result(tests: Tests, verdicts: Sequence[bool], all_or_nothing: bool, info: Mapping[str, Any]) -> RewardResult:
    passed = sum(verdicts) / len(tests)
    whole = float(passed == 1.0)
    parts = {"passed": passed, "all_passed": whole}
    return RewardResult(whole if all_or_nothing else passed, parts=parts, info={"num_tests": len(tests), **info})


def _sandbox(settings: Mapping[str, Any] | SandboxConfig | None) -> Sandbox:
    if isinstance(settings, SandboxConfig):
        config = settings
    else:
        given = dict(settings or {})
        if "tier" in given:
            given["tier"] = Tier(getattr(given["tier"], "value", given["tier"]))
        config = SandboxConfig(**given)
    if (running := held(config)) is not None:
        return running
    with loading("rlcore.rewards.sandbox"):  # starting and probing are not part of the first sample's time
        return get(config)
