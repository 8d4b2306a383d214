r"""Rewards for the form of a response: `tags`, `boxed`, `json`, `length_bounds`, `language`, `regex`.

Each gives 1.0 for the right form and 0.0 otherwise, unless an option sets a partial score. All but `tags` ignore text
in `<think>` unless `thoughts=true`. If both an option and a column of the row are set, the option takes precedence.
"""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import regex as timed  # type: ignore[import-untyped, unused-ignore]

from rlcore.rewards import text as rules
from rlcore.rewards.constraints.layout import parse_json
from rlcore.rewards.math.reading.extract import box, visible
from rlcore.rewards.registry import failure, reward, slow_module
from rlcore.types import RewardInput, RewardResult, Status

SCHEMAS = "rlcore.rewards.schemas"


@reward("tags")
def tags(
    sample: RewardInput, names: Sequence[str] = ("think", "answer"), outside: bool = False, partial: bool = False
) -> RewardResult:
    """`<think>..</think><answer>..</answer>`: in this order, each once, not empty, nothing around.

    If the prompt ends with the first opening tag, as with some chat templates, the response begins inside it.

    Args:
        names: tags, in their order.
        outside: allows text before, between and after them.
        partial: gives a wrong form half the share of opening and closing tags that occur once, instead of 0.

    Returns:
        `parts`: `once` (that share), `order` (1 if the form is right).

    Source: the format reward of DeepSeek-R1, arXiv 2501.12948 section 2.2.2.
    """
    if not names:
        raise ValueError("names is empty: name a tag, for example names=[think, answer]")
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
        # pieces alternate: before, inside, between, inside, ..., after
        right = all(pieces[1::2]) and (outside or not any(pieces[::2]))
    return RewardResult(1.0 if right else 0.5 * once * partial, parts={"once": once, "order": float(right)})


@reward("boxed")
def boxed(sample: RewardInput, once: bool = True, thoughts: bool = False) -> float:
    r"""A non-empty `\boxed{...}` with closed braces; with `once` no second box is allowed."""
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
    """Only JSON, valid under a schema if there is one. A code fence is allowed.

    Args:
        schema: a JSON schema; None: the row's column `schema`, an object or its JSON; without both any JSON is
            accepted.
        tag: checks the text in the last `<tag>..</tag>` instead of the whole response.
        partial: score of JSON that does not match the schema.

    Returns:
        `parts`: `parses` and, with a schema, `valid`; `info["invalid"]`: the first error. A broken schema in a row
        gives `Status.UNPARSABLE`.

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
        wrong = slow_module(SCHEMAS, "a JSON schema ").first_error(text, value) if parses else "not JSON"
        if not parses:
            slow_module(SCHEMAS, "a JSON schema ").validator(text)  # a broken schema raises at the first sample
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
    """A length within bounds, in tokens, words, sentences or characters.

    Each unit beyond the bounds costs 1/slack. Tokens are all sampled tokens, including thoughts. If their number is
    unknown (stored text), the status is `Status.UNPARSABLE`.

    Raises:
        ValueError: an unknown unit, or impossible bounds.
    """
    if minimum < 0 or slack < 0 or (maximum is not None and maximum < minimum):
        raise ValueError(f"need 0 <= minimum <= maximum and slack >= 0, got {minimum=}, {maximum=}, {slack=}")
    length = rules.measured(sample, unit, _seen(sample, thoughts))
    if length is None:
        return failure("the number of tokens of this response is unknown; set unit=words", Status.UNPARSABLE)
    off = max(minimum - length, 0 if maximum is None else length - maximum, 0)
    score = 1.0 if off == 0 else max(0.0, 1 - off / slack) if slack else 0.0
    return RewardResult(score, info={"length": length})


@reward("language")
def language(sample: RewardInput, code: str | None = None, lines: bool = False, thoughts: bool = False) -> RewardResult:
    """Checks that the response is in a language, given by ISO 639-1 code.

    Args:
        code: None: the row's column `language`.
        lines: the score is the share of letters in lines of that language, against mixed languages. Lines of fewer than
            20 letters are ignored.

    Returns:
        `info["detected"]`. A missing or invalid code in the row gives `Status.UNPARSABLE`.

    Raises:
        ValueError: the option is not a language code.
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
    """Checks that a regular expression matches the response.

    It must match the whole stripped response, or any part without `whole`. The expression is the option or the row's
    column `pattern`, in the syntax of the package `regex` (a superset of Python's). A match that takes longer than
    `timeout_s`, possible with nested repetitions, gives `Status.TIMEOUT`; a broken expression in a row gives
    `Status.UNPARSABLE`.

    Raises:
        ValueError: the expression in the option is broken.
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
        raise ValueError(f"{pattern!r} is not a regular expression")
    try:
        return timed.compile(pattern)
    except timed.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


def _seen(sample: RewardInput, thoughts: bool) -> str:
    return sample.response if thoughts else visible(sample.response)
