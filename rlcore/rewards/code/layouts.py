"""The `tests` of the reward `code`: three layouts, and converters from the layouts of public data sets.

    {"type": "stdin", "inputs": [str], "outputs": [str]}
    {"type": "function", "fn_name": str, "inputs": [[arg, ...], ...], "outputs": [value, ...]}
    {"type": "assert", "asserts": [str], "setup": str}

each with optional `time_limit_s`, `memory_limit_mb` and `language`. The type is optional if the keys determine it.

    TACO, APPS      {"inputs": [...], "outputs": [...], "fn_name": optional}, also as text (`input_output`)
    LiveCodeBench   [{"input": str, "output": str, "testtype": "stdin" | "functional"}], also as `public_test_cases` and
                    `private_test_cases` of a row (plain JSON, or base64 of zlib of JSON), `metadata` with `func_name`
    Codeforces      [{"input": str, "output": str}], also as `examples` or `official_tests` of a row, with `time_limit`
                    in seconds and `memory_limit` in MB
"""

from __future__ import annotations

import ast
import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rlcore.problems import UserError

MAX_UNPACKED = 256 << 20
PLACES = (
    "tests", "input_output", "test_cases", "official_tests", "private_test_cases", "public_test_cases", "examples",
)  # fmt: skip


class TestsError(UserError, ValueError):
    """Invalid tests: an error of the data, equal for every response."""


@dataclass(frozen=True, slots=True)
class Tests:
    """Parsed and checked tests. `outputs` never leave the verifier."""

    kind: str  # "stdin" | "function" | "assert"
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    fn_name: str = ""
    asserts: Sequence[str] = ()
    setup: str = ""
    wrapped: bool = False  # an expected value [x] also means x (TACO, APPS)
    language: str | None = None
    time_limit_s: float | None = None
    memory_limit_mb: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.asserts) if self.kind == "assert" else len(self.inputs)


def read(tests: Any) -> Tests:
    """Parses any of the layouts above, also as JSON text.

    Raises:
        TestsError: an unknown layout, or an error in it.
    """
    tests = convert(tests)
    kind = tests["type"]
    limits = {"time_limit_s": _positive(tests, "time_limit_s"), "memory_limit_mb": _positive(tests, "memory_limit_mb")}
    if limits["memory_limit_mb"] is not None:
        limits["memory_limit_mb"] = int(limits["memory_limit_mb"])
    known: dict[str, Any] = {**limits, "language": tests.get("language")}
    if kind == "assert":
        asserts, setup = tests.get("asserts"), tests.get("setup") or ""
        if not isinstance(asserts, list) or not all(isinstance(a, str) for a in asserts) or not asserts:
            raise TestsError("an assert test needs asserts: a list of statements")
        for text in (setup, *asserts):
            _parses(text)
        return Tests("assert", asserts=[a.strip() for a in asserts], setup=setup, **known)
    if kind not in ("stdin", "function"):
        raise TestsError(f"the type of the tests is {kind!r}: it must be stdin, function or assert")
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise TestsError("the tests need inputs and outputs: two lists of one length, not empty")
    if kind == "stdin":
        return Tests("stdin", [_text(i) for i in inputs], [_text(o) for o in outputs], **known)
    fn_name = tests.get("fn_name")
    if not isinstance(fn_name, str) or not all(part.isidentifier() for part in fn_name.split(".")):
        raise TestsError(f"a function test needs fn_name, the function's name; it has {fn_name!r}")
    if not all(isinstance(i, list | tuple) for i in inputs):
        raise TestsError("the inputs of a function test are lists of arguments")
    return Tests("function", inputs, outputs, fn_name, wrapped=tests.get("wrapped") is True, **known)


def _positive(tests: Mapping[str, Any], key: str) -> float | None:
    value = tests.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise TestsError(f"{key} is {value!r}: it must be a positive number")
    return float(value)


def _parses(text: str) -> None:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"{text[:80]!r} is no Python: {error}") from None


def _text(value: Any) -> str:
    """APPS and TACO keep some inputs as lists of lines."""
    if isinstance(value, list):
        return "\n".join(_text(part) for part in value)
    return value if isinstance(value, str) else str(value)


