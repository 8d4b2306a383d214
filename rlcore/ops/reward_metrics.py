"""Quality metrics of a reward model on pairs and on labelled attributes. NumPy, on whole evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
NUM_CALIBRATION_BINS = 10


def pair_metrics(
    chosen: ArrayLike, rejected: ArrayLike, strength: ArrayLike | None = None, bins: int | Sequence[float] = 4
) -> dict[str, float]:
    """Accuracy, calibration and likelihood on pairs, with d = r_c - r_r.

    A pair with equal rewards counts as half right.

    Args:
        chosen, rejected: [pairs] rewards, before any normalisation: `sigmoid(d)` is the probability of winning.
        strength: [pairs] strength of each preference, NaN where unknown; None: bins by the confidence of the model,
            |d|.
        bins: ascending inner borders of the strength (or |d|), where a border belongs to the upper bin; or a number of
            bins of equal counts. A strength with fewer distinct values has one bin per value.

    Returns:
        accuracy        share of pairs with d > 0
        accuracy/<bin>  the same by bin, lowest first: `accuracy/1`, `accuracy/0.5..2` (the values that fell into it)
        num_pairs/<bin> pairs of the bin
        log_loss        mean of -log sigmoid(d), nats
        calibration     expected calibration error: with confidence c = max(sigmoid(d), 1 - sigmoid(d)) in bins of equal
                        width from 0.5 to 1, the mean over pairs of |accuracy - mean c| of their bin
        margin          mean of d

    Raises:
        ValueError: shapes differ or are not [pairs], no pair, a reward that is not finite, or borders that do not
            ascend.

    Source: accuracy by preference rating: Llama 2, arXiv 2307.09288 table 8; calibration: Guo et al. 2017, 1706.04599.
    """
    r_c, r_r = _vectors(chosen=chosen, rejected=rejected)
    d = r_c - r_r
    right = np.where(d == 0, 0.5, (d > 0).astype(np.float64))
    found = {"accuracy": right.mean(), "log_loss": np.logaddexp(0.0, -d).mean(), "margin": d.mean()}
    found["calibration"] = _calibration(d, right)
    if strength is None:
        by = np.abs(d)
    else:
        by = np.asarray(strength, dtype=np.float64)
        if by.shape != d.shape:
            raise ValueError(f"strength has shape {by.shape}, there are {len(d)} pairs")
    told = ~np.isnan(by)
    if told.any():
        place = _places(by[told], bins)
        for i in np.unique(place):
            inside = by[told][place == i]
            low, high = inside.min(), inside.max()
            name = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
            found[f"accuracy/{name}"] = right[told][place == i].mean()
            found[f"num_pairs/{name}"] = len(inside)
    return {name: float(value) for name, value in found.items()}


def attribute_metrics(pred: ArrayLike, target: ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """For each attribute, over its labelled rows: `spearman/<name>`, `mse/<name>` and `num_labels/<name>`.

    The rank correlation is NaN if labels or predictions are all equal; both are NaN without labels.

    Args:
        pred: [B, K] predictions.
        target: [B, K] labels, NaN where there is none.
        names: of the K attributes.

    Raises:
        ValueError: shapes differ, another number of names, or a prediction that is not finite.
    """
    x, y = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != len(names):
        raise ValueError(f"pred has shape {x.shape}, target {y.shape}, and there are {len(names)} names")
    if not np.isfinite(x).all():
        raise ValueError("predictions must be finite")
    found: dict[str, float] = {}
    for k, name in enumerate(names):
        labelled = ~np.isnan(y[:, k])
        a, b = x[labelled, k], y[labelled, k]
        found[f"spearman/{name}"] = spearman(a, b)
        found[f"mse/{name}"] = float(np.square(a - b).mean()) if len(a) else float("nan")
        found[f"num_labels/{name}"] = float(len(a))
    return found


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of two [n] vectors; equal values share their mean rank. NaN where one is constant or empty."""
    a, b = (_ranks(np.asarray(v, dtype=np.float64)) for v in (x, y))
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    if not len(a):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def normalisation(scores: ArrayLike) -> tuple[float, float]:
    """Mean and (biased) standard deviation of [n] rewards, saved with the model; the deviation is 1 if all are equal.

    InstructGPT (arXiv 2203.02155 section 3.5) shifts rewards so that demonstrations have mean 0; Stiennon et al.
    (2009.01325) likewise. The scale makes a KL coefficient mean the same under every reward model.

    Raises:
        ValueError: not [n], no score, or one that is not finite.
    """
    (x,) = _vectors(scores=scores)
    deviation = float(x.std())
    return float(x.mean()), deviation if deviation > 1e-12 * max(1.0, float(np.abs(x).max())) else 1.0


def _vectors(**arrays: ArrayLike) -> list[Float64]:
    found = {name: np.asarray(a, dtype=np.float64) for name, a in arrays.items()}
    shapes = {name: a.shape for name, a in found.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes.values()):
        raise ValueError(f"need vectors of one length, at least 1: {shapes}")
    if bad := [name for name, a in found.items() if not np.isfinite(a).all()]:
        raise ValueError(f"{' and '.join(bad)} must be finite")
    return list(found.values())


def _calibration(d: Float64, right: Float64) -> float:
    confidence = np.exp(-np.logaddexp(0.0, -np.abs(d)))
    place = np.minimum((2 * NUM_CALIBRATION_BINS * (confidence - 0.5)).astype(np.int64), NUM_CALIBRATION_BINS - 1)
    gaps = [abs((right - confidence)[place == i].sum()) for i in range(NUM_CALIBRATION_BINS)]
    return float(sum(gaps)) / len(d)


def _places(x: Float64, bins: int | Sequence[float]) -> NDArray[np.int64]:
    """The bin of each value."""
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"bins={bins}: at least one")
        values = np.unique(x)
        borders = values[1:] if len(values) <= bins else np.quantile(x, np.arange(1, bins) / bins)
    else:
        borders = np.asarray(bins, dtype=np.float64)
        if (np.diff(borders) <= 0).any():
            raise ValueError(f"bins={list(bins)}: borders must ascend")
    return np.searchsorted(borders, x, side="right")


def _ranks(x: Float64) -> Float64:
    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    del values
    last = np.cumsum(counts)
    ranks: Float64 = (last - (counts - 1) / 2)[place]
    return ranks
