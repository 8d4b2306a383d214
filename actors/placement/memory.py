"""Estimates the memory of a worker of each role, and the share of a GPU for a rollout engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from actors.config.schema import Config, DType, ModelConfig
from actors.placement.placement import together
from rlcore.ops.logprobs import CHUNK_ELEMENTS

GIB = 2**30
CHARACTERS = 2 + 256  # vocabulary of the tiny model: special tokens and every byte
PROCESS_BYTES = 1.5 * GIB  # of a CUDA process without tensors: context, kernels, cuBLAS workspace
TURNS, TOGETHER = 0.94, 0.75  # share of the free memory for an engine that takes turns, or runs together


@dataclass(frozen=True, slots=True)
class Shape:
    """Model sizes that determine memory: parameters, vocabulary entries, layers, and key/value width per layer."""

    parameters: int
    vocabulary: int
    layers: int
    kv_width: int

    def kv_bytes(self, bytes_each: int) -> int:
        """Bytes of one token: keys and values of all layers."""
        return 2 * self.layers * self.kv_width * bytes_each


def model_shape(model: ModelConfig) -> Shape:
    """Sizes from the model's config; reads no weights.

    Raises:
        ModelError, OSError, ValueError: the config of `model.path` cannot be read.
    """
    from actors.training.models import count_parameters

    parameters = count_parameters(model)
    if model.path is None:
        tiny = model.tiny
        return Shape(parameters, CHARACTERS, tiny.num_layers, tiny.hidden_size)
    from transformers import AutoConfig

    extra = {"gguf_file": model.gguf_file} if model.gguf_file else {}
    path = str(Path(model.path).expanduser()) if Path(model.path).expanduser().is_dir() else model.path
    hf = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code, **extra).get_text_config()
    heads = hf.num_attention_heads
    kv_heads = getattr(hf, "num_key_value_heads", None) or heads
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // heads
    return Shape(parameters, hf.vocab_size, hf.num_hidden_layers, kv_heads * head_dim)


def trainer_bytes(config: Config, shape: Shape, role: str = "policy") -> dict[str, float]:
    """Bytes on one worker of the policy or the critic, by purpose.

    Stages as in ZeRO (arXiv 1910.02054): 1 splits master weights and Adam states over the ranks, 2 the gradients too,
    3 the weights too. bfloat16 adds float32 master weights and runs stage 0 as 1. The policy has logits for one chunk
    of positions at a time; the critic has none, and its head is counted like an output layer. Activations are not
    included: with gradient checkpointing they are small compared with the weights; without, they grow with
    `trainer.max_tokens_per_micro_batch`.
    """
    ranks, p = max(getattr(config.cluster.roles, role).num_workers, 1), shape.parameters
    low = config.model.dtype is DType.bfloat16
    stage = max(config.engine.zero_stage, 1 if low else 0)
    split = [ranks if stage >= needed else 1 for needed in (3, 2, 1)]
    bytes_each = 2 if low else 4
    held = {
        "weights": p * bytes_each / split[0],
        "gradients": 4 * p / split[1],
        "master weights": 4 * p / split[2] if stage else 0.0,
        "Adam states": 8 * p / split[2],
    }
    if role == "policy":
        logits = min(config.trainer.max_tokens_per_micro_batch, max(1, CHUNK_ELEMENTS // shape.vocabulary))
        logit_bytes = 4 if config.model.float32_head else bytes_each
        held["logits and their gradient"] = 2.0 * logits * shape.vocabulary * logit_bytes
    return held


def reserved_bytes(config: Config, shape: Shape) -> float:
    """Bytes that other roles use on the GPU of a rollout engine while it samples."""
    roles, held = config.cluster.roles, 0.0
    bytes_each = 2 if config.model.dtype is DType.bfloat16 else 4
    host = {"master weights", "Adam states"} if config.engine.offload_optimizer else set()
    for name in ("policy", "critic", "reference", "reward"):
        if not getattr(roles, name).num_workers or not together(roles, name, "rollout"):
            continue
        held += PROCESS_BYTES
        if name in ("policy", "critic"):
            held += sum(size for what, size in trainer_bytes(config, shape, name).items() if what not in host)
        else:
            split = getattr(roles, name).num_workers if config.engine.zero_stage == 3 else 1
            held += shape.parameters * bytes_each / split
    return held + (3 * config.rollout.sync_bucket_mb * 2**20 if held else 0)  # two buckets, and the engine's copy


def engine_share(config: Config, shape: Shape, gpu_bytes: float) -> float:
    """`rollout.gpu_memory_utilization`, or the share that the other roles leave; 0 if none is left."""
    if config.rollout.gpu_memory_utilization is not None:
        return config.rollout.gpu_memory_utilization
    return free_share(reserved_bytes(config, shape), gpu_bytes, config.rollout.sleep_level > 0)


def free_share(reserved: float, gpu_bytes: float, turns: bool) -> float:
    """The share of a GPU for an engine next to `reserved` bytes. `turns`: it sleeps while the others compute.

    >>> round(free_share(0, 80 * GIB, False), 3)
    0.92
    >>> round(free_share(40 * GIB, 80 * GIB, True), 3)
    0.461
    """
    left = (gpu_bytes - PROCESS_BYTES - reserved) / gpu_bytes
    part = 1.0 if not reserved else TURNS if turns else TOGETHER
    return max(0.0, math.floor(1000 * min(left, 0.92 if not reserved else left) * part) / 1000)
