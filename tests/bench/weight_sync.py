"""How long sampling stops for a weight update, and how long the update takes.

    python -m tests.bench.weight_sync                          a 0.6 M-parameter Qwen2, one engine, host and gloo
    python -m tests.bench.weight_sync --model 135m             random weights in the shape of SmolLM2-135M
    python -m tests.bench.weight_sync --model FOLDER --bucket-mb 32 --engines 2

The engines sample during every update. `pause_s`, `seconds` and `mib` are medians of the updates; `pause_share` is the
median of pause over duration. Transports take turns. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
import torch

from actors.config.schema import RolloutConfig
from actors.generation.rollout import Request, RolloutWorker
from actors.training.checkpoint_format import buckets
from actors.weights.records import Bucket
from actors.weights.sender import Sender, make_sender
from rlcore.interfaces import Sampling
from tests.bench.rollout import tiny, without_end

MAX_LEN, LENGTH = 256, 200
PROMPTS = [tuple(3 + (7 * i + j) % 18 for j in range(12)) for i in range(8)]


def smollm2_shape(folder: Path) -> str:
    """Random weights of the sizes of SmolLM2-135M, with the tokenizer of `tiny`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny(folder)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


MODELS = {"tiny": tiny, "135m": smollm2_shape}


class Weights:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def buckets(self, max_bytes: int) -> Iterator[Bucket]:
        yield from buckets(self.model, max_bytes, lambda tensors: nullcontext())


class Engine:
    """Engines without an end token, so that they sample as long as they are asked to."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        self.actor, self.calls, self.waiting = ray.remote(num_cpus=0, max_concurrency=4)(RolloutWorker).remote(), 0, 0
        ray.get(self.actor.start.remote(folder, RolloutConfig(), "cpu", dtype, MAX_LEN, threads, 0))

    def keep_busy(self) -> None:
        """Collects what is done and submits as many prompts again."""
        self.waiting -= len(ray.get(self.actor.collect.remote(0.0)))
        if not self.waiting:
            self.calls, self.waiting = self.calls + 1, len(PROMPTS)
            requests = [Request(i, str(i), prompt) for i, prompt in enumerate(PROMPTS)]
            ray.get(self.actor.submit.remote(f"c{self.calls}", requests, Sampling(1, LENGTH)))


def measure(engines: Sequence[Engine], senders: dict[str, Sender], updates: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in senders}
    version = 0
    for sender in senders.values():  # engines cannot sample before their first weights
        sender.connect([engine.actor for engine in engines])
        version += 1
        sender.send(version)
    for _ in range(updates):
        for name, sender in senders.items():
            sender.connect([engine.actor for engine in engines])
            for engine in engines:
                engine.keep_busy()
            version += 1
            found[name].append(sender.send(version))
    return {
        name: {
            "pause_s": round(statistics.median(u["pause_s"] for u in rows), 4),
            "seconds": round(statistics.median(u["seconds"] for u in rows), 4),
            "pause_share": round(statistics.median(u["pause_s"] / u["seconds"] for u in rows), 3),
            "mib": round(rows[0]["bytes"] / 2**20, 1),
            "buckets": int(rows[0]["buckets"]),
        }
        for name, rows in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, 135m, or a Hugging Face folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--bucket-mb", type=float, default=RolloutConfig().sync_bucket_mb)
    parser.add_argument("--updates", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, options.dtype)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        base = MODELS[options.model](Path(folder, "model")) if options.model in MODELS else options.model
        Path(folder, "endless").mkdir()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        engines = [
            Engine(without_end(base, Path(folder, "endless")), options.dtype, options.threads)
            for _ in range(options.engines)
        ]
        senders = {
            name: make_sender(
                name, Weights(model), rank=0, dtype=dtype, bucket_bytes=int(options.bucket_mb * 2**20), deadline_s=120
            )
            for name in ("host", "gloo")
        }
        result = measure(engines, senders, options.updates)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(json.dumps({
        "bench": "weight_sync", "model": Path(options.model).name,
        "million_parameters": round(parameters, 2), "dtype": options.dtype, "engines": options.engines,
        "bucket_mb": options.bucket_mb, "updates": options.updates, **result,
    }))  # fmt: skip
    ray.shutdown()


if __name__ == "__main__":
    main()
