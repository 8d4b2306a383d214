import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore.algorithms.config import AlgorithmConfig, KLKind, KLPlace
from rlcore.algorithms.policy_gradient import credit
from rlcore.data.batching.collate import collate
from rlcore.types import TrainBatch
from tests.algorithms.cases import group
from tests.algorithms.scenes import LIMIT, Scores, per_row, scene, trained_steps


def nash_twin(scores: Scores, batch: TrainBatch, m: float, kl_coef: float) -> list[float]:
    old, ref = (batch.padded(n).astype(np.float64) for n in ("old_logprobs", "ref_logprobs"))
    ratio = [sum(ref[b, t] - old[b, t] for t in steps) for b, steps in enumerate(trained_steps(batch))]
    out, start = [], 0
    for row in scores:
        for i, mine in enumerate(row):
            others = [j for j, score in enumerate(row) if j != i and score is not None]
            if mine is None or not others:
                out.append(0.0)
                continue
            weights = [math.exp(ratio[start + j]) ** m for j in others]
            wins = [1.0 if mine > row[j] else 0.5 if mine == row[j] else 0.0 for j in others]
            share = sum(w * p for w, p in zip(weights, wins, strict=True)) / sum(weights)
            out.append(share - 0.5 + kl_coef * ratio[start + i])
        start += len(row)
    return out


NASH = {"advantage": "nash_md", "kl_in": KLPlace.reward, "kl_kind": KLKind.k1}


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.3]),
)
def test_nash_twin(scores: Scores, seed: int, m: float, kl_coef: float) -> None:
    _, batch = scene(scores, seed)
    got = per_row(scores, seed=seed, nash_mixture=m, kl_coef=kl_coef, **NASH)
    assert got == pytest.approx(nash_twin(scores, batch, m, kl_coef), abs=1e-6)


def test_nash_by_hand() -> None:
    """Self-play counts wins: 1 beats both others, 0.5 beats one of two, 0 none; a tie is half a win."""
    assert per_row([[1.0, 0.0, 0.5]], nash_mixture=0.0, **NASH) == [0.5, -0.5, 0.0]
    assert per_row([[1.0, 1.0, 0.0]], nash_mixture=0.0, **NASH) == [0.25, 0.25, -0.5]
    assert per_row([[1.0, None], [2.0]], nash_mixture=0.0, **NASH) == [0.0, 0.0, 0.0]


def test_nash_kl_is_in_one_place() -> None:
    with_loss = per_row([[1.0, 0.0]], advantage="nash_md", kl_coef=0.3)
    assert with_loss == [0.5, -0.5]
    assert per_row([[1.0, 0.0]], kl_coef=0.3, **NASH) != with_loss


def test_nash_tends_to_the_papers_expectation() -> None:
    """Three answers of one token: samples in proportion to pi give `sum_j pi'(j) P(i > j) - 1/2`, pi' the mixture."""
    pi, ref, m = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6]), 0.6
    values = np.array([0.0, 1.0, 2.0])
    kinds = np.repeat(np.arange(3), (pi * 400).astype(int))
    groups = [group("a", values[kinds].tolist())]
    zeros = np.zeros((len(kinds), 3), np.float32)
    old, reference = zeros.copy(), zeros.copy()
    old[:, 2], reference[:, 2] = np.log(pi)[kinds], np.log(ref)[kinds]
    batch = collate(groups[0].trajectories).with_arrays(old_logprobs=old.ravel(), ref_logprobs=reference.ravel())
    out, _ = credit(groups, batch, AlgorithmConfig(nash_mixture=m, **NASH), 0.0, LIMIT)
    mixture = pi ** (1 - m) * ref**m
    mixture /= mixture.sum()
    wins = (np.sign(values[:, None] - values) + 1) / 2
    expected = wins @ mixture - 0.5
    assert out.advantages is not None
    np.testing.assert_allclose(out.padded("advantages")[:, 2], expected[kinds], atol=5e-3)
    assert abs(expected - (wins @ pi - 0.5)).max() > 0.1  # the mixture is not the policy


@pytest.mark.parametrize("missing", ["old_logprobs", "ref_logprobs"])
def test_nash_needs_both_log_probs(missing: str) -> None:
    groups, batch = scene([[1.0, 0.0]], without=[missing])
    with pytest.raises(ValueError, match=f"advantage=nash_md needs {missing}"):
        credit(groups, batch, AlgorithmConfig(advantage="nash_md"), 0.0, LIMIT)
