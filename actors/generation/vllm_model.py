"""Prepares models in vLLM for repeated loading of weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def adapt_engine(worker: Any) -> None:
    """Runs once in every vLLM worker process and prepares its model for repeated weight loading.

    - A class that computes logits from its embedding (Gemma 2, Cohere) has no parameter for the output head that a
      tied model is sent with: it is left out before the class refuses it.
    - On the CPU vLLM 0.32 packs the experts of a layer for its kernel at the first loading alone, and would read
      those of every later one as if they were packed.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    model = worker.get_model()
    if not any(isinstance(module, ParallelLMHead) for module in model.modules()):
        load, heads = model.load_weights, ("lm_head.", "embed_out.")
        model.load_weights = lambda weights: load((n, t) for n, t in weights if not n.startswith(heads))
    if current_platform.is_cpu():
        for module in model.modules():
            method: Any = getattr(module, "quant_method", None)
            if hasattr(method, "moe_kernel"):
                process = method.process_weights_after_loading
                method.process_weights_after_loading = functools.partial(_pack_anew, method, process)


def _pack_anew(method: Any, process: Callable[[Any], None], layer: Any) -> None:
    method.moe_kernel = None  # mark of the first loading in vLLM
    process(layer)


def parameter_names(model: torch.nn.Module) -> list[set[str]]:
    """The names of each parameter; several if it is in two places, of which a loader reports only one."""
    found: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), set()).add(name)
    return list(found.values())
