"""Many math verdicts through the verifier pool, hangs and crashes among them. Prints one JSON line; exits 1 on failure.

    python -m tests.bench.soak --verdicts 20000 --processes 2

Most samples are pairs of `tests/rewards/corpora`; a random share hangs, kills its process, runs out of memory, raises
or judges a hostile answer. It holds when the pace of the pairs stays flat, every sample has the status
that belongs to it, no verdict comes later than its deadline plus one second, and processes, threads, descriptors and
memory are at the end what they were after the first tenth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from pathlib import Path

import psutil

from rlcore.rewards.composition import Item, Term
from rlcore.rewards.pool import VerifierPool
from rlcore.types import RewardInput, RewardResult
from tests.rewards.corpora import hostile, pairs

USER = Path(__file__).parent.parent / "rewards" / "user_rewards.py"
MATH = (Term("math"),)
MISBEHAVE = (Term("misbehave", f"{USER}:misbehave"),)
FAULTS = {"hang": "timeout", "hang_deaf": "timeout", "crash": "error", "hard_exit": "error", "memory": "error",
          "raise": "error", "none": "error"}  # fmt: skip
GROUP = 8


def samples(count: int, share: float, seed: int) -> list[tuple[Item, str | None]]:
    """Items, and the status that each must get; None where the answer is hostile and any is right."""
    rng = random.Random(seed)
    known, attacks, faults = pairs(), hostile(), list(FAULTS)
    found: list[tuple[Item, str | None]] = []
    for _ in range(count):
        draw = rng.random()
        if draw < share / 2:
            fault = rng.choice(faults)
            found.append((Item(MISBEHAVE, RewardInput("p", fault)), FAULTS[fault]))
        elif draw < share:
            found.append((Item(MATH, RewardInput("p", rf"\boxed{{{rng.choice(attacks)}}}", r"\sqrt{5}")), None))
        else:
            pair = rng.choice(known)
            found.append((Item(MATH, RewardInput("p", rf"\boxed{{{pair.answer}}}", pair.reference)), "ok"))
    return found


def footprint(pool: VerifierPool) -> dict[str, float]:
    """Of this process and its descendants; memory in MiB, without what is shared counted twice."""
    gc.collect()
    us = psutil.Process()
    processes = [us, *us.children(recursive=True)]
    held = (us, psutil.Process(pool.pids()["zygote"]))
    return {
        "processes": len(processes),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory_mb": round(sum(p.memory_full_info().uss for p in held) / 2**20, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=0.02, help="of faults and hostile answers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = samples(options.verdicts, options.share, options.seed)
    tenth = max(GROUP, len(work) // 10)
    rates: list[float] = []
    paces: list[float] = []  # verdicts per second of work on plain pairs: faults and attacks drawn do not count
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    latest = 0.0
    before: dict[str, float] = {}
    with VerifierPool(options.processes, options.timeout, memory_limit_mb=2048) as pool:
        pool.submit([Item(MATH, RewardInput("p", r"\boxed{\int_0^1 x dx}", r"\sqrt{5}"))]).result()  # imports
        for start in range(0, len(work), tenth):
            begun = time.monotonic()
            results, seconds = run(pool, work[start : start + tenth])
            elapsed = time.monotonic() - begun
            part = work[start : start + tenth]
            worked = [seconds[i] for i, (_, expected) in enumerate(part) if expected == "ok"]
            rates.append(len(results) / elapsed)
            paces.append(len(worked) / max(sum(worked), 1e-6))
            for (item, expected), result, spent in zip(part, results, seconds, strict=True):
                statuses[result.status.value] += 1
                latest = max(latest, spent)
                if expected not in (None, result.status.value) or (expected is None and result.score):
                    wrong.append(f"{item.input.response[:60]!r}: {result.status.value}, not {expected}")
            print(f"{start + len(results)}/{len(work)}: {rates[-1]:.0f} verdicts/s, {dict(statuses)}", file=sys.stderr)
            before = before or footprint(pool)
        after = footprint(pool)
    flat = statistics.median(paces[-3:]) / statistics.median(paces[:3])
    same = {"processes": after["processes"] <= 2 + options.processes, "threads": after["threads"] == before["threads"]}
    same["descriptors"] = after["descriptors"] <= before["descriptors"] + 2
    same["memory_mb"] = after["memory_mb"] <= 1.2 * before["memory_mb"] + 16
    on_time = latest <= options.timeout + 1.0
    whole = sum(statuses.values()) == len(work) and (flat > 0.7 or len(work) < 5000)  # small tenths are noise
    report = {
        "bench": "soak",
        "verdicts": len(work),
        "verdicts_per_s_of_tenths": [round(rate) for rate in rates],
        "pace_of_tenths": [round(pace) for pace in paces],
        "last_over_first_pace": round(flat, 2),
        "statuses": dict(statuses),
        "unexpected": wrong[:10],
        "num_unexpected": len(wrong),
        "latest_s": round(latest, 2),
        "after_first_tenth": before,
        "after": after,
        "holds": all(same.values()) and not wrong and on_time and whole,
    }
    print(json.dumps(report))
    return int(not report["holds"])


def run(pool: VerifierPool, work: list[tuple[Item, str | None]]) -> tuple[list[RewardResult], list[float]]:
    """Groups of samples, a few at a time in the pool, as the loop submits them."""
    waiting: deque[tuple[Future[list[RewardResult]], list[float]]] = deque()
    results: list[RewardResult] = []
    seconds: list[float] = []
    groups = [work[i : i + GROUP] for i in range(0, len(work), GROUP)]
    while groups or waiting:
        while groups and len(waiting) < 8 * pool.num_processes:
            spent: list[float] = []
            waiting.append((pool.submit([item for item, _ in groups.pop(0)], spent), spent))
        future, spent = waiting.popleft()
        results += future.result(timeout=600)
        seconds += spent
    return results, seconds


if __name__ == "__main__":
    sys.exit(main())
