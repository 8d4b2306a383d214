"""The driver's part of a step without its models: collate, credit, split, and what a rank does before its model runs.

Prints one JSON line. Every size runs in a process of its own, without Ray. Seconds are of one pass:

    collate   trajectories -> batch
    group     rewards -> advantages within each prompt (GRPO)
    gae       rewards and values -> advantages and returns
    split     rows -> ranks and micro-batches
    pack      every micro-batch of every rank -> padded tensors

Peaks are of the resident set during a stage, less that of the process before it made the samples, over the raw bytes of
the samples (13 per token: int32 token and version, float32 log-prob, mask). The batch of `gae` holds values as
well; `pack` is a worker's part, which here runs in the same process.

    python -m tests.bench.data_plane                                     # 1k, 10k and 100k samples of 1,000 tokens
    python -m tests.bench.data_plane --samples 1000 --tokens 32000 --max-tokens 32768
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from actors.training.handles import deal
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import credit
from rlcore.data.batching.collate import collate
from rlcore.objective import TensorBatch
from rlcore.types import Group, Prompt, RewardResult, Trajectory

MB, GROUP, PROMPT, RAW = 1 << 20, 8, 100, 13


def make_groups(samples: int, tokens: int) -> list[Group]:
    """Samples as they arrive, each with arrays of its own."""
    rng = np.random.default_rng(0)
    groups = []
    for g in range(samples // GROUP):
        groups.append(Group(Prompt(str(g), (1,) * PROMPT, "", "1"), []))
        for k in range(GROUP):
            mask = np.arange(tokens) >= PROMPT
            trajectory = Trajectory(
                uid=str(g), sample_id=f"{g}#0.{k}", tokens=rng.integers(0, 32000, tokens, dtype=np.int32),
                loss_mask=mask, rollout_logprobs=-rng.random(tokens, dtype=np.float32) * mask,
                versions=np.where(mask, 0, -1).astype(np.int32), num_prompt_tokens=PROMPT, finish_reason="stop",
                text="", reward=RewardResult(float(rng.random() < 0.5)),
            )  # fmt: skip
            groups[-1].trajectories.append(trajectory)
    return groups


def resident(key: str) -> int:
    """VmRSS or VmHWM, its peak since the last `reset`, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024


def reset() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def one_size(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    credit_warm_up()
    before, raw = resident("VmRSS"), options.samples * options.tokens * RAW
    groups = make_groups(options.samples, options.tokens)
    ctypes.CDLL(None).malloc_trim(0)  # what making them left behind
    seconds: dict[str, float] = {}
    peaks = {"samples": (resident("VmRSS") - before) / raw}

    def stage(name: str, function: Any) -> Any:
        reset()
        begun = time.perf_counter()
        result = function()
        seconds[name], peaks[name] = time.perf_counter() - begun, (resident("VmHWM") - before) / raw
        return result

    limit = options.max_tokens
    batch = stage("collate", lambda: collate([t for group in groups for t in group.trajectories]))
    credited, _ = stage("group", lambda: credit(groups, batch, AlgorithmConfig(), 0.0, options.tokens))
    ranks = stage("split", lambda: deal(credited, options.ranks, limit))
    del credited
    values = batch.with_arrays(values=np.random.default_rng(1).random(batch.num_tokens, dtype=np.float32))
    gae = AlgorithmConfig(advantage="gae", whiten=True)
    credited, _ = stage("gae", lambda: credit(groups, values, gae, 0.0, options.tokens))

    def pack() -> None:
        for micro_batches in ranks:
            for rows in micro_batches:
                TensorBatch.from_train_batch(credited.select(rows))

    stage("pack", pack)
    return {
        "samples": options.samples, "tokens": options.tokens, "raw_mb": round(raw / MB),
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "peak_over_raw": {name: round(x, 2) for name, x in peaks.items()},
    }  # fmt: skip


def credit_warm_up() -> None:
    """Loads code and thread pools, which belong to no size."""
    groups = make_groups(2 * GROUP, 2 * PROMPT)
    batch = collate([t for group in groups for t in group.trajectories])
    batch = batch.with_arrays(values=np.zeros(batch.num_tokens, dtype=np.float32))
    for name in ("group", "gae"):
        credit(groups, batch, AlgorithmConfig(advantage=name, whiten=True), 0.0, PROMPT)
    TensorBatch.from_train_batch(batch.select([0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--tokens", type=int, default=1000, help="of each sample")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=16384, help="per micro-batch")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        (options.samples,) = options.samples
        print(json.dumps(one_size(options)))
        return
    common = ["--tokens", str(options.tokens), "--ranks", str(options.ranks), "--max-tokens", str(options.max_tokens)]
    sizes = []
    for samples in options.samples:
        command = [sys.executable, "-m", "tests.bench.data_plane", "--one", "--samples", str(samples), *common]
        found = subprocess.run(command, capture_output=True, text=True)
        failed = {"samples": samples, "failed": found.stderr.strip().splitlines()[-1:]}
        sizes.append(json.loads(found.stdout) if found.returncode == 0 else failed)
    print(json.dumps({"bench": "data_plane", "sizes": sizes}))


if __name__ == "__main__":
    main()
