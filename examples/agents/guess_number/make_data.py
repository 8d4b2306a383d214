"""Writes the data of the example: the numbers, and games of a player that guesses at random within the limits it knows,
or forgets them, as demonstrations.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
GAMES = 4000
FORGETS = 0.3  # share of guesses that ignore what is known


def game(number: int, rng: random.Random, tries: int = 10) -> list[dict[str, str]]:
    low, high, messages = 0, 99, [{"role": "user", "content": "?"}]
    for _ in range(tries):
        guess = rng.randint(0, 99) if rng.random() < FORGETS else rng.randint(low, high)
        messages.append({"role": "assistant", "content": str(guess)})
        if guess == number:
            break
        messages.append({"role": "user", "content": ">" if guess < number else "<"})
        low, high = (max(low, guess + 1), high) if guess < number else (low, min(high, guess - 1))
    return messages if messages[-1]["role"] == "assistant" else messages[:-1]


def main() -> None:
    rng = random.Random(0)
    DATA.mkdir(exist_ok=True)
    rows = [{"uid": f"n{i}-{k}", "prompt": "?", "number": i} for k in range(20) for i in range(100)]
    (DATA / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [{"uid": f"h{i}", "prompt": "?", "number": i} for i in range(100)]
    (DATA / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    games = [{"messages": game(rng.randrange(100), rng)} for _ in range(GAMES)]
    (DATA / "games.jsonl").write_text("".join(json.dumps(row) + "\n" for row in games))
    print(f"{len(rows)} rows, {len(held)} held out, {len(games)} games in {DATA}")


if __name__ == "__main__":
    main()
