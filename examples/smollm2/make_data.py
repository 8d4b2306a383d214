"""Writes train.jsonl and eval.jsonl next to this file: short arithmetic word problems with their answers."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEMPLATES = [
    "What is {a} + {b}? Answer with just the number.",
    "Anna has {a} apples and gets {b} more. How many has she now? Answer with just the number.",
    "A bus with {a} people takes on {b} more. How many ride in it? Answer with just the number.",
]


def main() -> None:
    rng = random.Random(0)
    pairs = [(a, b) for a in range(10, 60) for b in range(10, 40)]
    rng.shuffle(pairs)
    rows = [{"prompt": rng.choice(TEMPLATES).format(a=a, b=b), "reference": str(a + b)} for a, b in pairs]
    for name, part in (("eval", rows[:64]), ("train", rows[64:])):
        path = Path(__file__).parent / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        print(f"{path}: {len(part)} rows")


if __name__ == "__main__":
    main()
