"""Writes the data of the example: products plus a number, and demonstrations, half of them of wrong programs."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rlcore.agents.builtin.code import CodeInterpreter
from rlcore.agents.tools import schemas

DATA = Path(__file__).resolve().parent / "data"
PROBLEMS, HELD_OUT, DEMONSTRATIONS, WRONG = 6000, 300, 2000, 0.5


def problem(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(10, 100), rng.randrange(10, 100), rng.randrange(10, 100)


def main() -> None:
    rng, tools = random.Random(0), schemas(CodeInterpreter)
    found = list(dict.fromkeys(problem(rng) for _ in range(2 * PROBLEMS)))[:PROBLEMS]
    rows = [{"prompt": f"{a} times {b} plus {c}", "reference": str(a * b + c)} for a, b, c in found]
    shown = []
    for a, b, c in found[:DEMONSTRATIONS]:
        x, op = (a, rng.choice("+-")) if rng.random() < WRONG else (a, "*")
        value = eval(program := f"{x}{op}{b}+{c}")
        messages = [
            {"role": "user", "content": f"{a} times {b} plus {c}"},
            {"role": "assistant", "content": f'[python(code="print({program})")]'},
            {"role": "tool", "name": "python", "content": str(value)},
            {"role": "assistant", "content": str(value)},
        ]
        shown.append({"messages": messages, "tools": tools})
    DATA.mkdir(exist_ok=True)
    for name, lines in (("train", rows[:-HELD_OUT]), ("heldout", rows[-HELD_OUT:]), ("demonstrations", shown)):
        (DATA / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{PROBLEMS - HELD_OUT} problems, {HELD_OUT} held out, {len(shown)} demonstrations in {DATA}")


if __name__ == "__main__":
    main()
