import pickle

import pytest
import torch

from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.objective import Objective, Outputs, TensorBatch
from tests.algorithms.cases import MASK, policy_logprobs, train_batch


def test_mean_over_the_loss_tokens() -> None:
    objective: Objective = SupervisedObjective()
    batch, logprobs = train_batch(), policy_logprobs().requires_grad_()
    assert objective.denominator(batch) == MASK.sum()
    loss, metrics = objective.loss(Outputs(logprobs), TensorBatch.from_train_batch(batch), objective.denominator(batch))
    loss.backward()
    expected = -float(logprobs.detach().double()[torch.tensor(MASK)].mean())
    assert loss.item() == pytest.approx(expected)
    assert M.values(metrics)["sft/loss"] == pytest.approx(expected)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -torch.tensor(MASK).float() / MASK.sum())


def test_any_split_gives_the_same_loss_gradient_and_metric() -> None:
    objective = SupervisedObjective()
    batch, start = train_batch(), policy_logprobs()
    denominator = objective.denominator(batch)
    gradients, losses, merged = [], [], []
    for parts in ([[0, 1, 2, 3, 4]], [[4, 0], [3], [1, 2]]):
        logprobs = start.clone().requires_grad_()
        tensors = [TensorBatch.from_train_batch(batch.select(p)) for p in parts]
        outs = [
            objective.loss(Outputs(logprobs[p, : x.tokens.shape[1]]), x, denominator)
            for p, x in zip(parts, tensors, strict=True)
        ]
        sum(loss for loss, _ in outs).backward()
        gradients.append(logprobs.grad)
        losses.append(sum(loss.item() for loss, _ in outs))
        merged.append(M.values(M.merge(m for _, m in outs))["sft/loss"])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert merged[0] == pytest.approx(losses[0], rel=1e-6)
    assert merged[0] == pytest.approx(merged[1], rel=1e-6)


def test_travels_to_a_worker() -> None:
    copy = pickle.loads(pickle.dumps(SupervisedObjective()))
    assert copy == SupervisedObjective()
    assert not copy.needs_entropy
    assert copy.temperature == 1.0
