import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore.ops.reward_metrics import attribute_metrics, normalisation, pair_metrics, spearman


def test_pairs_by_hand() -> None:
    """Three pairs: right at 9 : 1, a tie, wrong at 1 : 3."""
    got = pair_metrics([math.log(9.0), 2.0, 0.0], [0.0, 2.0, math.log(3.0)], strength=[3.0, math.nan, 1.0])
    assert got["accuracy"] == pytest.approx(0.5)
    assert got["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.5) + math.log(0.25)) / 3)
    assert got["margin"] == pytest.approx((math.log(9) - math.log(3)) / 3)
    # confidences 0.9, 0.5, 0.75, each in a bin of its own: off by 0.1, 0 and 0.75
    assert got["calibration"] == pytest.approx((0.1 + 0.0 + 0.75) / 3)
    by_strength = {name: value for name, value in got.items() if "/" in name}
    assert by_strength == {"accuracy/1": 0.0, "num_pairs/1": 1.0, "accuracy/3": 1.0, "num_pairs/3": 1.0}


def test_bins_of_the_margin() -> None:
    d = np.array([0.1, -0.2, 0.5, 1.0, -2.0, 3.0])
    got = pair_metrics(d, np.zeros(6), bins=[0.5, 2.0])
    assert {k: v for k, v in got.items() if "/" in k} == {
        "accuracy/0.1..0.2": 0.5, "num_pairs/0.1..0.2": 2.0,
        "accuracy/0.5..1": 1.0, "num_pairs/0.5..1": 2.0,
        "accuracy/2..3": 0.5, "num_pairs/2..3": 2.0,
    }  # fmt: skip
    halves = pair_metrics(d, np.zeros(6), bins=2)
    assert sorted(v for k, v in halves.items() if k.startswith("num_pairs")) == [3.0, 3.0]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31))
def test_pairs_twin(pairs: int, bins: int, seed: int) -> None:
    chosen, rejected = np.random.default_rng(seed).normal(0, 2, (2, pairs))
    got = pair_metrics(chosen, rejected, bins=bins)
    right = [c > r for c, r in zip(chosen, rejected, strict=True)]
    confidence = [1 / (1 + math.exp(-abs(c - r))) for c, r in zip(chosen, rejected, strict=True)]
    gap = 0.0
    for i in range(10):
        inside = [k for k in range(pairs) if 0.5 + 0.05 * i <= confidence[k] < 0.5 + 0.05 * (i + 1)]
        if inside:
            off = sum(right[k] for k in inside) / len(inside) - sum(confidence[k] for k in inside) / len(inside)
            gap += abs(off) * len(inside) / pairs
    assert got["calibration"] == pytest.approx(gap, abs=1e-9)
    assert got["accuracy"] == pytest.approx(sum(right) / pairs)
    weighed = sum(v * got[f"num_pairs/{k.partition('/')[2]}"] for k, v in got.items() if k.startswith("accuracy/"))
    assert weighed / pairs == pytest.approx(got["accuracy"])


def test_a_model_that_knows_its_odds_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    d = np.abs(rng.normal(0, 2, 100_000))
    wins = rng.random(len(d)) < 1 / (1 + np.exp(-d))
    honest = pair_metrics(np.where(wins, d, 0), np.where(wins, 0, d))
    boastful = pair_metrics(np.where(wins, 3 * d, 0), np.where(wins, 0, 3 * d))
    assert honest["calibration"] < 0.01
    assert boastful["calibration"] > 0.08
    assert boastful["log_loss"] > honest["log_loss"]
    assert boastful["accuracy"] == honest["accuracy"]


def test_extreme_rewards_stay_finite() -> None:
    got = pair_metrics([1e5, -1e5], [0.0, 0.0])
    assert got["log_loss"] == pytest.approx(5e4)
    assert got["calibration"] == pytest.approx(0.5)


def test_attributes_by_hand() -> None:
    target = np.array([[0.0, 1.0], [1.0, math.nan], [4.0, math.nan]])
    got = attribute_metrics(np.array([[0.0, 3.0], [2.0, 9.0], [1.0, 9.0]]), target, ["a", "b"])
    assert got["mse/a"] == pytest.approx((0 + 1 + 9) / 3)
    assert got["spearman/a"] == pytest.approx(0.5)  # one swap among three: 1 - 6 * 2 / (3 * 8)
    assert (got["mse/b"], got["num_labels/b"]) == (4.0, 1.0)
    assert math.isnan(got["spearman/b"])
    nothing = attribute_metrics(np.zeros((2, 1)), np.full((2, 1), math.nan), ["a"])
    assert math.isnan(nothing["mse/a"])
    assert nothing["num_labels/a"] == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_twin(values: list[tuple[int, int]]) -> None:
    x, y = (list(v) for v in zip(*values, strict=True))
    rank = lambda v, a: sum(b < a for b in v) + (sum(b == a for b in v) + 1) / 2  # noqa: E731
    rx, ry = [rank(x, a) for a in x], [rank(y, a) for a in y]
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(spearman(x, y))
        return
    assert spearman(x, y) == pytest.approx(float(np.corrcoef(rx, ry)[0, 1]))


def test_spearman_sees_only_the_order() -> None:
    x = np.random.default_rng(1).normal(size=50)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)


def test_normalisation() -> None:
    mean, std = normalisation([1.0, 3.0])
    assert (mean, std) == (2.0, 1.0)
    assert normalisation([5.0]) == (5.0, 1.0)
    assert normalisation([0.1] * 7)[1] == 1.0
    x = np.random.default_rng(2).normal(-7, 3, 1000)
    mean, std = normalisation(x)
    assert ((x - mean) / std).mean() == pytest.approx(0, abs=1e-9)
    assert ((x - mean) / std).std() == pytest.approx(1)


def test_wrong_inputs_are_refused() -> None:
    for call, message in (
        (lambda: pair_metrics([], []), "at least 1"),
        (lambda: pair_metrics([1.0], [1.0, 2.0]), "one length"),
        (lambda: pair_metrics([math.inf], [1.0]), "chosen must be finite"),
        (lambda: pair_metrics([1.0], [1.0], strength=[1.0, 2.0]), "strength has shape"),
        (lambda: pair_metrics([1.0], [1.0], bins=0), "at least one"),
        (lambda: pair_metrics([1.0], [1.0], bins=[2.0, 1.0]), "ascend"),
        (lambda: attribute_metrics(np.zeros((1, 2)), np.zeros((1, 2)), ["a"]), "1 names"),
        (lambda: attribute_metrics(np.full((1, 1), math.nan), np.zeros((1, 1)), ["a"]), "finite"),
        (lambda: spearman([1.0], [1.0, 2.0]), "shapes differ"),
        (lambda: normalisation([math.nan]), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
