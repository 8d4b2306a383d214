"""torch.compile for the layers of a model."""

from __future__ import annotations

from torch import nn


def decoder_layers(hf: nn.Module) -> list[nn.Module]:
    """The repeated layers of a Hugging Face model, in order; empty if its class keeps them in an unknown way."""
    count = getattr(hf.config, "num_hidden_layers", None)
    lists = [m for m in hf.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(lists[0]) if lists else []


def compile_layers(hf: nn.Module, backend: str = "inductor") -> None:
    """Compiles each layer in place at its first call, for all shapes at once; names of parameters stay.

    Layers are compiled one by one: equal layers share the compiled code, and the output layer, which is computed in
    chunks, stays as it is.

    Raises:
        ValueError: the layers cannot be found.
    """
    layers = decoder_layers(hf)
    if not layers:
        raise ValueError(f"engine.compile=true finds no layers in {type(hf).__name__}: set it to false")
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
