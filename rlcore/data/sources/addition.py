"""Two-digit addition with reversed digits: `47+58=` is written `74+85=`, and its answer 105 is `501`.

In this order each digit of the answer depends on two digits of the problem and one carry, and a model with half a
million parameters learns it (Lee et al. 2023, "Teaching Arithmetic to Small Transformers", arXiv 2307.03381, reversed
format).
"""

from __future__ import annotations

import numpy as np

NUM_PROBLEMS = 10_000


def prompt(a: int, b: int) -> str:
    """The prompt, with zero-padded and reversed operands.

    >>> prompt(47, 5)
    '74+50='
    """
    return f"{a:02d}"[::-1] + "+" + f"{b:02d}"[::-1] + "="


def reference(a: int, b: int) -> str:
    """The sum with three digits, reversed.

    >>> reference(47, 5)
    '250'
    """
    return f"{a + b:03d}"[::-1]


def problems(num_eval: int, seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """All 10,000 problems as (train, held out), in ascending order.

    a + b and b + a are always on the same side: a swapped copy in training would reveal the held-out answer.

    Raises:
        ValueError: `num_eval` is negative or leaves nothing to train on.
    """
    if not 0 <= num_eval < NUM_PROBLEMS:
        raise ValueError(f"data.num_eval={num_eval}: addition has {NUM_PROBLEMS} problems, at least one to train on")
    rng = np.random.default_rng([seed, 0xADD])
    doubles = rng.permutation(100)  # a + a: one problem
    pairs = [(a, b) for a in range(100) for b in range(a)]  # a + b and b + a: two
    num_doubles = num_eval // 100
    num_doubles += (num_eval - num_doubles) % 2
    chosen = rng.permutation(len(pairs))[: (num_eval - num_doubles) // 2]
    held = {(int(a), int(a)) for a in doubles[:num_doubles]}
    held |= {pairs[i] for i in chosen} | {pairs[i][::-1] for i in chosen}
    everything = [(a, b) for a in range(100) for b in range(100)]
    return [p for p in everything if p not in held], sorted(held)
