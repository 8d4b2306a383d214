"""Peak memory of a log-prob pass, and of forward and backward, against the vocabulary. Prints one JSON line.

Every size runs in a process of its own on the CPU: a small Llama with tied embeddings, the policy's scorer around it,
no optimizer. The peak is that of the resident set during the pass, read every millisecond from /proc, less what the
process held before it, so the model's weights are not in it; their gradient, [V, H] in the model's dtype and float32
partial sums of it, is. `float32_logits_mb` beside it is one float32 [B, T, V], which a pass must not need.

    python -m tests.bench.memory --rows 8 --tokens 256 --hidden 64
    python -m tests.bench.memory --way plain       # the model's own logits, for comparison
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MB = 1 << 20
VOCABULARIES = (1024, 8192, 32768, 131072)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(run: Callable[[], Any]) -> float:
    """MiB that `run` had at most beyond what the process held before it."""
    before, highest, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, resident())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return max(0, highest - before) / MB


def measure(options: argparse.Namespace, vocabulary: int, dtype: str) -> dict[str, float]:
    """One size, in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from actors.training.scorer import CausalScorer

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=options.hidden, intermediate_size=2 * options.hidden, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=options.tokens, tie_word_embeddings=True,
    )  # fmt: skip
    scorer = CausalScorer(LlamaForCausalLM(config).to(getattr(torch, dtype)).eval())
    scorer.check(False, torch.device("cpu"))
    if options.way == "plain":
        scorer.chunked = False
    tokens = torch.randint(0, vocabulary, (options.rows, options.tokens))
    scorer(tokens[:1, :4], None, 1.0, 1, True).sum().backward()  # what libraries allocate once
    scorer.zero_grad()

    def score() -> None:
        with torch.no_grad():
            scorer(tokens)

    result = {"logprobs_mb": peak(score)}
    result["backward_mb"] = peak(lambda: scorer(tokens, None, 1.0, 1, True).sum().backward())
    return {name: round(value, 1) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="of each row")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--way", default="chunked", choices=["chunked", "plain"])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--here", action="store_true", help="measure the one size given, in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options, options.vocabularies[0], options.dtypes[0])))
        return
    sizes = []
    for dtype in options.dtypes:
        for vocabulary in options.vocabularies:
            command = [sys.executable, "-m", "tests.bench.memory", "--here", "--way", options.way]
            for name in ("rows", "tokens", "hidden"):
                command += [f"--{name}", str(getattr(options, name))]
            command += ["--vocabularies", str(vocabulary), "--dtypes", dtype]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            logits = options.rows * options.tokens * vocabulary * 4 / MB
            size = {"dtype": dtype, "vocabulary": vocabulary, "float32_logits_mb": round(logits, 1)}
            sizes.append(size | json.loads(out.splitlines()[-1]))
    shape = {"rows": options.rows, "tokens": options.tokens, "hidden": options.hidden}
    print(json.dumps({"bench": "memory", "way": options.way, **shape, "sizes": sizes}))


if __name__ == "__main__":
    main()
