r"""Rewards for the form of a response: `tags`, `boxed`, `json`, `length_bounds`, `language`, `regex`.

Each is 1.0 for the right form and 0.0 for another, unless an option says how much something in between is worth. All
but `tags` look at what stands outside `<think>`; `thoughts=true` makes them look at all of the response. Where a column
of the row can stand for an option, the option wins.
"""

from __future__ import annotations

import importlib
import json as jsonlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import regex as timed  # type: ignore[import-untyped, unused-ignore]

from rlcore.rewards import text as rules
from rlcore.rewards.constraints.layout import parse_json
from rlcore.rewards.math.reading.extract import box, visible
from rlcore.rewards.registry import RewardError, failure, loading, reward
from rlcore.types import RewardInput, RewardResult, Status

SCHEMAS = "rlcore.rewards.schemas"


@reward("tags")
def tags(
    sample: RewardInput, names: Sequence[str] = ("think", "answer"), outside: bool = False, partial: bool = False
) -> RewardResult:
    """`<think>..</think><answer>..</answer>`: in this order, each once, not empty, nothing around.

    Where the prompt ends with the first opening tag, as some chat templates do, the response begins inside it.

    Args:
        names: tags, in their order.
        outside: whether text may stand before, between and after them.
        partial: a wrong form gets half the share of opening and closing tags that occur once, instead of 0.

    Returns:
        `parts`: `once` (that share), `order` (whether the form is right).

    Source: the format reward of DeepSeek-R1, arXiv 2501.12948 section 2.2.2.
    """
    if not names:
        raise ValueError("names is empty: name a tag, as in names=[think, answer]")
    response = sample.response
    if sample.prompt.rstrip().endswith(f"<{names[0]}>"):
        response = f"<{names[0]}>{response}"
    found = list(re.finditer("</?(?:" + "|".join(map(re.escape, names)) + ")>", response))
    wanted = [tag for name in names for tag in (f"<{name}>", f"</{name}>")]
    marks = [m[0] for m in found]
    once = sum(marks.count(tag) == 1 for tag in wanted) / len(wanted)
    right = marks == wanted
    if right:
        edges = [0, *(edge for m in found for edge in m.span()), len(response)]
        pieces = [response[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
        # pieces lie before, inside, between, inside, ..., after
        right = all(pieces[1::2]) and (outside or not any(pieces[::2]))
    return RewardResult(1.0 if right else 0.5 * once * partial, parts={"once": once, "order": float(right)})


@reward("boxed")
def boxed(sample: RewardInput, once: bool = True, thoughts: bool = False) -> float:
    r"""An answer in `\boxed{...}`, with something in it and its braces closed; `once`: and no second box."""
    response = _seen(sample, thoughts)
    return float(bool(box(response)) and not (once and len(re.findall(r"\\(?:boxed|fbox)\b", response)) > 1))


@reward("json")
def json(
    sample: RewardInput,
    schema: Mapping[str, Any] | None = None,
    tag: str | None = None,
    partial: float = 0.0,
    thoughts: bool = False,
) -> RewardResult:
    """JSON and nothing else, valid by a schema if there is one. A code fence may be around it.

    Args:
        schema: a JSON schema; else the row's column `schema`, an object or its JSON; without either any JSON will do.
        tag: look inside the last `<tag>..</tag>` instead of at the whole.
        partial: worth of JSON that is not valid.

    Returns:
        `parts`: `parses` and, with a schema, `valid`; `info["invalid"]`: the first thing that is wrong. A row's schema
        that is broken is `Status.UNPARSABLE`.

    Raises:
        ValueError: the option's schema is broken.
        RewardError: there is a schema and the package jsonschema is not installed.
    """
    response = _seen(sample, thoughts)
    if tag is not None:
        inside = re.findall(rf"<{re.escape(tag)}>((?:(?!<{re.escape(tag)}>).)*?)</{re.escape(tag)}>", response, re.S)
        response = inside[-1] if inside else ""
    value = parse_json(response)
    parses = value is not None or response.strip() == "null"
    wanted = schema if schema is not None else sample.metadata.get("schema")
    parts = {"parses": float(parses)}
    if wanted is None:
        return RewardResult(float(parses), parts=parts)
    try:
        text = wanted if isinstance(wanted, str) else jsonlib.dumps(wanted, sort_keys=True)
        wrong = _module(SCHEMAS, "a JSON schema").first_error(text, value) if parses else "not JSON"
        if not parses:
            _module(SCHEMAS, "a JSON schema").validator(text)  # a broken schema shows at the first sample
    except (ValueError, TypeError) as error:
        if schema is not None:
            raise
        return failure(f"the row's schema: {error}", Status.UNPARSABLE)
    parts["valid"] = float(wrong is None)
    info = {} if wrong is None else {"invalid": wrong}
    return RewardResult(1.0 if wrong is None else partial * parses, parts=parts, info=info)


@reward("length_bounds")
def length_bounds(
    sample: RewardInput,
    minimum: int = 0,
    maximum: int | None = None,
    unit: str = "tokens",
    slack: float = 0.0,
    thoughts: bool = False,
) -> RewardResult:
    """Neither too short nor too long, in tokens, words, sentences or characters.

    Beyond the bounds 1/slack is taken off for each one. Tokens are all those sampled, thoughts included. Where their
    number is not known (stored text), the status is `Status.UNPARSABLE`.

    Raises:
        ValueError: an unknown unit, or bounds that nothing meets.
    """
    if minimum < 0 or slack < 0 or (maximum is not None and maximum < minimum):
        raise ValueError(f"need 0 <= minimum <= maximum and slack >= 0, got {minimum=}, {maximum=}, {slack=}")
    length = rules.measured(sample, unit, _seen(sample, thoughts))
    if length is None:
        return failure("the number of tokens of this response is not known; set unit=words", Status.UNPARSABLE)
    off = max(minimum - length, 0 if maximum is None else length - maximum, 0)
    score = 1.0 if off == 0 else max(0.0, 1 - off / slack) if slack else 0.0
    return RewardResult(score, info={"length": length})


@reward("language")
def language(sample: RewardInput, code: str | None = None, lines: bool = False, thoughts: bool = False) -> RewardResult:
    """The response is in the language of an ISO 639-1 code.

    Args:
        code: else the row's column `language`.
        lines: the share of letters that stand in lines of that language, instead of one verdict over the whole: a
            reward against mixed languages. Lines of fewer than 20 letters are not judged.

    Returns:
        `info["detected"]`. A row's code that is none, or none at all, is `Status.UNPARSABLE`.

    Raises:
        ValueError: the option's code is none.
        RewardError: the package py3langid is not installed.

    Source: the language consistency reward of DeepSeek-R1, arXiv 2501.12948 section 2.3.2 (there by words).
    """
    given = code if code is not None else sample.metadata.get("language")
    wanted = rules.language_code(given) if isinstance(given, str) else None
    if wanted is None:
        message = f"no language has the code {given!r}"
        if code is not None:
            raise ValueError(message)
        return failure(f"the row's column language: {message}", Status.UNPARSABLE)
    response = _seen(sample, thoughts)
    if not lines:
        detected = rules.language_of(response)
        return RewardResult(float(rules.written_in(response, wanted)), info={"detected": detected})
    judged = [(line, n) for line in response.split("\n") if (n := sum(map(str.isalpha, line))) >= 20]
    if not judged:
        judged = [(response, 1)]
    right = sum(n for line, n in judged if rules.written_in(line, wanted))
    return RewardResult(right / sum(n for _, n in judged))


@reward("regex")
def regex(
    sample: RewardInput,
    pattern: str | None = None,
    whole: bool = True,
    timeout_s: float = 1.0,
    thoughts: bool = False,
) -> RewardResult:
    """A regular expression matches the response.

    All of it, without the white space around it, or somewhere unless `whole`. The expression is the option's or that of
    the row's column `pattern`, in the syntax of the package `regex` (that of Python and more). One that takes longer
    than `timeout_s` on a response, as those with nested repetitions may, is `Status.TIMEOUT`; a row's expression that
    is broken is `Status.UNPARSABLE`.

    Raises:
        ValueError: the option's expression is broken.
    """
    given = pattern if pattern is not None else sample.metadata.get("pattern")
    try:
        compiled = _compiled(given)
    except ValueError as error:
        if pattern is not None:
            raise
        return failure(f"the row's column pattern: {error}", Status.UNPARSABLE)
    response = _seen(sample, thoughts).strip()
    try:
        match = (compiled.fullmatch if whole else compiled.search)(response, timeout=timeout_s)
    except TimeoutError:
        return failure(f"the pattern {given!r:.200} took over {timeout_s:g} s on this response", Status.TIMEOUT)
    return RewardResult(float(match is not None))


@lru_cache(maxsize=256)
def _compiled(pattern: Any) -> Any:
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"{pattern!r} is no regular expression")
    try:
        return timed.compile(pattern)
    except timed.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _seen(sample: RewardInput, thoughts: bool) -> str:
    return sample.response if thoughts else visible(sample.response)


def _module(name: str, what: str) -> Any:
    """Imports what takes long, once, outside of the sample's time limit."""
    if name not in sys.modules:
        try:
            with loading(name):
                importlib.import_module(name)
        except RuntimeError as error:
            raise RewardError(f"{what} {error}") from error
    return sys.modules[name]
