"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) in a Hugging Face model, and its merged weights.

peft adds the adapters. This module merges weights, because ZeRO shards them one by one and replaces their storage,
which peft's merging of whole modules does not support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actors.config.schema import LoraConfig

ADAPTER = "default"  # peft's name of the only adapter


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the plain model: W, or W + scaling B A with an adapter."""

    names: list[str]  # Hugging Face names; several if tied
    base: Tensor  # [out, in] with an adapter
    a: Tensor | None = None  # [rank, in]
    b: Tensor | None = None  # [out, rank]
    scaling: float = 1.0
    transposed: bool = False  # the layer stores [in, out], as GPT-2's do

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in (self.base, self.a, self.b) if p is not None]

    @property
    def num_bytes(self) -> int:
        """Of the plain weight, each of its names counted; under ZeRO-3 of the whole, not of the shard."""
        return int(getattr(self.base, "ds_numel", self.base.numel())) * self.base.element_size() * len(self.names)

    @torch.no_grad()
    def value(self) -> Tensor:
        """The plain weight in its own dtype; added up in float32. The parameters must be whole here."""
        if self.a is None or self.b is None:
            return self.base.detach()
        delta = self.scaling * (self.b.float() @ self.a.float())
        return (self.base.float() + (delta.T if self.transposed else delta)).to(self.base.dtype)


def add_adapters(hf: nn.Module, config: LoraConfig, seed: int) -> None:
    """Adds adapters to the target layers and freezes all other weights. Outputs are unchanged, because B is 0.

    Args:
        hf: a Hugging Face causal language model; changed in place.
        seed: of A; must be equal on all ranks.

    Raises:
        ValueError: a rank below 1, a dropout outside [0, 1), a target that names no linear layer, or a tied output
            layer as target.
    """
    import peft

    if config.rank < 1:
        raise ValueError(f"model.lora.rank={config.rank}: adapters have a rank of at least 1")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"model.lora.dropout={config.dropout} must be at least 0 and below 1")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=target_layers(hf, config.targets),
    )
    training = hf.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, hf, adapter_name=ADAPTER)
    hf.train(training)


def target_layers(hf: nn.Module, wanted: Sequence[str]) -> list[str]:
    """Full names of the linear layers that get an adapter: those with a name equal to or ending in one of `wanted`.

    Without `wanted` all but the output layer.

    Raises:
        ValueError: a name that matches no linear layer, or the output layer if it is tied to the embedding.
    """
    from transformers.pytorch_utils import Conv1D

    head: Any = hf.get_output_embeddings()  # type: ignore[operator]
    linear = {name: layer for name, layer in hf.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    found = [name for name, layer in linear.items() if layer is not head]
    if wanted:
        fits = {w: [n for n in linear if n == w or n.endswith(f".{w}")] for w in wanted}
        if unknown := [w for w, names in fits.items() if not names]:
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise ValueError(f"model.lora.targets: no linear layer is called {', '.join(unknown)}; there are {known}")
        found = list(dict.fromkeys(name for names in fits.values() for name in names))
    tied = head is not None and head.weight is hf.get_input_embeddings().weight  # type: ignore[operator]
    if tied and any(linear[name] is head for name in found):
        raise ValueError("model.lora.targets: the output layer is tied to the embedding and can have no adapter alone")
    return found


def weights(hf: nn.Module) -> list[Weight]:
    """Every weight of the plain model once, with or without adapters, in parameter order."""
    names: dict[Tensor, list[str]] = {}
    for name, parameter in hf.named_parameters(remove_duplicate=False):
        if ".lora_" not in name:
            names.setdefault(parameter, []).append(name.replace(".base_layer.", "."))
    adapted = {layer.base_layer.weight: layer for layer in adapted_layers(hf)}
    found = []
    for base, known_as in names.items():
        layer = adapted.get(base)
        if layer is None:
            found.append(Weight(known_as, base))
            continue
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        found.append(Weight(known_as, base, a, b, float(layer.scaling[ADAPTER]), bool(layer.fan_in_fan_out)))
    return found


def adapted_layers(hf: nn.Module) -> list[Any]:
    """The layers that have an adapter; none in a plain model."""
    return [layer for layer in hf.modules() if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")]


def dropouts(hf: nn.Module) -> list[nn.Module]:
    """The dropout layers of the adapters; a rate of 0 makes none."""
    return [d for layer in adapted_layers(hf) for d in layer.lora_dropout.values() if isinstance(d, nn.Dropout)]
