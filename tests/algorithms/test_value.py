"""The critic's objective."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from rlcore import metrics as M
from rlcore.algorithms.value import ValueObjective
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import TrainBatch
from tests.algorithms.cases import MASK, grid, train_batch


def batch(seed: int = 3) -> TrainBatch:
    rng = np.random.default_rng(seed)
    values, returns = (rng.normal(size=MASK.shape).astype(np.float32) for _ in range(2))
    train = train_batch()
    return train.with_arrays(values=train.flat(values), returns=train.flat(returns))


def moved(train: TrainBatch, by: float = 0.5, seed: int = 4) -> torch.Tensor:
    """The critic's values now: some have moved further than the clip from those at batch start."""
    noise = np.random.default_rng(seed).normal(0, by, MASK.shape)
    assert train.values is not None
    return torch.tensor(train.padded("values") + noise, dtype=torch.float32)


@pytest.mark.parametrize("clip", [0.2, None])
def test_a_loop_over_tokens_in_float64(clip: float | None) -> None:
    train = batch()
    rows = grid(train)
    new = moved(train).requires_grad_()
    objective = ValueObjective(clip)
    loss, metrics = objective.loss(Outputs(new), TensorBatch.from_train_batch(train), objective.denominator(train))
    total, held_back, errors, targets = 0.0, 0, [], []
    for b, t in zip(*np.nonzero(MASK), strict=True):
        v, old, target = new[b, t].item(), float(rows.values[b, t]), float(rows.returns[b, t])
        error = (v - target) ** 2
        if clip is not None:
            other = (min(max(v, old - clip), old + clip) - target) ** 2
            held_back += other > error
            error = max(error, other)
        total += error / 2
        errors.append(target - old)
        targets.append(target)
    n = int(MASK.sum())
    got = M.values(metrics)
    assert loss.item() == pytest.approx(total / n, rel=1e-5)
    assert got["critic/vf_loss"] == pytest.approx(total / n, rel=1e-5)
    assert got["critic/vf_clipfrac"] == pytest.approx(held_back / n)
    assert (held_back > 0) == (clip is not None)
    assert got["critic/values/mean"] == pytest.approx(rows.values[MASK].mean(), rel=1e-5)
    assert got["critic/returns/mean"] == pytest.approx(np.mean(targets), rel=1e-5)
    assert got["critic/explained_variance"] == pytest.approx(1 - np.var(errors) / np.var(targets), rel=1e-5)
    loss.backward()
    assert new.grad is not None
    assert not new.grad[~torch.tensor(MASK)].any()


@pytest.mark.parametrize("parts", [[[4, 0], [3], [1, 2]], [[0], [1], [2], [3], [4]]])
def test_any_split_gives_the_same_loss_gradient_and_metrics(parts: list[list[int]]) -> None:
    train = batch()
    objective = ValueObjective()
    denominator = objective.denominator(train)
    assert denominator == MASK.sum()
    seen = []
    for rows in ([[0, 1, 2, 3, 4]], parts):
        new = moved(train).requires_grad_()
        tensors = [TensorBatch.from_train_batch(train.select(p)) for p in rows]
        outs = [
            objective.loss(Outputs(new[p, : x.tokens.shape[1]]), x, denominator)
            for p, x in zip(rows, tensors, strict=True)
        ]
        loss = sum(out[0] for out in outs)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        seen.append((loss.item(), new.grad, M.values(M.merge(out[1] for out in outs))))
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-6)
    torch.testing.assert_close(seen[0][1], seen[1][1])
    assert seen[0][2] == pytest.approx(seen[1][2], rel=1e-5)


def test_rows_without_a_loss_token_give_zero_with_a_gradient_path_and_no_metrics() -> None:
    train = batch().select([3])
    assert train.num_loss_tokens == 0
    new = torch.full((1, int(train.lengths[0])), torch.nan, requires_grad=True)
    loss, metrics = ValueObjective().loss(Outputs(new), TensorBatch.from_train_batch(train), 5.0)
    loss.backward()
    assert loss.item() == 0.0
    assert new.grad is not None
    assert not new.grad.any()
    assert metrics == {}


@pytest.mark.parametrize("name", ["values", "returns"])
def test_a_batch_that_lacks_something_is_named(name: str) -> None:
    train = dataclasses.replace(batch(), **{name: None})
    with pytest.raises(ValueError, match=f"needs {name}, the batch has none"):
        ValueObjective().loss(Outputs(torch.zeros(MASK.shape)), TensorBatch.from_train_batch(train), 1.0)


def test_travels_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(ValueObjective(0.3))) == ValueObjective(0.3)
