"""Prints the table of examples/rounds/README.md: accuracy after every round, from the artefacts of finished runs.

    python examples/rounds/table.py runs/llama3-seed0 runs/nemotron-seed0
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlcore.rounds.store.artefact import Artefact
from rlcore.rounds.store.store import ArtefactStore


def row(run_dir: Path) -> str:
    """One table row: all evaluations by round and time; seconds are the sum over all stages."""
    with ArtefactStore(run_dir / "artefacts", read_only=True) as store:
        newest = {(one.round, one.stage): one for one in reversed(store.artefacts()) if one.round}
    artefacts = sorted(newest.values(), key=lambda one: (one.round, one.created))
    rounds = " -> ".join(accuracy(one) for one in artefacts if one.kind == "evaluate")
    models = [one.report["held_out"] for one in artefacts if one.kind == "reward_model" and "held_out" in one.report]
    quality = [f"{m['accuracy']:.0%}" for m in models if "accuracy" in m]
    quality += [f"rho {m['spearman/correctness']:.2f}" for m in models if "spearman/correctness" in m]
    seconds = sum(one.seconds for one in artefacts)
    return f"| `{run_dir.name}` | {rounds} | {', '.join(quality) or '-'} | {seconds:.0f} |"


def accuracy(one: Artefact) -> str:
    """`evaluate_sft` at 0.644 is "sft 64.4 %", `evaluate` "64.4 %"."""
    label = one.stage.removeprefix("evaluate").strip("_")
    return f"{label} {one.report['accuracy'] * 100:.1f} %".strip()


if __name__ == "__main__":
    print("| run | held-out accuracy after each round | reward model on held-out pairs | seconds |\n|---|---|---|---|")
    for name in sys.argv[1:]:
        print(row(Path(name)))
