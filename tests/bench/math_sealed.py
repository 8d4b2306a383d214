"""Error of `rlcore.rewards.math.score` on the sealed answers of `tests/rewards/math/sealed`. Prints one JSON line.

Each answer is scored twice: in the strict mode that it was written for, and in `free`. The line holds, per kind and
mode, how many hedged answers were paid, and the accuracy on the honest ones, with the ids of every item that was
misjudged. Nothing passes or fails here: the folder's README says why these answers must not be used to change rules.

    python -m tests.bench.math_sealed
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rlcore.rewards.math import score

FOLDER = Path(__file__).parent.parent / "rewards" / "math" / "sealed"
READINGS = ("strict", "free")


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one sealed file."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def paid(row: dict[str, Any], reading: str) -> bool:
    """Whether the answer is paid in its own mode (`strict`) or in `free`."""
    mode = row["mode"] if reading == "strict" else "free"
    return score(row["response"], row["reference"], answer=mode).score == 1


def hedged() -> dict[str, Any]:
    """Counts of paid hedged answers per kind and mode, and their ids per reading."""
    kinds: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    ids: dict[str, list[str]] = {reading: [] for reading in READINGS}
    rows = read("hedged.jsonl")
    for row in rows:
        counts = kinds[row["kind"]].setdefault(row["mode"], {"items": 0, "strict": 0, "free": 0})
        counts["items"] += 1
        for reading in READINGS:
            if paid(row, reading):
                counts[reading] += 1
                ids[reading].append(row["id"])
    totals = {reading: len(ids[reading]) for reading in READINGS}
    return {"items": len(rows), "paid": totals, "by_kind": kinds, "paid_ids": ids}


def honest() -> dict[str, Any]:
    """Accuracy on the honest completions per mode and in all, and the ids of the misjudged ones per reading."""
    modes: dict[str, dict[str, int]] = defaultdict(lambda: {"items": 0, "strict": 0, "free": 0})
    ids: dict[str, list[str]] = {reading: [] for reading in READINGS}
    rows = read("honest.jsonl")
    for row in rows:
        counts = modes[row["mode"]]
        counts["items"] += 1
        for reading in READINGS:
            if paid(row, reading) == row["right"]:
                counts[reading] += 1
            else:
                ids[reading].append(row["id"])
    accuracy = {reading: round(1 - len(ids[reading]) / len(rows), 4) for reading in READINGS}
    return {"items": len(rows), "accuracy": accuracy, "correct_by_mode": modes, "misjudged_ids": ids}


def main() -> None:
    begin = time.perf_counter()
    report = {"hedged": hedged(), "honest": honest()}
    print(json.dumps({"bench": "math_sealed", **report, "seconds": round(time.perf_counter() - begin, 2)}))


if __name__ == "__main__":
    main()
