"""Writes `programs.jsonl`: tasks that ask for a one-line program, small enough for a model of the quickstart's size.

Columns: `prompt`, `tests` (read by the reward), and `reference`, a right program (read only by the supervised warm-up).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

# name: (program, function that computes its output)
TASKS = {
    "sum": ("print({a}+{b})", lambda a, b: a + b),
    "gap": ("print(abs({a}-{b}))", lambda a, b: abs(a - b)),
    "top": ("print(max({a},{b}))", max),
    "low": ("print(min({a},{b}))", min),
}


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` distinct tasks with two-digit numbers."""
    rng = random.Random(seed)
    every = [(name, a, b) for name in TASKS for a in range(10, 100) for b in range(10, 100)]
    tasks = []
    for name, a, b in rng.sample(every, count):
        program, answer = TASKS[name]
        tests = {"type": "stdin", "inputs": [""], "outputs": [str(answer(a, b))]}
        tasks.append({"prompt": f"{name} {a} {b}: ", "reference": program.format(a=a, b=b), "tests": tests})
    return tasks


if __name__ == "__main__":
    file = Path(__file__).parent / "programs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(2000)))
    print(f"{file}: 2000 tasks")
