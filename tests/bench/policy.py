"""Trained tokens per second of the policy worker over a plain PyTorch loop. Prints one JSON line.

Both train the same model on the same micro-batches with the same optimizer (fused AdamW, clipping), turn about in one
process, so that a busy machine slows both; the ratio is the median over rounds of (worker / plain). The plain loop is
what one would write by hand: attention mask, all logits, log_softmax, the clipped surrogate loss, no metrics.

    python -m tests.bench.policy --model tiny --rows 512 --tokens 10 --rounds 7
    python -m tests.bench.policy --model 135m --rows 8 --tokens 64 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch

from actors.config.schema import DType, EngineConfig, ModelConfig
from actors.training.worker import PolicyWorker, StartSpec
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.data.batching.balance import split
from rlcore.objective import TensorBatch
from rlcore.types import TrainBatch

LR = 1e-5


def build(name: str, folder: str) -> str:
    """`tiny`: the quickstart's 0.6 M parameters. `135m`: random weights in the shape of SmolLM2-135M. Else a path."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name == "tiny":
        shape = Qwen2Config(
            vocab_size=16, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False,
        )  # fmt: skip
        Qwen2ForCausalLM(shape).save_pretrained(folder)
    elif name == "135m":
        llama = LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(llama).save_pretrained(folder)
    else:
        return name
    return folder


def make_batch(rows: int, tokens: int, vocabulary: int) -> TrainBatch:
    """Rows of one length, the first 60 % prompt, as in the quickstart."""
    rng = np.random.default_rng(0)
    mask = np.broadcast_to(np.arange(tokens) >= max(1, round(0.6 * tokens)), (rows, tokens)).copy()
    noise = rng.normal(-2.0, 0.1, (rows, tokens)).astype(np.float32) * mask
    return TrainBatch.from_padded(
        tokens=rng.integers(0, vocabulary, (rows, tokens)).astype(np.int32),
        lengths=np.full(rows, tokens, dtype=np.int32),
        loss_mask=mask,
        sample_ids=[str(i) for i in range(rows)],
        rollout_logprobs=noise,
        old_logprobs=noise,
        advantages=(rng.normal(0, 1, (rows, 1)) * mask).astype(np.float32),
    )


class PlainLoop:
    """Float32, or bfloat16 with float32 master weights kept by hand."""

    def __init__(self, path: str, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        self.low = list(self.model.parameters())
        self.params = self.low if dtype == torch.float32 else [p.detach().float().requires_grad_() for p in self.low]
        self.adam = torch.optim.AdamW(self.params, LR, weight_decay=0.0, fused=True)

    def update(self, batch: TrainBatch, micro_batches: Sequence[Sequence[int]]) -> None:
        denominator = float(batch.num_loss_tokens)
        for rows in micro_batches:
            micro = TensorBatch.from_train_batch(batch.select(rows))
            tokens, mask = micro.tokens, micro.loss_mask[:, 1:]
            old, advantages = micro.old_logprobs[:, 1:], micro.advantages[:, 1:]
            logits = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
            logprobs = logits[:, :-1].float().log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
            ratio = torch.exp(logprobs - old)
            loss = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
            ((loss * mask).sum() / denominator).backward()
        if self.params is not self.low:
            for master, p in zip(self.params, self.low, strict=True):
                master.grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.adam.step()
        self.adam.zero_grad()
        if self.params is not self.low:
            with torch.no_grad():
                torch._foreach_copy_(self.low, self.params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, 135m or a Hugging Face folder")
    parser.add_argument("--zero", type=int, default=0, choices=range(4))
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=10, help="of each row")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=[d.value for d in DType])
    parser.add_argument("--max-tokens", type=int, default=4096, help="per micro-batch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = build(options.model, folder)
        worker, dtype = PolicyWorker(), DType(options.dtype)
        host, port = worker.address()
        objective = PolicyGradientObjective(AlgorithmConfig(), 1.0, options.tokens)
        model, engine = ModelConfig(path=path, dtype=dtype), EngineConfig(zero_stage=options.zero)
        described = worker.start(StartSpec(0, 1, host, port, "cpu", path, model, engine))
        plain = PlainLoop(path, getattr(torch, dtype.value))
    batch = make_batch(options.rows, options.tokens, plain.model.config.vocab_size)
    (micro,) = split([int(n) for n in batch.lengths], 1, options.max_tokens)
    seconds: dict[str, list[float]] = {"worker": [], "plain": []}
    for round_ in range(options.rounds + 1):
        sides = [
            ("worker", lambda: worker.update(batch, micro, float(batch.num_loss_tokens), LR, objective)),
            ("plain", lambda: plain.update(batch, micro)),
        ]
        for name, run in sides if round_ % 2 else reversed(sides):
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    rounds = [(w, p) for w, p in zip(seconds["worker"][1:], seconds["plain"][1:], strict=True)]  # the first is warm-up
    result = {
        "bench": "policy",
        "model": options.model,
        "parameters": described["parameters"],
        "zero_stage": described["zero_stage"],
        "dtype": options.dtype,
        "rows": options.rows,
        "tokens": options.tokens,
        "micro_batches": len(micro),
        "rounds": options.rounds,
        "worker_tokens_per_s": round(batch.num_tokens / statistics.median(w for w, _ in rounds)),
        "plain_tokens_per_s": round(batch.num_tokens / statistics.median(p for _, p in rounds)),
        "ratio_median": round(statistics.median(p / w for w, p in rounds), 3),
        "ratio_of_minima": round(min(p for _, p in rounds) / min(w for w, _ in rounds), 3),
        "worker_ms_per_update": round(1e3 * statistics.median(w for w, _ in rounds), 1),
    }
    print(json.dumps(result))
    worker.shutdown()


if __name__ == "__main__":
    main()
