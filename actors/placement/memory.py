"""Estimates what lies on a GPU in each phase of a step, and the share of a GPU for a rollout engine."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from actors.config.schema import Config, DType, ModelConfig, Offload
from actors.placement.placement import together
from rlcore.ops.logprobs import CHUNK_ELEMENTS
from rlcore.problems import Problem

GIB = 2**30
CHARACTERS = 2 + 256  # vocabulary of the tiny model: special tokens and every byte
PROCESS_BYTES = 1.5 * GIB  # of a CUDA process without tensors: context, kernels, cuBLAS workspace
TURNS, TOGETHER = 0.94, 0.75  # share of the free memory for an engine that takes turns, or runs together
REDUCE_BUCKET = 500_000_000  # elements of the bucket in which DeepSpeed sums gradients over ranks, its default
PHASES = SAMPLING, SCORING, UPDATE, SYNC = ("sampling", "log-probs", "update", "sync")
MODELS = ("policy", "critic", "reference", "reward")


@dataclass(frozen=True, slots=True)
class Shape:
    """Model sizes that determine memory: parameters, vocabulary entries, layers, and widths of a layer."""

    parameters: int
    vocabulary: int
    layers: int
    kv_width: int
    hidden: int = 0
    intermediate: int = 0

    def kv_bytes(self, bytes_each: int) -> int:
        """Bytes of one token: keys and values of all layers."""
        return 2 * self.layers * self.kv_width * bytes_each

    def layer_bytes(self, bytes_each: int) -> int:
        """Bytes of one token that the backward pass of a layer reads.

        The inputs of two norms, of three groups of linear layers and of the output layer of attention, queries, keys
        and values; gate, up, activated gate and product of the feed-forward layer; float32 values of the norms.
        """
        return (6 * self.hidden + 2 * self.kv_width + 4 * self.intermediate) * bytes_each + 2 * 4 * self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Those of low-rank adapters on all linear layers."""
        attention, feed_forward = 4 * self.hidden + 2 * (self.hidden + self.kv_width), self.hidden + self.intermediate
        return rank * self.layers * (attention + 3 * feed_forward)


def model_shape(model: ModelConfig) -> Shape:
    """Sizes from the model's config; reads no weights.

    Raises:
        ModelError, OSError, ValueError: the config of `model.path` cannot be read.
    """
    from actors.training.models import count_parameters

    parameters = count_parameters(model)
    if model.path is None:
        tiny = model.tiny
        widths = tiny.hidden_size, tiny.hidden_size, tiny.intermediate_size
        return Shape(parameters, CHARACTERS, tiny.num_layers, *widths)
    from transformers import AutoConfig

    extra = {"gguf_file": model.gguf_file} if model.gguf_file else {}
    path = str(Path(model.path).expanduser()) if Path(model.path).expanduser().is_dir() else model.path
    hf = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code, **extra).get_text_config()
    heads = hf.num_attention_heads
    kv_heads = getattr(hf, "num_key_value_heads", None) or heads
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // heads
    widths = kv_heads * head_dim, hf.hidden_size, getattr(hf, "intermediate_size", None) or 4 * hf.hidden_size
    return Shape(parameters, hf.vocab_size, hf.num_hidden_layers, *widths)


