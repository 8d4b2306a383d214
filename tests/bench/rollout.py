"""Tokens per second of a RolloutWorker (Ray actor, submit and collect) over bare vLLM's `LLM.generate`.

    python tests/bench/rollout.py                       a 0.6 M-parameter Qwen2, 32 prompts x 8 samples x 32 tokens
    python tests/bench/rollout.py --model FOLDER --dtype bfloat16 --prompts 8 --samples 8

Both sides live in processes of their own with the same settings (threads, KV cache, log-probs of sampled tokens, no end
token) and take turns, so that one is active at a time. Prints one JSON line with medians; `ratio` is ours over bare.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.config.schema import RolloutConfig
from actors.generation.rollout import Request, RolloutWorker
from actors.generation.vllm_settings import engine_arguments, sampling_parameters, set_environment
from actors.weights.records import pack
from rlcore.interfaces import Sampling


class Bare:
    """`vllm.LLM` with the defaults of its own way of life, loading the folder's weights itself."""

    def start(self, model: str, config: RolloutConfig, dtype: str, max_len: int, threads: int) -> None:
        import torch

        set_environment("cpu", 1, threads)
        torch.set_num_threads(threads)
        from vllm import LLM

        arguments = engine_arguments(model, config, "cpu", dtype, max_len, seed=0)
        self.llm = LLM(**arguments | {"load_format": "auto", "hf_overrides": {}})

    def generate(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> float:
        """Tokens per second."""
        began = time.perf_counter()
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self.llm.generate(inputs, sampling_parameters(sampling), use_tqdm=False)
        return sum(len(o.token_ids) for output in outputs for o in output.outputs) / (time.perf_counter() - began)


class Ours:
    def __init__(self, model: str, config: RolloutConfig, dtype: str, max_len: int, threads: int) -> None:
        import ray
        import torch
        from transformers import AutoModelForCausalLM

        self.ray, self.calls = ray, 0
        self.actor = ray.remote(num_cpus=0, max_concurrency=4)(RolloutWorker).remote()
        ray.get(self.actor.start.remote(model, config, "cpu", dtype, max_len, threads, 0))
        hf = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        weights = dict(hf.named_parameters())
        weights["lm_head.weight"] = hf.get_output_embeddings().weight
        ray.get(self.actor.init_weights.remote({"transport": "host"}))
        ray.get(self.actor.begin_update.remote(0))
        ray.get(self.actor.load_bucket.remote(pack(list(weights.items()), getattr(torch, dtype))))
        ray.get(self.actor.finish_update.remote(0))

    def generate(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> float:
        began, count, groups, self.calls = time.perf_counter(), 0, 0, self.calls + 1
        requests = [Request(i, str(i), prompt) for i, prompt in enumerate(prompts)]
        self.ray.get(self.actor.submit.remote(f"c{self.calls}", requests, sampling))
        while groups < len(prompts):
            for group in self.ray.get(self.actor.collect.remote(5.0)):
                groups += 1
                count += sum(len(sample.token_ids) for sample in group.samples)
        return count / (time.perf_counter() - began)


def tiny(folder: Path) -> str:
    """4 layers of width 128, character tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    names = ["<pad>", "<eos>", "<unk>", *"0123456789+-=abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = Qwen2Config(
        vocab_size=len(names), intermediate_size=344, max_position_embeddings=256, tie_word_embeddings=False, **shape
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def without_end(model: str, folder: Path) -> str:
    """The model's folder with no end token, so that both sides make the same number of tokens."""
    for file in Path(model).iterdir():
        if file.name != "generation_config.json":
            (folder / file.name).symlink_to(file.resolve())
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": None, "eos_token": None}))
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a Hugging Face folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        base = tiny(Path(folder, "tiny")) if options.model == "tiny" else options.model
        Path(folder, "endless").mkdir()
        model = without_end(base, Path(folder, "endless"))
        print(json.dumps(measure(ray, model, options)))
    ray.shutdown()


def measure(ray: Any, model: str, options: argparse.Namespace) -> dict[str, Any]:
    prompts = [tuple(3 + (7 * i + j) % 18 for j in range(12 + i % 4)) for i in range(options.prompts)]
    sampling = Sampling(options.samples, options.max_new_tokens)
    config, max_len = RolloutConfig(), 16 + options.max_new_tokens
    bare = ray.remote(num_cpus=0)(Bare).remote()
    ray.get(bare.start.remote(model, config, options.dtype, max_len, options.threads))
    ours = Ours(model, config, options.dtype, max_len, options.threads)
    sides = {
        "bare": lambda: ray.get(bare.generate.remote(prompts, sampling)),
        "ours": lambda: ours.generate(prompts, sampling),
    }
    for generate in sides.values():  # warm-up: kernels are chosen in the first batches
        generate()
        generate()
    rounds = [{name: generate() for name, generate in sides.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(r[name] for r in rounds) for name in sides}
    return {
        "bench": "rollout",
        "model": options.model if options.model == "tiny" else Path(options.model).name,
        "sequences": options.prompts * options.samples,
        "max_new_tokens": options.max_new_tokens,
        "dtype": options.dtype,
        "threads": options.threads,
        "tokens_per_s": round(medians["ours"], 1),
        "bare_tokens_per_s": round(medians["bare"], 1),
        "ratio": round(medians["ours"] / medians["bare"], 3),
        "ratio_of_best": round(max(r["ours"] for r in rounds) / max(r["bare"] for r in rounds), 3),
        "rounds": options.rounds,
    }


if __name__ == "__main__":
    main()