def convert(tests: Any) -> dict[str, Any]:
    """Converts any known layout to one of the three with `type`; tests with a type are unchanged.

    Raises:
        TestsError: an unknown layout.
    """
    tests = _unpack(tests)
    if isinstance(tests, list):
        return _cases(tests, {})
    if not isinstance(tests, dict):
        raise TestsError(f"tests are a {type(tests).__name__}; a dict, a list of cases or their JSON is needed")
    if "type" in tests:
        return tests
    if "asserts" in tests or "test_list" in tests:  # MBPP's name
        setup = tests.get("setup") or tests.get("test_setup_code") or "\n".join(tests.get("test_imports") or ())
        asserts = tests.get("asserts", tests.get("test_list"))
        return {**_limits(tests), "type": "assert", "asserts": asserts, "setup": setup}
    if "inputs" in tests and "outputs" in tests:
        return _taco(tests)
    if "input" in tests and "output" in tests:
        if isinstance(tests["input"], list):  # columns
            return _taco({**tests, "inputs": tests["input"], "outputs": tests["output"]})
        return _cases([tests], {})
    found = [_unpack(tests[place]) for place in PLACES if tests.get(place)]
    cases = [case for part in found if isinstance(part, list) for case in part]
    if cases:
        return {**_limits(tests), **_cases(cases, tests)}
    if found:
        return {**_limits(tests), **convert(found[0])}
    raise TestsError(f"tests with the keys {', '.join(map(str, tests))[:200]} match no known layout")


def _unpack(tests: Any) -> Any:
    """Parses JSON text, or base64 of zlib of JSON (in LiveCodeBench of a pickled JSON string, read without unpickling).
    """
    if not isinstance(tests, str):
        return tests
    text = tests.strip()
    if text[:1] in ("{", "["):
        try:
            return json.loads(text, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise TestsError(f"the tests are not JSON: {error}") from None
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
    except (ValueError, zlib.error):
        raise TestsError(f"the tests are text but not JSON: {text[:80]!r}") from None
    begin, end = raw.find(b"["), raw.rfind(b"]")
    try:
        return json.loads(raw[begin : end + 1].decode(), parse_int=_integer)
    except (ValueError, RecursionError):
        raise TestsError("the packed tests are not JSON") from None


def _integer(text: str) -> int:
    return int(text) if len(text) < 4000 else int(Decimal(text))  # `int` refuses long texts


def _limits(tests: Mapping[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {k: tests[k] for k in ("time_limit_s", "memory_limit_mb", "language") if k in tests}
    if (seconds := _number(tests.get("time_limit"))) is not None:
        limits["time_limit_s"] = seconds
    if (size := _number(tests.get("memory_limit"))) is not None:
        limits["memory_limit_mb"] = size if size < 1 << 20 else size / (1 << 20)  # some copies give bytes
    return limits


def _number(value: Any) -> float | None:
    """`2`, `2.0`, `"2 seconds"`, `"256 megabytes"`."""
    try:
        number = float(value.split()[0] if isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if number > 0 else None


def _taco(tests: Mapping[str, Any]) -> dict[str, Any]:
    if not tests.get("fn_name"):
        return {**_limits(tests), "type": "stdin", "inputs": tests["inputs"], "outputs": tests["outputs"]}
    inputs = [_arguments(i) for i in tests["inputs"]]
    outputs = [_value(o) for o in tests["outputs"]]
    made = {"type": "function", "fn_name": tests["fn_name"], "inputs": inputs, "outputs": outputs, "wrapped": True}
    return {**_limits(tests), **made}


def _arguments(value: Any) -> Any:
    """A list of arguments; text has one per line."""
    if isinstance(value, str):
        return [_value(line) for line in value.strip().splitlines() if line.strip()]
    return value


def _value(text: Any) -> Any:
    """The value of JSON or of a Python literal, otherwise the text."""
    if not isinstance(text, str):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return text


def _cases(cases: Iterable[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    cases = list(cases)
    if not cases or not all(isinstance(c, dict) and "input" in c and "output" in c for c in cases):
        raise TestsError("a list of tests needs dicts with input and output")
    if not any(case.get("testtype") == "functional" for case in cases):
        return {"type": "stdin", "inputs": [c["input"] for c in cases], "outputs": [c["output"] for c in cases]}
    about = _unpack(row.get("metadata") or {})
    held = cases[0].get("metadata")
    name = about.get("func_name") or row.get("fn_name") or (held.get("func_name") if isinstance(held, dict) else None)
    if not name:
        raise TestsError("functional tests need the function's name: metadata.func_name, or fn_name")
    inputs, outputs = [_arguments(c["input"]) for c in cases], [_value(c["output"]) for c in cases]
    return {"type": "function", "fn_name": name, "inputs": inputs, "outputs": outputs}