def trainer_bytes(config: Config, shape: Shape, role: str = "policy") -> dict[str, float]:
    """Bytes of one worker of a model role, by purpose.

    Stages as in ZeRO (arXiv 1910.02054): 1 splits master weights and Adam states over the ranks, 2 the gradients too,
    3 the weights too. bfloat16 adds float32 master weights and runs stage 0 as 1. The policy has logits for one chunk
    of positions at a time; the critic has none, and its head is counted like an output layer. The backward pass keeps
    what its layers read (`Shape.layer_bytes`); with gradient checkpointing their inputs, and one layer.
    """
    ranks, p = max(getattr(config.cluster.roles, role).num_workers, 1), shape.parameters
    low = config.model.dtype is DType.bfloat16
    stage = max(config.engine.zero_stage, 1 if low else 0)
    split = [ranks if stage >= needed else 1 for needed in (3, 2, 1)]
    bytes_each = 2 if low else 4
    tokens = config.trainer.max_tokens_per_micro_batch
    held = {"weights": p * bytes_each / split[0]}
    if role != "reference":
        adapters = shape.adapter_parameters(config.model.lora.rank) if role == "policy" else 0
        trained = adapters or p
        held |= {
            "gradients": 4 * trained / split[1],
            "master weights": 4 * trained / split[2] if stage else 0.0,
            "Adam states": 8 * trained / split[2],
        }
    if role in ("policy", "critic"):
        layer = shape.layer_bytes(bytes_each)
        stored = shape.hidden * bytes_each if config.model.gradient_checkpointing else layer
        held["activations"] = float(tokens * (shape.layers * stored + (layer if stored < layer else 0)))
        if stage and (stage, low) != (1, True):
            held["reduction bucket"] = float(REDUCE_BUCKET * (4 if stage == 3 else bytes_each))
    if role == "policy":
        logits = min(tokens, max(1, CHUNK_ELEMENTS // shape.vocabulary))
        logit_bytes = 4 if config.model.float32_head else bytes_each
        held["logits and their gradient"] = 2.0 * logits * shape.vocabulary * logit_bytes
    return held


def model_phases(config: Config, shape: Shape, role: str) -> dict[str, dict[str, float]]:
    """Bytes of one worker on its GPU: by purpose, by phase."""
    e, low = config.engine, config.model.dtype is DType.bfloat16
    away = e.offload if together(config.cluster.roles, role, "rollout") else Offload.none
    kept = away is Offload.none and e.zero_stage == 3  # DeepSpeed keeps their memory between updates
    gradients = (kept or (away is Offload.none and low and e.zero_stage < 2)) and not e.offload_optimizer
    weights = PHASES if away is not Offload.all else (SCORING, UPDATE, SYNC) if role == "policy" else (SCORING, UPDATE)
    state: tuple[str, ...] = () if e.offload_optimizer else PHASES if away is Offload.none else (UPDATE,)
    phases = {
        "weights": weights,
        "master weights": state,
        "Adam states": state,
        "gradients": PHASES if gradients else (UPDATE,),
        "reduction bucket": PHASES if kept else (UPDATE,),
        "activations": (UPDATE,),
        "logits and their gradient": (UPDATE,),
    }
    found = {what: dict.fromkeys(phases[what], size) for what, size in trainer_bytes(config, shape, role).items()}
    one_layer = config.trainer.max_tokens_per_micro_batch * shape.layer_bytes(2 if low else 4)
    found.setdefault("activations", {})[SCORING] = float(one_layer)
    return found


def models_on_engine_gpus(config: Config) -> list[str]:
    roles = config.cluster.roles
    return [name for name in MODELS if getattr(roles, name).num_workers and together(roles, name, "rollout")]


def reserved_bytes(config: Config, shape: Shape) -> float:
    """Bytes that models use on the GPU of a rollout engine while it is awake."""
    models = models_on_engine_gpus(config)
    sums = total(row for name in models for row in model_phases(config, shape, name).values())
    awake = sums[SAMPLING] if config.rollout.sleep_level else max(sums.values())
    buckets = sync_bytes(config) if models and not config.rollout.sleep_level else 0.0
    return awake + buckets + PROCESS_BYTES * len(models)


def sync_bytes(config: Config) -> float:
    """Buckets of a weight sync: two of the sender, and the engine's copy."""
    return 3.0 * config.rollout.sync_bucket_mb * 2**20


def total(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums by phase."""
    return reduce(lambda sums, row: {p: sums[p] + row.get(p, 0.0) for p in PHASES}, rows, dict.fromkeys(PHASES, 0.0))


def engine_phases(config: Config, shape: Shape, gpu_bytes: float) -> dict[str, dict[str, float]]:
    """As `model_phases`, of a rollout engine on a GPU."""
    bytes_each = 2 if config.model.dtype is DType.bfloat16 else 4
    weights = shape.parameters * bytes_each / config.rollout.tensor_parallel_size
    cache = config.rollout.cpu_kv_cache_gib * GIB
    if gpu_bytes:
        cache = max(0.0, engine_share(config, shape, gpu_bytes) * gpu_bytes - weights)
    turns = bool(config.rollout.sleep_level and models_on_engine_gpus(config))
    return {
        "weights": dict.fromkeys((SAMPLING, SYNC) if turns else PHASES, weights),
        "KV cache": dict.fromkeys((SAMPLING,) if turns else PHASES, cache),
        "sync buckets": {SYNC: sync_bytes(config)},
    }


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


def gpu_rows(
    config: Config, shape: Shape, roles: Iterable[str], gpu_bytes: float
) -> dict[tuple[str, str], dict[str, float]]:
    """What lies on a GPU that `roles` share: by role and purpose, by phase. On CPU `gpu_bytes` is 0."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for role in roles:
        parts: dict[str, dict[str, float]] = {}
        if role in MODELS:
            parts = model_phases(config, shape, role)
        elif role == "rollout":
            parts = engine_phases(config, shape, gpu_bytes)
        elif role == "judge":
            share = config.reward.judge.engine.gpu_memory_utilization
            parts = {"engine": dict.fromkeys(PHASES, share * gpu_bytes)}
        found |= {(role, what): row for what, row in parts.items() if any(row.values())}
        if parts and gpu_bytes:
            found[role, "CUDA process"] = dict.fromkeys(PHASES, PROCESS_BYTES)
    return found


def kv_sequences(config: Config, shape: Shape, cache: Mapping[str, float]) -> int:
    """Sequences at their longest that an engine has room for. `cache`: bytes on each of its GPUs, by phase."""
    bytes_each = 2 if config.model.dtype is DType.bfloat16 else 4
    longest = config.context
    room = cache.get(SAMPLING, 0.0) * config.rollout.tensor_parallel_size
    return int(room // (longest * shape.kv_bytes(bytes_each)))


def memory_problem(
    config: Config, shape: Shape, groups: Sequence[tuple[str, ...]], gpu_bytes: float
) -> Problem | None:
    """The first GPU that is too small in a phase. `groups`: roles that share a GPU."""
    if text := _shortage(config, shape, groups, gpu_bytes):
        cure = _cure(config, shape, groups, gpu_bytes)
        return Problem("cluster.gpu_memory_gib", round(gpu_bytes / GIB, 1), text, cure)
    return None


def _shortage(config: Config, shape: Shape, groups: Sequence[tuple[str, ...]], gpu_bytes: float) -> str:
    for roles in groups:
        rows, name = gpu_rows(config, shape, roles, gpu_bytes), " + ".join(roles)
        for phase, used in total(rows.values()).items():
            if used > gpu_bytes:
                most = sorted(((row.get(phase, 0.0), *key) for key, row in rows.items()), reverse=True)[:3]
                parts = ", ".join(f"{role} {what} {size / GIB:.1f}" for size, role, what in most)
                return f"{phase} needs {used / GIB:.1f} GiB on a GPU of {name} ({parts})"
        if "rollout" in roles and not kv_sequences(config, shape, rows.get(("rollout", "KV cache"), {})):
            return f"a GPU of {name} has no room for an engine with a KV cache of one sequence"
    return ""


def _cure(config: Config, shape: Shape, groups: Sequence[tuple[str, ...]], gpu_bytes: float) -> str:
    """The first of some changes that fits, the cheapest first."""
    checkpointing, sharded = {"model.gradient_checkpointing": True}, {"engine.zero_stage": 3}
    optimizer, every = {"engine.offload": Offload.optimizer}, {"engine.offload": Offload.all}
    host = {"engine.offload_optimizer": True, "engine.zero_stage": max(config.engine.zero_stage, 1)}
    tried: list[dict[str, Any]] = [checkpointing, sharded, optimizer, every, sharded | every, host]
    tried += [host | checkpointing, host | every, host | every | checkpointing, host | sharded | every | checkpointing]
    takes_turns = models_on_engine_gpus(config) and config.rollout.sleep_level
    for change in tried:
        if "engine.offload" in change and not takes_turns:
            continue
        other = copy.deepcopy(config)
        for key, value in change.items():
            group, _, name = key.partition(".")
            setattr(getattr(other, group), name, value)
        if not _shortage(other, shape, groups, gpu_bytes):
            return "it fits with " + " ".join(f"{k}={getattr(v, 'value', str(v).lower())}" for k, v in change.items())
    return "use more policy workers with engine.zero_stage=3, separate GPUs, or shorter micro-batches"
