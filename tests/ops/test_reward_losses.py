import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore.ops.masking import masked_mean
from rlcore.ops.reward_losses import (
    attribute_regression,
    bradley_terry,
    grade_cross_entropy,
    smoothed_labels,
    soft_label,
)
from tests.ops.cases import Case, assert_twins, cases, per_token


def test_by_hand() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    plain = bradley_terry(chosen, rejected)
    assert plain.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))])
    with_margin = bradley_terry(chosen, rejected, torch.tensor([1.0, 0.0]))
    assert with_margin.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2))])
    soft = soft_label(chosen, rejected, torch.tensor([1.0, 0.25]))
    low = 0.25 * math.log(1 + math.exp(2)) + 0.75 * math.log(1 + math.exp(-2))
    assert soft.tolist() == pytest.approx([plain[0].item(), low])


@given(st.integers(1, 5), st.integers(0, 2**31))
def test_twins(pairs: int, seed: int) -> None:
    x = 3 * torch.randn(3, pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = torch.sigmoid(x[2])
    win = lambda c, i: torch.exp(c[i]) / (torch.exp(c[i]) + torch.exp(x[1, i]))  # noqa: E731
    assert_twins(
        lambda c: bradley_terry(c, x[1], x[2]),
        lambda c: torch.stack([-torch.log(1 / (1 + torch.exp(x[1, i] + x[2, i] - c[i]))) for i in range(pairs)]),
        x[0],
    )
    assert_twins(
        lambda c: soft_label(c, x[1], target),
        lambda c: torch.stack(
            [-target[i] * torch.log(win(c, i)) - (1 - target[i]) * torch.log(1 - win(c, i)) for i in range(pairs)]
        ),
        x[0],
    )


def test_a_soft_label_is_smallest_where_the_chance_is_right() -> None:
    chosen = torch.tensor([math.log(3.0)], dtype=torch.float64, requires_grad=True)
    soft_label(chosen, torch.zeros_like(chosen), torch.full_like(chosen, 0.75)).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-12)


@given(cases())
def test_attributes_twin(case: Case) -> None:
    target = case.normal()
    assert_twins(
        lambda x: attribute_regression(x, case.spoiled(target), case.mask),
        lambda x: per_token(case.mask, lambda b, k: (x[b, k] - target[b, k]) ** 2),
        case.normal(),
    )


def test_attributes_by_hand() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    loss = attribute_regression(torch.tensor([[1.0, 9.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [2.0, 1.0]]), mask)
    assert loss.tolist() == [[4.0, 0.0], [0.0, 1.0]]
    assert masked_mean(loss, mask).item() == pytest.approx(5 / 3)


def test_sure_labels_are_bradley_terry_and_margins_shift() -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = bradley_terry(*x)
    torch.testing.assert_close(soft_label(*x, torch.ones(6, dtype=torch.float64)), plain)
    torch.testing.assert_close(soft_label(*x, torch.zeros(6, dtype=torch.float64)), bradley_terry(x[1], x[0]))
    margin = torch.full((6,), 0.7, dtype=torch.float64)
    torch.testing.assert_close(bradley_terry(x[0], x[1], margin), bradley_terry(x[0] - 0.7, x[1]))
    torch.testing.assert_close(bradley_terry(x[0] + 5, x[1] + 5), plain)  # a constant of the prompt does not matter
    assert (bradley_terry(x[0], x[1], margin) > plain).all()


@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_extreme_rewards_stay_finite(gap: float) -> None:
    for loss in (
        lambda c: bradley_terry(c, torch.zeros(1)),
        lambda c: bradley_terry(c, torch.zeros(1), torch.ones(1)),
        lambda c: soft_label(c, torch.zeros(1), torch.tensor([0.8])),
    ):
        chosen = torch.tensor([gap], requires_grad=True)
        out = loss(chosen)
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert chosen.grad is not None
        assert torch.isfinite(chosen.grad).all()
    assert bradley_terry(torch.tensor([1.0]).bfloat16(), torch.tensor([0.0]).bfloat16()).dtype == torch.float32


def test_attributes_without_labels() -> None:
    """Rows that nobody labelled give 0 and a gradient of 0, whatever the prediction."""
    pred = torch.tensor([[math.nan, math.inf], [1.0, 2.0]], requires_grad=True)
    mask = torch.tensor([[False, False], [True, False]])
    loss = attribute_regression(pred, torch.full((2, 2), math.nan).nan_to_num(3.0), mask)
    masked_mean(loss, mask).backward()
    assert loss.tolist() == [[0.0, 0.0], [4.0, 0.0]]
    assert pred.grad is not None
    assert pred.grad.tolist() == [[0.0, 0.0], [-4.0, 0.0]]


def test_wrong_inputs_are_refused() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="shapes differ"):
        bradley_terry(x, x, torch.zeros(1))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        soft_label(x, x, torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="shapes differ"):
        attribute_regression(x, x, torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="no distribution"):
        grade_cross_entropy(torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match="shapes differ"):
        grade_cross_entropy(torch.zeros(1, 3), torch.zeros(1, 2))


