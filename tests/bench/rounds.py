"""Seconds of a round on actors that live through it, over a start of the actors per stage. Prints one JSON line.

Both sides run `rlcore rounds` with the same stages on the same tiny model and must end with the same artefact hashes.
Live: one command. Cold: a command for each stage that needs an actor (stages that need none ride along with the next),
each with one stage more than the last: it starts Ray, vLLM, DeepSpeed and the verifiers, does its stage and ends. Every
cold command starts all roles of the config; separate scripts would leave some out: for them, cold is an upper bound.

    python -m tests.bench.rounds --repeats 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.rounds_run import ENV, REWARD, STAGES, hashes, overrides

NO_ACTOR = ("filter", "annotate", "best", "average")  # done by the driver alone


def groups() -> list[list[str]]:
    """Stages in the order of the round, cut after each that needs an actor."""
    found: list[list[str]] = [[]]
    for name in STAGES:
        found[-1].append(name)
        if name not in NO_ACTOR:
            found.append([])
    return [group for group in found if group]


def command(run_dir: Path, reward: Path, names: list[str]) -> float:
    """Seconds of one command. Raises RuntimeError with the end of its output."""
    known = STAGES | {"generate": STAGES["generate"] | {"models": ["base"]}}  # one round: nothing previous
    stages = {name: known[name] for name in names}
    asked = overrides(run_dir, reward, stages, count=1)
    start = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "rlcore"), "rounds", *asked],
        env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"rlcore rounds ended with {done.returncode}\n{done.stdout[-4000:]}")
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    live, cold = [], []
    with tempfile.TemporaryDirectory(prefix="rlcore-bench-") as folder:
        reward = Path(folder) / "reward.py"
        reward.write_text(REWARD)
        for repeat in range(options.repeats):
            one, many = Path(folder) / f"live{repeat}", Path(folder) / f"cold{repeat}"
            live.append(command(one, reward, list(STAGES)))
            done, seconds = [], []
            for group in groups():
                done += group
                seconds.append(command(many, reward, done))
            cold.append(sum(seconds))
            if hashes(one) != hashes(many):
                raise RuntimeError("the two sides did not make the same artefacts")
            print(f"live {live[-1]:.1f} s, cold {[round(s, 1) for s in seconds]} s", file=sys.stderr, flush=True)
    ratios = [b / a for a, b in zip(live, cold, strict=True)]
    print(json.dumps({
        "bench": "rounds", "stages": len(STAGES), "starts_cold": len(groups()),
        "live_s": round(statistics.median(live), 1), "cold_s": round(statistics.median(cold), 1),
        "saved_s": round(statistics.median(b - a for a, b in zip(live, cold, strict=True)), 1),
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
