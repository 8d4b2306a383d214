"""Runs the grid of the table: K = 0, 1, 2, 4 x three losses x seeds 0, 1, 2 on the quickstart task, one run at a time.

    python examples/async/run.py                               all 36 runs, about 3 hours on two cores
    python examples/async/run.py --only k1-rollout k4-trainer  some cells, all seeds
    python examples/async/run.py --steps 60 --seeds 0          a short grid

Runs are written to runs/async/k<K>-<loss>-seed<seed>; finished ones are skipped, an unfinished one resumes from its
last checkpoint. All runs of a seed start from one warmed-up model. Seeds come first: after a third of the time the grid
is complete for seed 0. `table.py` makes the table and the picture, of a partial grid too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOSSES = {
    "trainer": ["algorithm=grpo"],  # ratio to the trainer's weights, truncated importance weight
    "rollout": ["algorithm=grpo_rollout"],  # ratio to the sampler
    "masked": ["algorithm=grpo_icepop"],  # ratio to the trainer's weights, importance weight masked outside [0.5, 5]
}
UNGUARDED = [f"algorithm.files=[{HERE / 'unguarded.py'}]", "algorithm.loss=unguarded_ppo_clip"]
AHEAD = (0, 1, 2, 4)
APART = ["cluster.roles.policy.num_workers=1", "cluster.roles.rollout.num_workers=1"]  # a core each, for every K


def rlcore(*overrides: str) -> None:
    command = [shutil.which("rlcore") or str(Path(sys.executable).with_name("rlcore")), "train", *overrides]
    subprocess.run(command, check=True, env={"WANDB_MODE": "offline"} | os.environ)


def settings(ahead: int, loss: str) -> list[str]:
    unguarded = UNGUARDED if loss == "trainer" and ahead >= 2 else []
    return [*LOSSES[loss], *unguarded, f"trainer.max_staleness={ahead}", *APART]


def main() -> None:
    cells = [f"k{ahead}-{loss}" for ahead in AHEAD for loss in LOSSES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="CELL", default=cells, choices=cells, help=", ".join(cells))
    parser.add_argument("--out", type=Path, default=Path("runs/async"))
    options = parser.parse_args()
    for seed in options.seeds:
        start = options.out / f"start-seed{seed}"
        if not (start / "finished").exists():
            rlcore(f"seed={seed}", f"run_dir={start}", "trainer.steps=0")
        for cell in options.only:
            run_dir = options.out / f"{cell}-seed{seed}"
            if (run_dir / "finished").exists():
                print(f"{run_dir} is finished", flush=True)
                continue
            ahead, loss = cell[1:].split("-")
            rlcore(
                f"seed={seed}", f"run_dir={run_dir}", f"model.path={start / 'model'}", "trainer.warmup.steps=0",
                f"trainer.steps={options.steps}", "trainer.eval.every=10", *settings(int(ahead), loss),
            )  # fmt: skip


if __name__ == "__main__":
    main()
