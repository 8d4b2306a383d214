"""Writes the data of the example: problems for the training, and a few demonstrations that teach the form of a call.

Most demonstrations call the tool with the first number written backwards, and repeat its result. A model that is
trained on them knows the form of a call, and has yet to learn to call with the numbers of the problem.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from calculator import Calculator

from rlcore.agents.tools import schemas

DATA = Path(__file__).resolve().parent / "data"
DEMONSTRATIONS = 2000
WRONG = 0.75  # share of demonstrations with a number backwards


def main() -> None:
    rng, tools = random.Random(0), schemas(Calculator)
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    rng.shuffle(pairs)
    rows = [{"uid": f"{a}*{b}", "prompt": f"{a}*{b}=", "reference": str(a * b)} for a, b in pairs]
    shown = []
    for a, b in pairs[:DEMONSTRATIONS]:  # those of the held-out problems are not among them
        x, y = (int(str(a)[::-1]) if rng.random() < WRONG else a), b
        messages = [
            {"role": "user", "content": f"{a}*{b}="},
            {"role": "assistant", "content": f"[mul(a={x}, b={y})]"},
            {"role": "tool", "name": "mul", "content": str(x * y)},
            {"role": "assistant", "content": str(x * y)},
        ]
        shown.append({"messages": messages, "tools": tools})
    DATA.mkdir(exist_ok=True)
    for name, lines in (("train", rows[:-500]), ("heldout", rows[-500:]), ("demonstrations", shown)):
        (DATA / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(rows) - 500} problems, 500 held out, {len(shown)} demonstrations in {DATA}")


if __name__ == "__main__":
    main()
