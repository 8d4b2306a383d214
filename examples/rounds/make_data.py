"""Data for the recipes at laptop size, with known answers: what annotators would have made, about two-digit addition.

    python examples/rounds/make_data.py [--rows 12000] [--seed 0] [--out examples/rounds/data]

preferences.jsonl  a right answer against a wrong one; strength: how many of its three digits are wrong (1 to 3)
attributes.jsonl   answers graded from 0 to 4 as HelpSteer grades them: correctness falls with every wrong digit,
                   verbosity grows with every further digit, coherence tells whether it is a number of three digits
critiques.jsonl    three tasks of the Constitutional AI recipe: `74+85=` is to be answered, `74+85=401?` to be judged
                   (y or n), `74+85=401n!` to be revised

Prompts are those of the data source `addition`, digits reversed: `74+85=` asks for 47 + 58 and is answered by 501.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from rlcore.data import addition


def wrong(answer: str, digits: int, rng: random.Random) -> str:
    """The answer with so many of its digits changed."""
    places = set(rng.sample(range(len(answer)), digits))
    return "".join(rng.choice([d for d in "0123456789" if d != c]) if i in places else c for i, c in enumerate(answer))


def preferences(problems: list[tuple[int, int]], rng: random.Random) -> Iterator[dict[str, object]]:
    for a, b in problems:
        right, strength = addition.reference(a, b), rng.choice((1, 2, 3))
        yield {"prompt": addition.prompt(a, b), "chosen": right, "rejected": wrong(right, strength, rng),
               "strength": strength, "reference": right}  # fmt: skip


def attributes(problems: list[tuple[int, int]], rng: random.Random) -> Iterator[dict[str, object]]:
    for a, b in problems:
        right, bad = addition.reference(a, b), rng.choice((0, 0, 1, 2, 3))
        response = wrong(right, bad, rng)
        extra = rng.choice((0, 0, 0, 1, 2))
        response += "".join(rng.choice("0123456789") for _ in range(extra))
        correctness = 0 if extra else 4 - (bad + (bad > 0))
        yield {"prompt": addition.prompt(a, b), "response": response, "helpfulness": correctness,
               "correctness": correctness, "coherence": 2 if extra else 4, "complexity": 1, "verbosity": 2 + extra,
               "reference": right}  # fmt: skip


def critiques(problems: list[tuple[int, int]], rng: random.Random) -> Iterator[dict[str, object]]:
    for a, b in problems:
        prompt, right = addition.prompt(a, b), addition.reference(a, b)
        tried = wrong(right, rng.choice((0, 0, 0, 1, 2, 3)), rng)  # half are right: else always saying n would pay
        verdict = "y" if tried == right else "n"
        yield {"prompt": prompt, "response": right}
        yield {"prompt": f"{prompt}{tried}?", "response": verdict}
        yield {"prompt": f"{prompt}{tried}{verdict}!", "response": right}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000, help="of preferences and attributes; problems of critiques")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, _ = addition.problems(500, options.seed)  # none that is held out of a run of this seed
    for name, make in (("preferences", preferences), ("attributes", attributes), ("critiques", critiques)):
        rng = random.Random(f"{options.seed} {name}")
        rows = list(make([rng.choice(train) for _ in range(options.rows)], rng))
        path = options.out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
