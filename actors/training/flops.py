"""Floating-point operations of a model, and the share of a GPU's peak that a phase used (MFU)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

# Dense bfloat16 operations per second by the vendors' data sheets; the first name that the device's contains counts.
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "H20": 148e12,
    "GB200": 2500e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12,
    "A10G": 70e12, "A10": 125e12, "A40": 150e12, "A6000": 155e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
    "MI300X": 1307e12, "MI325X": 1307e12, "MI250X": 383e12,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Operations of one sequence, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

    A forward pass over a sequence of T tokens takes 2 N T for the weights and 4 L H Q T^2 for the attention (layers L,
    heads H of width Q; the causal half that kernels may skip is counted, as usual). A backward pass takes twice that.
    What gradient checkpointing computes again is not counted: MFU is about useful work.
    """

    parameters: int  # N: active for one token, without the input embedding
    attention: int  # L * H * Q

    def forward(self, lengths: Iterable[int]) -> float:
        """
        >>> ModelFlops(parameters=1000, attention=10).forward([3, 5])
        17360.0
        """
        return float(sum(2 * self.parameters * t + 4 * self.attention * t * t for t in lengths))

    def training(self, lengths: Iterable[int]) -> float:
        """Forward and backward."""
        return 3 * self.forward(lengths)


def model_flops(model: Any) -> ModelFlops:
    """Counts the parameters of a transformers model; of experts only those that one token uses.

    A tied embedding counts once, as the output layer. Partitioned parameters (ZeRO-3) count whole.
    """
    config = model.config.get_text_config()
    experts = next((n for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
                    if isinstance(n := getattr(config, name, None), int) and n), 0)  # fmt: skip
    used = next((n for name in ("num_experts_per_tok", "moe_k", "moe_topk")
                 if isinstance(n := getattr(config, name, None), int) and n), 1)  # fmt: skip
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    count = 0.0
    for name, parameter in model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        if parameter is embedding.weight and not tied:
            continue
        count += size * used / experts if experts and ".experts." in name else size
    heads = getattr(config, "num_attention_heads", 0)  # 0: a model without attention
    width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    return ModelFlops(round(count), config.num_hidden_layers * heads * width)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Of the device, for bfloat16; None on a CPU, for other types, and for devices that are not listed."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)
