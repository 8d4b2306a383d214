"""The critic under DeepSpeed: the policy's architecture with a value head in place of the output layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from actors.config.schema import EngineConfig, LoraConfig, ModelConfig
from actors.training.engine import TrainEngine
from actors.training.model_folder import load_model
from actors.training.scorer import Scorer
from rlcore.types import Float32, TrainBatch


class ValueHead(nn.Linear):
    """One number per position, computed in float32 whatever the weights' dtype: bfloat16 has three digits."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, t, hidden] to [b, t] float32."""
        return nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class ValueScorer(Scorer):
    """Values of contexts under the body of a causal language model, held as `hf`. The head starts at zero."""

    def __init__(self, hf: nn.Module, width: int, head: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(hf)
        weight = next(hf.parameters())
        self.head = ValueHead(width, 1, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            for name, parameter in self.head.named_parameters():
                parameter.copy_(head[name]) if head else parameter.zero_()
        self.train(hf.training)

    def score(self, tokens: Tensor, lengths: Tensor | None = None, packed: bool = False) -> Tensor:
        """The value of the context before each token, from the hidden state of the token before; column 0 is 0.

        Args:
            tokens: [b, t] int64, padded on the right with any id.
            lengths: [b] int64, tokens of each row that are real; None: all of them.
            packed: see `hidden_states`.

        Returns:
            [b, t] float32. Values at padding mean nothing.
        """
        values = self.head(self.hidden_states(tokens, lengths, packed))
        return nn.functional.pad(values[:, :-1], (1, 0))


def body_of(causal: nn.Module) -> tuple[nn.Module, int]:
    """A causal language model without its output layer, and the width of the hidden states that went into that.

    Every architecture has a class with an output layer, few have one with a value head: so it is read and dropped.

    Raises:
        ValueError: the class keeps no body apart.
    """
    body = getattr(causal, "base_model", causal)
    output = causal.get_output_embeddings()  # type: ignore[operator]
    if body is causal or output is None:
        raise ValueError(f"{type(causal).__name__} has no body of its own to put a value head on")
    return body, output.weight.shape[1]


class ValueEngine(TrainEngine):
    """One rank of the critic. All its weights are trained: `model.lora` is the policy's alone.

    Args:
        head: `head_state` of another engine; None starts at zero, so that every value is 0.

    Raises:
        ValueError: as `TrainEngine`, or a model that hides its body.
    """

    def __init__(
        self,
        model_path: str,
        model: ModelConfig,
        engine: EngineConfig,
        device: str,
        head: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._head, self._width = head, 0
        super().__init__(model_path, replace(model, lora=LoraConfig()), engine, device)

    def _load(self, path: str, model: ModelConfig) -> nn.Module:
        body, self._width = body_of(load_model(path, model))
        return body

    def _wrap(self, module: nn.Module) -> nn.Module:
        return ValueScorer(module, self._width, self._head)

    @property
    def _has_masters(self) -> bool:
        """No folder holds those of a critic: its body has other names, its head is new."""
        return False

    def forward_values(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `ValueScorer.score`; with gradient unless torch.no_grad() is on."""
        values: Tensor = self.run(tokens, lengths, self._packing)
        return values

    @torch.no_grad()
    def values(self, shard: TrainBatch, micro_batches: Sequence[Sequence[int]]) -> Float32:
        """Values of the contexts before every token.

        Args:
            shard: b rows, padded on the right to T.
            micro_batches: rows of each pass; every row in exactly one. Under ZeRO-3 every rank must have the same
                number of them; an empty one still takes part in the gathering.

        Returns:
            [b, T] float32; index 0 and padding are 0.
        """
        result = np.zeros(shard.tokens.shape, dtype=np.float32)
        for rows in micro_batches:
            if len(rows) == 0:
                if self.stage == 3:
                    self.forward_values(torch.zeros(1, 2, dtype=torch.int64, device=self.device))
                continue
            micro = shard.select(rows)
            tokens, lengths = (
                torch.tensor(a, dtype=torch.int64, device=self.device) for a in (micro.tokens, micro.lengths)
            )
            values = self.forward_values(tokens, lengths).cpu().numpy()
            real = np.arange(values.shape[1]) < micro.lengths[:, None]
            result[np.asarray(rows), : values.shape[1]] = np.where(real, values, 0.0)
        return result

    def head_state(self) -> dict[str, Tensor]:
        """A copy of the head's weights on the CPU. A collective."""
        head: nn.Module = self.scorer.head  # type: ignore[assignment]
        with self._gathered(list(head.parameters())):
            return {name: p.detach().to("cpu", copy=True) for name, p in head.named_parameters()}
