"""Synthetic annotations of two-digit additions for the laptop-size recipes. They replace human annotators.

    python examples/rounds/make_data.py [--rows 12000] [--pairs 36000] [--seed 0] [--out examples/rounds/data]

preferences.jsonl  a right answer and a slip: mostly one digit is off by one, as with a dropped or extra carry, and the
                   third digit is 0 or 1; strength: the number of wrong digits (1 to 3). With random digits a reward
                   model would learn to detect only impossible sums
attributes.jsonl   answers graded from 0 to 4 as in HelpSteer: correctness falls with every wrong digit, verbosity
                   grows with every extra digit, coherence is high for numbers of three digits
critiques.jsonl    three tasks of the Constitutional AI recipe: `74+85=` is answered carelessly (a carry is forgotten
                   seven times in ten); `74+85=401?` is judged digit by digit, `nyy`, with y for a right digit;
                   `74+85=401nyy!` is revised

Prompts are those of the data source `addition`, with reversed digits: `74+85=` asks for 47 + 58; the answer is 501.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from rlcore.data.sources import addition

# Digits of an answer (units first) that are wrong together -> weight in percent
SLIPS = {(1,): 45, (0,): 20, (0, 1): 20, (2,): 5, (1, 2): 5, (0, 1, 2): 5}


def wrong(answer: str, digits: int, rng: random.Random) -> str:
    """The answer with `digits` of its digits changed."""
    places = set(rng.sample(range(len(answer)), digits))
    return "".join(rng.choice([d for d in "0123456789" if d != c]) if i in places else c for i, c in enumerate(answer))


def slip(answer: str, rng: random.Random) -> str:
    """A wrong answer, drawn with about the error frequencies of a model that is right half of the time."""
    places = rng.choices(list(SLIPS), list(SLIPS.values()))[0]
    steps = [rng.choices((1, -1, 2, -2, rng.randint(1, 9)), (40, 40, 5, 5, 10))[0] for _ in places]
    digits = [int(c) for c in answer]
    for i, step in zip(places, steps, strict=True):
        digits[i] = (digits[i] + step) % 10 if i < 2 else 1 - digits[i]
    return "".join(map(str, digits))


def preferences(problems: list[tuple[int, int]], rng: random.Random) -> Iterator[dict[str, object]]:
    for a, b in problems:
        right = addition.reference(a, b)
        rejected = slip(right, rng)
        strength = sum(x != y for x, y in zip(right, rejected, strict=True))
        yield {"prompt": addition.prompt(a, b), "chosen": right, "rejected": rejected, "strength": strength,
               "reference": right}  # fmt: skip


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


def forgotten(a: int, b: int) -> list[str]:
    """For each carry of the sum: the answer without that carry."""
    units, tens = a % 10 + b % 10, a // 10 + b // 10
    carried = tens + units // 10
    first = [f"{units % 10}{tens % 10}{tens // 10}"] if units > 9 else []
    return first + ([f"{units % 10}{carried % 10}0"] if carried > 9 else [])


def overdone(a: int, b: int) -> list[str]:
    """The answer with a false carry into the tens; empty if that carry is right."""
    return [addition.reference(a + 10, b)] if a % 10 + b % 10 < 10 else []


def critiques(problems: list[tuple[int, int]], rng: random.Random) -> Iterator[dict[str, object]]:
    for a, b in problems:
        prompt, right, slips = addition.prompt(a, b), addition.reference(a, b), forgotten(a, b)
        hurried = rng.choice(slips) if slips and rng.random() < 0.7 else right
        tried = rng.choice([*slips, *overdone(a, b)]) if rng.random() < 0.5 else slip(right, rng)
        if rng.random() < 0.5:  # half are right: otherwise a judge that always answers n would do well
            tried = right
        verdict = "".join("y" if x == y else "n" for x, y in zip(tried, right, strict=True))
        yield {"prompt": prompt, "response": hurried}
        yield {"prompt": f"{prompt}{tried}?", "response": verdict}
        yield {"prompt": f"{prompt}{tried}{verdict}!", "response": right}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000, help="rows of attributes and problems of critiques")
    parser.add_argument("--pairs", type=int, default=36_000, help="rows of preferences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, _ = addition.problems(500, options.seed)  # excludes the held-out problems of a run with this seed
    for name, make in (("preferences", preferences), ("attributes", attributes), ("critiques", critiques)):
        rng = random.Random(f"{options.seed} {name}")
        number = options.pairs if name == "preferences" else options.rows
        rows = list(make([rng.choice(train) for _ in range(number)], rng))
        path = options.out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
