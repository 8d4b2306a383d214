"""Math verdicts per second of `rlcore.rewards.math.score` over bare math-verify, in one process. Prints one JSON line.

Both judge the same answers, the pairs of `tests/rewards/corpora`, each in a box, turn about, so that a busy machine
slows both. Bare math-verify is `verify(parse(gold), parse(response))` as its README has it, with golds in dollars,
without which it reads few of them, and with its time limits on, which a single process needs. What makes either side
work for longer than `--limit` seconds is left out for both, and counted. What our side remembers of texts it has read
is forgotten before every round.

    python -m tests.bench.math_reward --rounds 5
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlcore.rewards import math
from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.values import exact, structure, symbolic
from tests.rewards.corpora import pairs


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError

    held = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, held)


def timed(judge: Callable[[str, str], object], response: str, reference: str) -> tuple[float, bool]:
    """Seconds, and whether the answer was found right; an exception counts as wrong."""
    begun = time.perf_counter()
    try:
        right = bool(judge(response, reference))
    except Exception:
        right = False
    return time.perf_counter() - begun, right


def ours(response: str, reference: str) -> bool:
    return math.score(response, reference).score == 1.0


def bare(response: str, reference: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(f"${reference}$"), parse(response)))


def forget() -> None:
    for read in (math._read, structure.read, symbolic.parse, units.read, exact.clean, exact.number):
        read.cache_clear()


def slow(limit: float, response: str, reference: str) -> bool:
    try:
        with alarm(limit):
            ours(response, reference)
        begun = time.perf_counter()
        timed(bare, response, reference)  # it has an alarm of its own
        return time.perf_counter() - begun > limit
    except TimeoutError:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.0)
    parser.add_argument("--every", type=int, default=1, help="take every nth pair")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    cases = [(rf"The answer is $\boxed{{{p.answer}}}$.", p.reference, p.equal) for p in pairs()][:: options.every]
    kept = [case for case in cases if not slow(options.limit, *case[:2])]
    sides = {"ours": ours, "bare": bare}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    each: list[list[float]] = [[] for _ in kept]
    right = dict.fromkeys(sides, 0)
    for round_ in range(options.rounds):
        for name in sorted(sides, reverse=bool(round_ % 2)):
            right[name], total = 0, 0.0
            forget()
            for i, (response, reference, equal) in enumerate(kept):
                spent, verdict = timed(sides[name], response, reference)
                total += spent
                right[name] += verdict == equal
                if name == "ours":
                    each[i].append(spent)
            seconds[name].append(total)
    best = [1e3 * min(times) for times in each]
    print(
        json.dumps(
            {
                "bench": "math",
                "answers": len(kept),
                "left_out": len(cases) - len(kept),
                "rounds": options.rounds,
                "ours_per_s": round(len(kept) / min(seconds["ours"])),
                "bare_per_s": round(len(kept) / min(seconds["bare"])),
                "ratio_median": round(
                    statistics.median(b / o for o, b in zip(seconds["ours"], seconds["bare"], strict=True)), 2
                ),
                "ratio_of_minima": round(min(seconds["bare"]) / min(seconds["ours"]), 2),
                "median_ms": round(statistics.median(1e3 * t for times in each for t in times), 3),
                "worst_ms": round(max(best), 1),
                "ours_right": round(right["ours"] / len(kept), 4),
                "bare_right": round(right["bare"] / len(kept), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
