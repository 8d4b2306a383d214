"""Prepares models in vLLM for repeated loading of weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

# Class in vLLM: parameters that its `load_weights` copies into directly
COPIED = {"GptOssForCausalLM": {"w13_weight", "w13_bias", "w2_weight", "w2_bias", "sinks"}}


def adapt_engine(worker: Any) -> None:
    """Runs once in every vLLM worker process and prepares its model for repeated weight loading.

    - A class that computes logits from its embedding (Gemma 2, Cohere) has no parameter for the output head that a
      tied model is sent with: it is left out before the class refuses it.
    - vLLM's Transformers backend adds the bias of an output head (Phi) when a loading brings one: anew each time, and a
      reload drops parameters that were not there before it.
    - On the CPU vLLM 0.32 packs the experts of a layer for its kernel at the first loading alone, and would read
      those of every later one as if they were packed.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    model = worker.get_model()
    if not any(isinstance(module, ParallelLMHead) for module in model.modules()):
        load, heads = model.load_weights, ("lm_head.", "embed_out.")
        model.load_weights = lambda weights: load((n, t) for n, t in weights if not n.startswith(heads))
    head = getattr(model, "lm_head", None)
    if isinstance(head, ParallelLMHead) and head.bias is None:
        head._register_bias = functools.partial(_register_bias, head, head._register_bias)
    if current_platform.is_cpu():
        for module in model.modules():
            method: Any = getattr(module, "quant_method", None)
            if hasattr(method, "moe_kernel"):
                process = method.process_weights_after_loading
                method.process_weights_after_loading = functools.partial(_pack_anew, method, process)


def _register_bias(head: Any, register: Callable[[], None]) -> None:
    if head.bias is None:
        from vllm.model_executor.model_loader.reload import layerwise

        register()
        kept = layerwise.get_layerwise_info(head).kernel_tensors  # what the reload puts back when it ends
        if kept is not None:
            kept[0]["bias"] = head.bias


def _pack_anew(method: Any, process: Callable[[Any], None], layer: Any) -> None:
    method.moe_kernel = None  # mark of the first loading in vLLM
    process(layer)


def begin_reload(model: torch.nn.Module) -> None:
    """Opens vLLM's layer-by-layer reload, in which parameters are empty until all weights of their layer have arrived.

    GPT-OSS copies some weights into its parameters without their loader. These parameters must exist from the start:
    vLLM processes them when the reload is finished.
    """
    from vllm.model_executor.model_loader.reload import layerwise, meta

    layerwise.initialize_layerwise_reload(model)
    copied = COPIED.get(type(model).__name__, set())
    for layer in model.modules():
        if copied & layer._parameters.keys():
            info = layerwise.get_layerwise_info(layer)
            meta.materialize_layer(layer, info)
            info.load_numel = 1  # "not complete yet"


def lost_layers(model: torch.nn.Module, loaded: set[str]) -> list[str]:
    """Names of layers that are still empty although the model reports their parameters as loaded."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload import layerwise

    lost = []
    for name, layer in model.named_modules():
        info = layerwise.get_layerwise_info(layer)
        if not info.can_load() or info.load_numel or isinstance(layer, VocabParallelEmbedding):  # a tied head is empty
            continue
        if any(p is not None and p.is_meta and f"{name}.{key}" in loaded for key, p in layer._parameters.items()):
            lost.append(name)
    return lost


def parameter_names(model: torch.nn.Module) -> list[set[str]]:
    """The names of each parameter; several if it is in two places, of which a loader reports only one."""
    found: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), set()).add(name)
    return list(found.values())
