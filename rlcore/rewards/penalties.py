"""Rewards for length and against repetition: `length_penalty`, `target_length`, `cosine_length`, `repetition`.

Pure penalties lie in [-1, 0]; add them to another term with a positive weight. Rewards that depend on the right answer
call another reward, their `base`, and replace it. (The penalty that `algorithm.overlong_buffer` sets is applied to the
advantages; use one of the two.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.rewards import text as rules
from rlcore.rewards.registry import call, failure, get, load_fn, reward
from rlcore.types import RewardInput, RewardResult, Status

_UNKNOWN = "the number of tokens of this response is unknown; set unit=words"


@reward("length_penalty")
def length_penalty(
    sample: RewardInput, start: float, end: float, unit: str = "tokens", shape: str = "linear"
) -> RewardResult:
    """A length penalty: 0 up to `start`, -1 from `end` on.

    In between, with x the fraction of the way from `start` to `end`: `-x`, or `-(1 - cos(pi x)) / 2`.

    Args:
        start, end: in `unit`: tokens, words, sentences or characters of the whole response, including thoughts.
        shape: `linear` or `cosine`.

    Raises:
        ValueError: not 0 <= start < end, or an unknown unit or shape.

    Source: linear: soft overlong punishment of DAPO, arXiv 2503.14476 equation 13.
    """
    if not 0 <= start < end:
        raise ValueError(f"need 0 <= start < end, got {start=}, {end=}")
    if shape not in ("linear", "cosine"):
        raise ValueError(f"shape={shape!r}: one of linear, cosine")
    length = rules.measured(sample, unit)
    if length is None:
        return failure(_UNKNOWN, Status.UNPARSABLE)
    x = min(max((length - start) / (end - start), 0.0), 1.0)
    return RewardResult(0.0 - (x if shape == "linear" else (1 - math.cos(math.pi * x)) / 2), info={"length": length})


@reward("target_length")
def target_length(
    sample: RewardInput,
    base: str | None = None,
    base_options: Mapping[str, Any] | None = None,
    target: float | None = None,
    mode: str = "exact",
    alpha: float = 0.0003,
    delta: float = 0.5,
    unit: str = "tokens",
) -> RewardResult:
    """Rewards responses near, or below, a target length.

    The target is the option `target`, else the row's column `target_length`:

        exact   r - alpha * |target - n|
        max     r * clip(alpha * (target - n) + delta, 0, 1)

    with r the score of `base` (none: r = 0 under `exact`, an error under `max`) and n the length of the response.

    Returns:
        `parts`: `base`, and `length`, the term or factor. A failed base gives its status; a row without a target is
        `Status.UNPARSABLE`.

    Raises:
        ValueError: an unknown mode or unit, `max` without a base, or a negative alpha.

    Source: L1, arXiv 2503.04697, LCPO-Exact and LCPO-Max, with their alpha and delta.
    """
    if mode not in ("exact", "max") or (mode == "max" and base is None) or alpha < 0:
        raise ValueError(f"mode is exact, or max with a base, and alpha >= 0; got {mode=}, {base=}, {alpha=}")
    wanted = target if target is not None else sample.metadata.get("target_length")
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not wanted >= 0:
        return failure(f"the row's column target_length is {wanted!r}, not a length", Status.UNPARSABLE)
    result = RewardResult(0.0) if base is None else _base(base, sample, base_options)
    if not result.ok:
        return result
    length = rules.measured(sample, unit)
    if length is None:
        return failure(_UNKNOWN, Status.UNPARSABLE)
    if mode == "exact":
        factor = -alpha * abs(wanted - length)
        score = result.score + factor
    else:
        factor = min(max(alpha * (wanted - length) + delta, 0.0), 1.0)
        score = result.score * factor
    return RewardResult(score, parts={"base": result.score, "length": factor}, info={**result.info, "length": length})


@reward("cosine_length")
def cosine_length(
    sample: RewardInput,
    max_length: float,
    base: str = "math",
    base_options: Mapping[str, Any] | None = None,
    correct: Sequence[float] = (2.0, 1.0),
    wrong: Sequence[float] = (-10.0, 0.0),
    exceeded: float = -10.0,
    correct_at: float = 1.0,
    unit: str = "tokens",
) -> RewardResult:
    """Prefers short right answers and long wrong ones; a response at the limit scores worst.

        r(n) = b + (a - b) * (1 + cos(pi n / max_length)) / 2

    with (a, b) the reward at length 0 and at `max_length`: `correct` where `base` scores at least `correct_at`, else
    `wrong`. A truncated response, or one of `max_length`, gets `exceeded`, independent of its answer.

    Returns:
        `parts`: `base`, the base's score. A failed base gives its status.

    Raises:
        ValueError: `max_length` is not positive, an unknown unit, or `correct` or `wrong` is not a pair.

    Source: Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv 2502.03373, with
    its default values.
    """
    if not max_length > 0 or len(correct) != 2 or len(wrong) != 2:
        raise ValueError(f"need max_length > 0 and two numbers each: {max_length=}, {correct=}, {wrong=}")
    result = _base(base, sample, base_options)
    if not result.ok:
        return result
    length = rules.measured(sample, unit)
    if length is None:
        return failure(_UNKNOWN, Status.UNPARSABLE)
    parts, info = {"base": result.score}, {**result.info, "length": length}
    if length >= max_length or sample.finish_reason == "length":
        return RewardResult(exceeded, parts=parts, info=info)
    at_start, at_end = correct if result.score >= correct_at else wrong
    score = at_end + (at_start - at_end) * (1 + math.cos(math.pi * length / max_length)) / 2
    return RewardResult(score, parts=parts, info=info)


@reward("repetition")
def repetition(sample: RewardInput, n: int = 4, unit: str = "words", free: float = 0.0) -> RewardResult:
    """A repetition penalty: minus the share of n-grams that occurred earlier in the response.

        -max(0, s - free) / (1 - free)      s = 1 - distinct n-grams / n-grams

    Args:
        n: length of an n-gram, in `unit`; thoughts are included.
        unit: `words` (case-insensitive) or `characters`, which also detect loops without spaces.
        free: share without penalty; ordinary prose repeats a few percent.

    Returns:
        0 for a response shorter than n + 1 units; `info["repeated"]` is s.

    Raises:
        ValueError: n < 1, free outside [0, 1), an unknown unit.

    Source: the n-gram repetition penalty of arXiv 2502.03373, there spread over the tokens.
    """
    if n < 1 or not 0 <= free < 1 or unit not in ("words", "characters"):
        raise ValueError(f"need n >= 1, 0 <= free < 1 and unit words or characters, got {n=}, {free=}, {unit=}")
    lower = sample.response.lower()
    items: Sequence[str] = rules.words(lower) if unit == "words" else " ".join(lower.split())
    total = len(items) - n + 1
    if total < 2:
        return RewardResult(0.0, info={"repeated": 0.0})
    grams = {tuple(items[i : i + n]) if unit == "words" else items[i : i + n] for i in range(total)}
    repeated = 1 - len(grams) / total
    return RewardResult(0.0 - max(0.0, repeated - free) / (1 - free), info={"repeated": repeated})


def _base(name: str, sample: RewardInput, options: Mapping[str, Any] | None) -> RewardResult:
    return call(load_fn(name) if ":" in name else get(name), sample, options)