def test_grades_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(2.0), 0.0], [1.0, 1.0, 1.0]])  # chances 1/4, 1/2, 1/4 and a third each
    target = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    assert grade_cross_entropy(logits, target).tolist() == pytest.approx([math.log(2), math.log(3)])
    half = grade_cross_entropy(logits.bfloat16(), target)
    assert half.dtype == torch.float32


@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31))
def test_grades_twin(rows: int, classes: int, seed: int) -> None:
    x = 3 * torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = x[1].softmax(1)

    def slow(logits: torch.Tensor) -> torch.Tensor:
        found = []
        for i in range(rows):
            total = sum(torch.exp(logits[i, c]) for c in range(classes))
            found.append(-sum(target[i, c] * torch.log(torch.exp(logits[i, c]) / total) for c in range(classes)))
        return torch.stack(found)  # type: ignore[arg-type]

    assert_twins(lambda logits: grade_cross_entropy(logits, target), slow, x[0])


def test_smoothing_by_hand() -> None:
    labels = np.array([1.0, 1.0, 0.65])
    # a sure model (9 : 1), an unsure one, one that says the opposite (1 : 3)
    got = smoothed_labels(labels, [math.log(9.0), 0.0, 0.0], [0.0, 0.0, math.log(3.0)], 0.4)
    assert got.tolist() == pytest.approx([0.6 + 0.4 * 0.9, 0.6 + 0.4 * 0.5, 0.6 * 0.65 + 0.4 * 0.25])
    assert labels.tolist() == [1.0, 1.0, 0.65]
    assert smoothed_labels(labels, [1e6, -1e6, 0.0], [0.0, 0.0, 0.0], 1.0).tolist() == [1.0, 0.0, 0.5]
    assert smoothed_labels(labels, [5.0] * 3, [0.0] * 3, 0.0).tolist() == labels.tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 2**31))
def test_smoothing_twin(labels: list[float], beta: float, seed: int) -> None:
    chosen, rejected = 5 * np.random.default_rng(seed).normal(size=(2, len(labels)))
    slow = [
        (1 - beta) * y + beta * math.exp(c) / (math.exp(c) + math.exp(r))
        for y, c, r in zip(labels, chosen, rejected, strict=True)
    ]
    assert smoothed_labels(labels, chosen, rejected, beta).tolist() == pytest.approx(slow, rel=1e-12)


def test_smoothing_spares_the_frequent_and_fades_the_rare() -> None:
    """The paper's three arms: two compared a thousand times, 3 : 2, the third once, and it lost by chance.

    Cross-entropy on fixed labels drives the third arm's reward to minus infinity; smoothing stops it, and keeps the
    odds of the other two.
    """
    chosen, rejected, counts = [0, 1, 0], [1, 0, 2], torch.tensor([600.0, 400.0, 1.0], dtype=torch.float64)
    gaps = {}
    for beta in (0.0, 0.02):
        rewards, labels = torch.zeros(3, dtype=torch.float64, requires_grad=True), np.ones(3)
        for _ in range(4000):
            loss = (counts * soft_label(rewards[chosen], rewards[rejected], torch.tensor(labels))).sum()
            (gradient,) = torch.autograd.grad(loss, rewards)
            with torch.no_grad():
                rewards -= 2e-3 * gradient
            r = rewards.detach().numpy()
            labels = smoothed_labels(labels, r[chosen], r[rejected], beta)
        gaps[beta] = (float(r[0] - r[1]), float(r[0] - r[2]))
    assert gaps[0.0][0] == pytest.approx(math.log(1.5), abs=1e-3)
    assert gaps[0.0][1] > 2.0  # and still growing: nothing ever says otherwise
    assert gaps[0.02][0] == pytest.approx(math.log(1.5), abs=0.05)
    assert gaps[0.02][1] < 0.3


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes must be equal"):
        smoothed_labels([1.0], [1.0, 2.0], [0.0, 0.0], 0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        smoothed_labels([1.5], [1.0], [0.0], 0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        smoothed_labels([1.0], [1.0], [0.0], 1.5)
    with pytest.raises(ValueError, match="finite"):
        smoothed_labels([1.0], [math.nan], [0.0], 0.5)
