"""Objectives of training workers, and their input tensors.

A worker is independent of the algorithm: it runs its model on a micro-batch, passes the `Outputs` of the model's head
to `loss`, and calls `backward`. The denominator is counted once over the whole optimizer batch, before any split, so
that the losses of all micro-batches and ranks add up to the loss of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlcore.metrics import Mean, Metrics
from rlcore.types import TrainBatch

OF_TOKENS = ("tokens", "loss_mask", *TrainBatch.ARRAYS)
# all others are float32
DTYPES = {"tokens": torch.int64, "lengths": torch.int64, "loss_mask": torch.bool, "by_opponent": torch.bool}


@dataclass
class TensorBatch:
    """A `TrainBatch` on a device: b rows, here padded on the right to t tokens; fields as described there."""

    tokens: Tensor  # [b, t] int64
    lengths: Tensor  # [b] int64
    loss_mask: Tensor  # [b, t] bool
    rollout_logprobs: Tensor | None = None  # [b, t] float32, as are all up to `advantages`
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    advantages: Tensor | None = None
    scores: Tensor | None = None  # [b] float32
    targets: Tensor | None = None  # [b, K] float32
    strengths: Tensor | None = None  # [b] float32, as are the next two
    labels: Tensor | None = None
    weights: Tensor | None = None
    by_opponent: Tensor | None = None  # [b] bool

    @classmethod
    def from_train_batch(cls, batch: TrainBatch, device: torch.device | str = "cpu") -> TensorBatch:
        """Pads the arrays and copies them to `device`."""
        arrays: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(cls)}
        for name, array in arrays.items():
            if array is not None:
                array = batch.padded(array) if name in OF_TOKENS else array
                arrays[name] = torch.tensor(array, dtype=DTYPES.get(name, torch.float32), device=device)
        return cls(**arrays)


@dataclass
class Outputs:
    """Outputs of a model's head for the b rows of a micro-batch, in float32 and with gradient."""

    numbers: Tensor  # [b, t] log-probs of a language model or values of a critic, [b, K] scores of a reward model
    entropy: Tensor | None = None  # [b, t] nats; only of a language model, on request


class Objective(Protocol):
    """A loss. Implementations are picklable dataclasses, because they are sent to the workers."""

    @property
    def needs_entropy(self) -> bool: ...
    @property
    def temperature(self) -> float:
        """Temperature of the log-probs and entropy for `loss`; 1 if the model is not a language model."""
        ...

    def denominator(self, batch: TrainBatch) -> Any:
        """Denominator of the loss, counted over the whole optimizer batch before any split; 0 without trained tokens.
        """
        ...

    def loss(self, outputs: Outputs, batch: TensorBatch, denominator: Any) -> tuple[Tensor, Metrics]:
        """A scalar whose sum over micro-batches and ranks is the loss of the whole batch, and self-reducing metrics.

        Rows without a loss token give exactly 0, with a gradient path, and no metrics.

        Args:
            denominator: of the optimizer batch, from `denominator`.

        Raises:
            ValueError: the batch lacks an array that the loss needs.
        """
        ...


def zero_loss(numbers: Tensor) -> Tensor:
    """0 with a gradient path to every parameter, also if values are NaN or infinite (unlike a product with 0)."""
    return numbers.masked_fill(torch.ones_like(numbers, dtype=torch.bool), 0.0).sum()


def needed(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"the objective needs {name}, the batch has none")
    return tensor


def whole_pairs(mask: Tensor) -> Tensor:
    """[pairs] first rows of the pairs with loss tokens, of a [b, t] loss mask; a last row of padding may stand alone.

    Raises:
        ValueError: one row of a pair has loss tokens, the other has none.
    """
    trained = mask.any(1)
    rows = F.pad(trained, (0, len(trained) % 2)).view(-1, 2)
    if bool((rows[:, 0] != rows[:, 1]).any()):
        raise ValueError("half a pair: rows 2i and 2i + 1 must both have loss tokens, or none")
    return 2 * rows[:, 0].nonzero().squeeze(1)


def means(scalars: Mapping[str, Tensor], count: float) -> Metrics:
    """Scalar means over `count` things each, as `Mean`s; moved off the device together, in one wait."""
    if not scalars:
        return {}
    values = torch.stack([value.detach().double() for value in scalars.values()]).tolist()
    return {name: Mean(value * count, count) for name, value in zip(scalars, values, strict=True)}
