"""Checks of the model's config.json (context, heads, attention) and of the training schedule."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.config.schema import Config
from rlcore.problems import Problem, choices

HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # head sizes with a kernel in vLLM's CPU attention
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


def model_problems(c: Config, device: str) -> Iterator[Problem]:
    yield from _attention(c, device)
    for name in ("learning_rate", "critic_learning_rate"):
        warmup = getattr(c.trainer, name).warmup_steps
        if 0 < c.trainer.steps < warmup and (name == "learning_rate" or c.algorithm.needs_critic):
            text = f"the run ends after trainer.steps={c.trainer.steps}: the peak is never reached"
            yield Problem(f"trainer.{name}.warmup_steps", warmup, text, "lower it, or train longer", True)
    parallel = c.rollout.tensor_parallel_size
    if device == "cpu" and parallel > (cores := os.cpu_count() or 1) and not c.cluster.address:
        text = f"an engine over {parallel} processes on {cores} cores: each needs a core"
        yield Problem("rollout.tensor_parallel_size", parallel, text, f"at most {cores}")
    if c.model.path is None:
        heads, shown = c.model.tiny.num_heads, "model.tiny.num_heads"
        yield from _split_heads(parallel, heads, f"{shown}={heads}")
        return
    folder = Path(c.model.path).expanduser()
    if not folder.is_dir() or c.model.gguf_file:
        return
    found = _read(folder)
    if isinstance(found, str):
        yield Problem("model.path", c.model.path, found, "give a Hugging Face model folder")
        return
    yield from _of_folder(c, found, device)


def _read(folder: Path) -> Mapping[str, Any] | str:
    """The config.json, or its part for the language model; or the reason why it cannot be read."""
    file = folder / "config.json"
    if not file.is_file():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        return "it has no config.json" + (f" (a GGUF file: set model.gguf_file={ggufs[0]})" if ggufs else "")
    try:
        raw = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        return f"its config.json cannot be read: {error}"
    if not isinstance(raw, dict):
        return "its config.json is not an object"
    inner = raw.get("text_config")
    return {**raw, **inner} if isinstance(inner, dict) else raw


def _of_folder(c: Config, found: Mapping[str, Any], device: str) -> Iterator[Problem]:
    def number(*names: str) -> int:
        return next((found[name] for name in names if isinstance(found.get(name), int) and found[name] > 0), 0)

    needed = c.context
    context, scaling = number(*CONTEXT), found.get("rope_scaling") or found.get("rope_parameters")
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    context = int(context * factor) if isinstance(factor, int | float) and factor > 1 else context
    if 0 < context < needed and c.rollout.max_model_len:
        text = f"the model of model.path has a context of {context} tokens"
        yield Problem("rollout.max_model_len", needed, text, f"set it to {context} or less, or null")
    elif 0 < context < needed:
        left = context - c.rollout.max_new_tokens
        text = f"with rollout.max_new_tokens={c.rollout.max_new_tokens} it needs a context of {needed} tokens"
        cure = f"set it to {left} or less" if left > 0 else "lower both"
        text += f"; the model of model.path has {context}"
        yield Problem("data.max_prompt_tokens", c.data.max_prompt_tokens, text, cure)
    heads, width = number("num_attention_heads", "n_head"), number("hidden_size", "n_embd", "d_model")
    yield from _split_heads(c.rollout.tensor_parallel_size, heads, f"the model of model.path has {heads}")
    head = number("head_dim") or (width // heads if heads and width else 0)
    if device == "cpu" and head and head not in HEAD_WIDTHS and not number("kv_lora_rank"):
        text = f"its attention heads have width {head}: vLLM has no CPU kernel for it"
        cure = f"a model with heads of {', '.join(map(str, HEAD_WIDTHS))}, or a GPU"
        yield Problem("model.path", c.model.path, text, cure)


def _split_heads(parallel: int, heads: int, shown: str) -> Iterator[Problem]:
    if parallel > 1 and heads and heads % parallel:
        text = f"attention heads are split evenly over an engine's processes, and {shown}"
        yield Problem("rollout.tensor_parallel_size", parallel, text, "choose a divisor")


def _attention(c: Config, device: str) -> Iterator[Problem]:
    key, value = "model.attention", c.model.attention
    if value not in ATTENTION and "/" not in value:  # a kernel of the hub has a slash
        yield Problem(key, value, "unknown to transformers", choices(value, ATTENTION))
    elif value.startswith("flash_attention") and device == "cpu":
        yield Problem(key, value, "flash attention needs a GPU", "set it to sdpa")
    elif value == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        yield Problem(key, value, "the package flash_attn is not installed", "pip install flash-attn, or sdpa")
