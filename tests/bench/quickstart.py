"""Whole steps of the quickstart job: share of a step that is no named phase, and completions/s over TRL's GRPOTrainer.

    python tests/bench/quickstart.py                     rlcore alone
    python tests/bench/quickstart.py --trl               against TRL (of the test environment), in turn, in one run
    rlcore train trainer.steps=0 run_dir=START           a start as in the quickstart: --start START/model

Same model, prompts, lengths (at most `--max-new-tokens`), batch (64 x 8, two updates of 256), cores and niceness.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PHASES = ("gen", "reward", "old_log_prob", "ref", "update_actor", "update_weights")


def ours(folder: Path, start: Path | None, steps: int, tokens: int, *extra: str) -> list[dict[str, float]]:
    """Rows of all steps but the first two, which warm caches up; `extra` are overrides."""
    run = folder / "ours"
    overrides = [
        f"run_dir={run}", "resume=never",
        f"trainer.steps={steps}", "trainer.warmup.steps=0", "trainer.checkpoint.every=0",
        "trainer.eval.every=0", "data.num_eval=8", f"rollout.max_new_tokens={tokens}", "tracking.wandb.mode=disabled",
        "tracking.console=false",
        *([f"model.path={start}"] if start else []), *extra,
    ]  # fmt: skip
    subprocess.run(["rlcore", "train", *overrides], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] > 2]


def theirs(folder: Path, model: Path, steps: int, tokens: int, threads: int) -> list[float]:
    out = folder / "theirs.json"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    # as low as Ray puts its workers: on a busy machine the peer would otherwise be served first
    command = ["nice", "-n", "15", sys.executable, __file__, "--peer", str(out), "--model", str(model)]
    options = ["--steps", str(steps), "--max-new-tokens", str(tokens)]
    subprocess.run([*command, *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def peer(out: Path, model: Path, steps: int, tokens: int) -> None:
    """Runs in a process of its own: seconds of every step but the first two."""
    import time

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rlcore.data.sources.config import DataConfig
    from rlcore.data.sources.load import load_data
    from rlcore.rewards.math import score

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = load_data(DataConfig(num_eval=8), tokenizer, 0)
    rows = [{"prompt": p.text, "reference": p.reference} for p in data.train]

    def reward(completions: list[str], reference: list[str], **_: object) -> list[float]:
        return [score(c, r).score for c, r in zip(completions, reference, strict=True)]

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            times.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=str(out.parent / "trl"), use_cpu=True, bf16=False,
        per_device_train_batch_size=256, num_generations=8,
        steps_per_generation=2, max_completion_length=tokens, max_steps=2 * steps, learning_rate=2e-4, beta=0.0,
        loss_type="dapo", report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model), reward, config,
        Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    ends = times[1::2]  # two optimizer steps share one batch of samples
    out.write_text(json.dumps([b - a for a, b in itertools.pairwise(ends[1:])]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", action="store_true")
    parser.add_argument("--start", type=Path, help="folder of the model both begin with; none: an untrained one")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of TRL; rlcore runs two processes of one thread")
    parser.add_argument("--max-new-tokens", type=int, default=4)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        peer(args.peer, args.model, args.steps, args.max_new_tokens)
        return
    rows: list[dict[str, float]] = []
    rates: list[float] = []
    peers: list[float] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measured = ours(folder, args.start, args.steps, args.max_new_tokens)
            rows += measured
            rates.append(512 / statistics.median(row["timing_s/step"] for row in measured))
            if args.trl:
                model = args.start or folder / "ours" / "initial_model"
                seconds = theirs(folder, model, args.steps, args.max_new_tokens, args.threads)
                peers.append(512 / statistics.median(seconds))
    other = [1 - sum(row.get(f"timing_s/{p}", 0.0) or 0.0 for p in PHASES) / row["timing_s/step"] for row in rows]
    result = {
        "bench": "quickstart",
        "completions_per_s": round(statistics.median(rates), 1),
        "other_share": round(statistics.median(other), 4),
        "phases_s": {p: round(statistics.median(row.get(f"timing_s/{p}") or 0.0 for row in rows), 4) for p in PHASES},
        "step_s": round(statistics.median(row["timing_s/step"] for row in rows), 4),
    }
    if peers:
        result |= {
            "trl_completions_per_s": round(statistics.median(peers), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(rates, peers, strict=True)), 3),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
