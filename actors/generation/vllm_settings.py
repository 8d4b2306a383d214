"""Settings of vLLM: environment, engine arguments, sampling parameters."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from actors.config.schema import RolloutConfig
from actors.weights.vllm_side import BACKEND, register
from rlcore.interfaces import Sampling


def set_environment(device: str, tensor_parallel_size: int, threads: int, dtype: str = "bfloat16") -> None:
    """Sets environment variables that vLLM reads at import; variables set by the user are kept."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}.items():
        os.environ.setdefault(name, value)
    if device != "cpu":
        if dtype == "float32":  # Triton's dot products would round their inputs to TF32, and parity would show it
            os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
        if importlib.util.find_spec("flashinfer") is None:  # vLLM 0.26 would look for it in its sampler
            os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # The sampler's two small functions gain nothing from being compiled, which takes seconds at every start.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if tensor_parallel_size == 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < tensor_parallel_size * threads:
        raise ValueError(
            f"tensor_parallel_size {tensor_parallel_size} with {threads} threads each needs as many cores; "
            f"there are {len(cores)}"
        )
    groups = [cores[i * threads : (i + 1) * threads] for i in range(tensor_parallel_size)]
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(",".join(map(str, group)) for group in groups))


def engine_arguments(
    model_path: str,
    config: RolloutConfig,
    device: str,
    dtype: str,
    max_model_len: int,
    seed: int,
    float32_head: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of vLLM's `EngineArgs`; `config.extra` overrides them.

    On CPU tied embeddings are untied in the engine: a repacked output head would keep its old weights after an update.

    Args:
        float32_head: see `ModelConfig.float32_head`.

    Raises:
        ValueError: `float32_head`, and the installed vLLM computes logits in the model's dtype only.
    """
    overrides: dict[str, Any] = {}
    if float32_head:
        _require_head_dtype()
        overrides["head_dtype"] = "float32"
    if device == "cpu":
        overrides["tie_word_embeddings"] = False
    arguments: dict[str, Any] = {
        "model": model_path,
        "dtype": dtype,
        "seed": seed,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enforce_eager": config.enforce_eager or device == "cpu",
        "enable_prefix_caching": config.prefix_caching,
        "load_format": "dummy",
        "logprobs_mode": "processed_logprobs",  # after temperature: what the trainer computes
        "generation_config": "vllm",  # a model folder's sampling defaults would bias every log-prob
        "disable_log_stats": True,
        # With it a step may be under way while weights change, and its tokens would get the wrong version.
        "async_scheduling": False,
    }
    if overrides:
        arguments["hf_overrides"] = overrides
    if device == "cpu":
        arguments["kv_cache_memory_bytes"] = int(config.cpu_kv_cache_gib * 2**30)
    else:
        arguments |= {
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "enable_sleep_mode": config.sleep_level > 0,
        }
    return arguments | dict(config.extra)


def _require_head_dtype() -> None:
    import vllm
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    if not hasattr(LogitsProcessor, "_apply_head"):  # the method that reads head_dtype
        raise ValueError(
            f"model.float32_head=true: vLLM {vllm.__version__} computes logits in the model's dtype only; install "
            "0.32, or set model.float32_head=false"
        )


def build_engine(arguments: dict[str, Any]) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.config import WeightTransferConfig

    register()
    transfer = WeightTransferConfig(backend=BACKEND)
    return LLMEngine.from_engine_args(EngineArgs(**arguments, weight_transfer_config=transfer))


def sampling_parameters(sampling: Sampling, allowed: Sequence[int] = ()) -> Any:
    """vLLM's `SamplingParams`: final outputs only, flat log-probs of the sampled tokens, text only for stop strings.

    With `allowed` only these tokens are generated, and log-probs are those of all of them, renormalised over them.

    No per-request seed: on CPU it kills the engine when a prompt is prefilled in more than one step.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.num_samples,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=list(sampling.stop),
        logprobs=len(allowed),
        allowed_token_ids=list(allowed) or None,
        flat_logprobs=True,
        detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
