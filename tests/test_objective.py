import math

import numpy as np
import torch

from rlcore.metrics import Mean
from rlcore.objective import TensorBatch, means, zero_loss
from rlcore.types import TrainBatch
from tests.algorithms.cases import train_batch


def test_tensors_are_copies_of_read_only_arrays() -> None:
    batch = train_batch()
    tensors = TensorBatch.from_train_batch(batch, "cpu")
    assert tensors.tokens.dtype == torch.int64
    assert (tensors.lengths.dtype, tensors.loss_mask.dtype) == (torch.int64, torch.bool)
    assert tensors.lengths.tolist() == batch.lengths.tolist()
    for name in TrainBatch.ARRAYS:
        tensor, array = getattr(tensors, name), getattr(batch, name)
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), batch.padded(array))
        tensor.zero_()
        assert array.any()  # not the same memory
    tensors.tokens.zero_()
    assert batch.tokens.any()


def test_missing_arrays_stay_missing() -> None:
    tensors = TensorBatch.from_train_batch(train_batch(without=["ref_logprobs", "values"]), torch.device("cpu"))
    assert tensors.ref_logprobs is None
    assert tensors.values is None
    assert tensors.old_logprobs is not None


def test_zero_loss_has_a_gradient_path_whatever_it_is_given() -> None:
    x = torch.tensor([[-math.inf, math.nan, -1.0]], requires_grad=True)
    loss = zero_loss(x)
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 0]]


def test_means_keep_their_count() -> None:
    assert means({"a": torch.tensor(0.5), "b": torch.tensor(2.0)}, 4) == {"a": Mean(2.0, 4), "b": Mean(8.0, 4)}
    assert means({}, 4) == {}
