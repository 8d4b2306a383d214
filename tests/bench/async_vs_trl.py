"""Completions per second of the quickstart job: sampling ahead of training, against taking turns and against TRL.

    python tests/bench/async_vs_trl.py                       all sides, 3 rounds: about 15 minutes on two cores
    python tests/bench/async_vs_trl.py --start START/model   begins with the model of `rlcore train trainer.steps=0`

Sides, in turn in every round, each in new processes:

    k0        rlcore as it is by default: two policy ranks and two engines take turns on both cores
    k0_apart  one policy rank and one engine, taking turns: the other core idles
    k1        the same with trainer.max_staleness=1: policy and engine have a core each
    trl       TRL's GRPOTrainer, generating with transformers, on both cores (TRL 1.16 supports vLLM 0.22 to 0.31, and
              rlcore's is 0.32)

Same model folder, prompts, lengths (at most `--max-new-tokens`), batch (64 x 8, two updates of 256), threads (two in
all) and niceness. Rates count whole steps, the first two left out. Prints one JSON line: medians over the rounds,
medians of the ratios of each round, and the mean seconds of each phase of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from quickstart import ours, theirs

SAMPLES = 512  # per step
APART = ["cluster.roles.policy.num_workers=1", "cluster.roles.rollout.num_workers=1"]
SIDES = {"k0": [], "k0_apart": APART, "k1": [*APART, "trainer.max_staleness=1"]}
SHOWN = ("timing_s/", "wait/", "rollout/age_mean", "perf/")


def started(folder: Path) -> Path:
    """The quickstart's model after its warm-up."""
    command = ["rlcore", "train", f"run_dir={folder / 'start'}", "trainer.steps=0", "tracking.wandb.mode=disabled"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "start" / "model"


def of_rlcore(folder: Path, start: Path, options: argparse.Namespace, side: str) -> tuple[float, dict[str, float]]:
    """Completions per second, and means of what a step reports of its time."""
    rows = ours(folder, start, options.steps, options.max_new_tokens, *SIDES[side], *options.override)
    names = sorted({name for row in rows for name in row if name.startswith(SHOWN)})
    means = {name: round(statistics.fmean(row.get(name) or 0.0 for row in rows), 4) for name in names}
    return SAMPLES / means["timing_s/step"], means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, help="model folder that all sides begin with; none: made here")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=4)
    parser.add_argument("--sides", nargs="+", default=[*SIDES, "trl"], choices=[*SIDES, "trl"])
    parser.add_argument("--override", nargs="*", default=[], help="of rlcore's config, for all of its sides")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {side: [] for side in options.sides}
    phases: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides if side != "trl"}
    with tempfile.TemporaryDirectory() as name:
        start = options.start or started(Path(name))
        for i in range(options.rounds):
            order = options.sides[i % len(options.sides) :] + options.sides[: i % len(options.sides)]
            for side in order:
                folder = Path(name, f"{side}-{i}")
                folder.mkdir()
                if side == "trl":
                    seconds = theirs(folder, start, options.steps, options.max_new_tokens, threads=2)
                    rates[side].append(SAMPLES / statistics.fmean(seconds))
                    continue
                rate, means = of_rlcore(folder, start, options, side)
                rates[side].append(rate)
                phases[side].append(means)
    print(json.dumps(result(rates, phases, options)))


def result(
    rates: dict[str, list[float]], phases: dict[str, list[dict[str, float]]], options: argparse.Namespace
) -> dict[str, object]:
    def ratio(over: str, under: str) -> float | None:
        if not {over, under} <= rates.keys():
            return None
        return round(statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True)), 3)

    middle: Callable[[list[float]], float] = statistics.median
    return {
        "bench": "async_vs_trl",
        "completions_per_s": {side: round(middle(of), 1) for side, of in rates.items()},
        "range": {side: [round(min(of), 1), round(max(of), 1)] for side, of in rates.items()},
        "k0_over_trl": ratio("k0", "trl"),
        "k1_over_trl": ratio("k1", "trl"),
        "k1_over_k0_apart": ratio("k1", "k0_apart"),
        "k1_over_k0": ratio("k1", "k0"),
        "seconds": {
            side: {name: round(middle([o.get(name, 0.0) for o in of]), 4) for name in of[0]}
            for side, of in phases.items()
        },
        "steps": options.steps,
        "rounds": options.rounds,
        "max_new_tokens": options.max_new_tokens,
    }


if __name__ == "__main__":
    main()
