"""Float32 master weights of a bfloat16 model: written next to a folder, and read from one.

At small learning rates bfloat16 rounding removes most of a short training: after 40 steps of 1e-6, 88 % of the bfloat16
weights are unchanged. So the next training starts from the master weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from actors.config.schema import ModelConfig
from actors.training.reshard import write_partition
from actors.training.streaming import Shards, streamed

# Files of a folder. Safetensors content with another extension, because vLLM would load it as weights
STEM, SUFFIX = "masters", ".float32"


def write_masters(module: nn.Module, folder: Path | None) -> None:
    """Writes the master weights into the folder. A collective: ranks without a `folder` only gather."""
    from deepspeed.utils import safe_get_full_fp32_param

    shards = None if folder is None else Shards(folder, STEM, SUFFIX)
    for name, parameter in module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if shards is not None:
            shards.add(name, value.view(getattr(parameter, "ds_shape", parameter.shape)))
    if shards is not None:
        shards.close()


def restore_masters(module: nn.Module, path: str, config: ModelConfig) -> None:
    """Sets the master weights to the float32 values of the folder, which loading in bfloat16 has rounded.

    They come from its master weights, or else from its weights where these are not in bfloat16; one parameter at a
    time is whole in memory.
    """
    from deepspeed.utils import safe_set_full_fp32_param
    from transformers import AutoConfig, AutoModelForCausalLM

    parameters = dict(module.named_parameters(remove_duplicate=False))

    def place(name: str, value: Any) -> None:
        if (parameter := parameters.get(name)) is None:
            return
        if hasattr(parameter, "ds_id"):
            flat = value.to(parameter.device).flatten()
            write_partition(parameter, lambda kind, start, stop: flat[start:stop])
        else:
            safe_set_full_fp32_param(parameter, value.to(parameter.device))

    def place_and_drop(name: str, value: nn.Parameter) -> None:
        place(name, value.detach())
        value.data = torch.empty(0)

    code = {"trust_remote_code": config.trust_remote_code}
    files = sorted(Path(path).glob(f"{STEM}*{SUFFIX}"))
    for file in files:
        with safe_open(file, framework="pt", backend="pread") as held:
            for name in held.keys():  # noqa: SIM118
                place(name, held.get_tensor(name))
    if not files and AutoConfig.from_pretrained(path, **code).dtype is not torch.bfloat16:
        with streamed(place_and_drop):
            rest = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **code)
        for name, value in rest.named_parameters():
            if value.numel():
                place(name, value.detach())
