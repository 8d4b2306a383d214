"""The critic: the policy's architecture with a value head in place of the output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from actors.config.schema import ModelConfig
from actors.training.model_folder import load_model
from actors.training.scorer import Scorer, real
from actors.training.worker import ModelWorker


class ValueHead(nn.Linear):
    """One number per position, computed in float32 for every dtype, since bfloat16 has only three digits."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, t, hidden] to [b, t] float32."""
        return nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class ValueScorer(Scorer):
    """A value head on the body of a causal language model. A new head gives 0 for every context."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__(body)
        weight = next(body.parameters())
        self.head = ValueHead(width, 1, dtype=weight.dtype, device=weight.device)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.train(body.training)

    def score(self, tokens: Tensor, lengths: Tensor | None = None, packed: bool = False, **_: Any) -> Tensor:
        """The value of the context before each token, from the hidden state of the token before.

        Args:
            tokens: [b, t] int64, padded on the right with any id.
            lengths: [b] int64, tokens of each row that are real; None: all of them.
            packed: see `hidden_states`.

        Returns:
            [b, t] float32; column 0 and padding are 0.
        """
        values = self.head(self.hidden_states(tokens, lengths, packed))
        values = nn.functional.pad(values[:, :-1], (1, 0))
        return values if lengths is None else torch.where(real(tokens, lengths), values, 0.0)


def body_of(causal: nn.Module) -> tuple[nn.Module, int]:
    """A causal language model without its output layer, and the width of its hidden states.

    Every architecture has a class with an output layer, but few have one with a value head: so the layer is loaded and
    dropped.

    Raises:
        ValueError: the class has no separate body.
    """
    body = getattr(causal, "base_model", causal)
    output = causal.get_output_embeddings()  # type: ignore[operator]
    if body is causal or output is None:
        raise ValueError(f"{type(causal).__name__} has no separate body to put a value head on")
    weight = output.weight
    return body, getattr(weight, "ds_shape", weight.shape)[1]  # ZeRO-3 may have sharded it


def load_critic(path: str, model: ModelConfig) -> ValueScorer:
    """The body of a causal language model with a new head. All weights are trained; `model.lora` applies only to the
    policy.

    Raises:
        ValueError: see `load_model` and `body_of`.
    """
    return ValueScorer(*body_of(load_model(path, model)))


class CriticWorker(ModelWorker):
    """See `ModelWorker`. `initialize` also creates a new head, because a head trained on another body predicts noise.
    """

    NAME = "critic"

    def _load(self, path: str, model: ModelConfig, trainable: bool) -> Scorer:
        return load_critic(path, model)
