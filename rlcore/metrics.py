"""Metrics that carry their reduction, so that averages are never averaged again.

A worker returns `{"actor/pg_loss": Mean(total, count), "actor/grad_norm": Last(g)}`; `merge` combines the metrics of
several workers or micro-batches; `values` turns the result into plain floats for a tracker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """`total / count`; merging adds both. For a per-token quantity: its sum and the number of tokens."""

    total: float
    count: float = 1.0

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True, slots=True)
class Sum:
    total: float

    def merge(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def value(self) -> float:
        return self.total


@dataclass(frozen=True, slots=True)
class Max:
    high: float

    def merge(self, other: Max) -> Max:
        return Max(max(self.high, other.high))

    def value(self) -> float:
        return self.high


@dataclass(frozen=True, slots=True)
class Min:
    low: float

    def merge(self, other: Min) -> Min:
        return Min(min(self.low, other.low))

    def value(self) -> float:
        return self.low


@dataclass(frozen=True, slots=True)
class Last:
    """A value that is equal on all workers (learning rate, gradient norm); merging keeps the last."""

    last: float

    def merge(self, other: Last) -> Last:
        return other

    def value(self) -> float:
        return self.last


@dataclass(frozen=True, slots=True)
class EffectiveShare:
    """Effective sample size of n weights divided by n, `(sum w)^2 / (n sum w^2)` (Kish 1965).

    1 when all weights are equal, 1/n when a single one is not 0.
    """

    total: float  # sum of w
    squares: float  # sum of w^2
    count: float  # n

    def merge(self, other: EffectiveShare) -> EffectiveShare:
        return EffectiveShare(self.total + other.total, self.squares + other.squares, self.count + other.count)

    def value(self) -> float:
        weighed = self.count * self.squares
        return self.total**2 / weighed if weighed else math.nan


@dataclass(frozen=True, slots=True)
class ExplainedVariance:
    """`1 - Var(y - f) / Var(y)` of predictions f of targets y: 1 is perfect, 0 as good as a constant; there is no lower
    bound.

    Stored as counts, means and sums of squared deviations, which merge exactly and without cancellation (Chan, Golub
    and LeVeque 1983). NaN if all targets are equal.
    """

    count: float
    target_mean: float
    target_squares: float  # sum of (y - mean y)^2
    error_mean: float
    error_squares: float  # sum of (e - mean e)^2, e = y - f

    def merge(self, other: ExplainedVariance) -> ExplainedVariance:
        targets = _pooled(self.count, self.target_mean, self.target_squares, other.count, other.target_mean)
        errors = _pooled(self.count, self.error_mean, self.error_squares, other.count, other.error_mean)
        return ExplainedVariance(
            self.count + other.count,
            targets[0],
            targets[1] + other.target_squares,
            errors[0],
            errors[1] + other.error_squares,
        )

    def value(self) -> float:
        return 1 - self.error_squares / self.target_squares if self.target_squares else math.nan


def _pooled(count: float, mean: float, squares: float, more: float, other_mean: float) -> tuple[float, float]:
    """Mean of both parts, and the squares of the first about it with the other's shift added."""
    total = count + more
    if not total:
        return mean, squares
    shift = other_mean - mean
    return mean + shift * (more / total), squares + shift**2 * (count * more / total)


Metric = Mean | Sum | Max | Min | Last | EffectiveShare | ExplainedVariance
Metrics = dict[str, Metric]


def merge(parts: Iterable[Mapping[str, Metric]]) -> Metrics:
    """Combines per-worker or per-micro-batch metrics.

    Raises:
        TypeError: a name has two kinds of reduction.
    """
    merged: Metrics = {}
    for part in parts:
        for name, metric in part.items():
            if name not in merged:
                merged[name] = metric
                continue
            held = merged[name]
            if type(held) is not type(metric):
                raise TypeError(f"metric {name!r} is reduced as {type(held).__name__} and as {type(metric).__name__}")
            merged[name] = held.merge(metric)  # type: ignore[arg-type]
    return merged


def values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Plain floats, in the order of the names."""
    return {name: metrics[name].value() for name in sorted(metrics)}
