"""Many programs through the verifier pool, hangs, crashes and killed sandboxes among them. One JSON line; exits 1 on
failure.

    python -m tests.bench.soak_code --programs 5000 --processes 2 --tier auto

Most are the harmless programs of `tests/rewards/corpora` with known scores. A random share hangs, crashes, floods its
output or takes all memory; every so often a zygote of the sandbox, or a verifier, is killed from here. It holds when
every sample has the status and score that belong to it, no verdict is later than its deadline plus one second, the
pace stays flat, and processes, threads, descriptors and memory are at the end what they were after the first tenth.
Samples in flight when a verifier itself was killed may be `error`. Those whose sandbox alone was killed may not, unless
all tries were killed, or one in the second half of the time to the deadline: such a sample says of each of its tries
that the sandbox was gone, and for each of these there must be a kill of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from rlcore.rewards.composition import Item, Term
from rlcore.rewards.pool import VerifierPool
from rlcore.types import RewardInput, RewardResult
from tests.rewards.corpora.code_programs import PROGRAMS
from tests.rewards.corpora.code_programs_more import MORE

GROUP = 8
NEXT = "; on the next try: "
GONE = re.compile(r"the sandbox (ended|is gone: \[Errno \d+\] [\w ]+|did not start \(exit code -9\): )")
ONE = {"type": "stdin", "inputs": [""], "outputs": ["8431"]}
CALL = {"type": "function", "fn_name": "f", "inputs": [[1]], "outputs": [8431]}
CHECK = {"type": "assert", "asserts": ["assert abs(f(1) - 8431) < 1"]}
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("while True: pass", ONE),
    ("import time\ntime.sleep(1000)", ONE),
    ("import os\nos.kill(os.getpid(), 11)", ONE),
    ("import ctypes\nctypes.string_at(8)", ONE),
    ("x = bytearray(10**11)", ONE),
    ("x = []\nwhile True: x.append(bytearray(10**7))", ONE),
    ("while True: print('x' * 10**6)", ONE),
    ("import sys\nwhile True: sys.stderr.write('x' * 10**6)", ONE),
    ("import signal, os\nos.kill(os.getpid(), signal.SIGSTOP)", ONE),
    ("def f(x):\n    while True: pass", CALL),
    ("import os\ndef f(x): os._exit(0)", CALL),
    ("def f(x): return [0] * 10**7", CALL),
    ("def f(x): return f(x)", CALL),
    ("def f(x):\n    while True: pass", CHECK),
    ("import os\ndef f(x): os.abort()", CHECK),
    ("class A:\n    def __getattr__(self, name): return A()\ndef f(x): return A()", CHECK),
]


class Work:
    """One sample: what to submit, and the score it must get."""

    def __init__(self, term: Term, source: str, tests: dict[str, Any], score: float) -> None:
        self.item = Item((term,), RewardInput("p", f"```python\n{source}\n```", metadata={"tests": tests}))
        self.score = score


def samples(count: int, share: float, seed: int, term: Term) -> list[Work]:
    rng = random.Random(seed)
    known = [entry for entry in [*PROGRAMS, *MORE] if "time_limit_s" not in entry[2]]
    found = []
    for _ in range(count):
        if rng.random() < share:
            found.append(Work(term, *rng.choice(FAULTS), 0.0))
        else:
            _, source, tests, score = rng.choice(known)
            found.append(Work(term, source, tests, score))
    return found


class Killer(threading.Thread):
    """Now and then kills a zygote of the sandbox, or (more rarely) a verifier; says when."""

    def __init__(self, pool: VerifierPool, every_s: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.pool, self.every_s, self.rng = pool, every_s, random.Random(seed)
        self.stopped = threading.Event()
        self.kills: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stopped.wait(self.rng.expovariate(1 / self.every_s)):
            with contextlib.suppress(psutil.Error, IndexError):
                worker = psutil.Process(self.rng.choice(self.pool.pids()["workers"]))
                zygotes = worker.children()
                if self.rng.random() < 0.1:
                    worker.kill()
                    self.kills["verifiers"] += 1
                elif zygotes:
                    self.rng.choice(zygotes).send_signal(signal.SIGKILL)
                    self.kills["sandboxes"] += 1

    def stop(self) -> None:
        self.stopped.set()
        self.join()


def footprint(pool: VerifierPool) -> dict[str, float]:
    """Of this process and its descendants, at rest; memory in MiB of this process and the pool's zygote."""
    gc.collect()
    us = psutil.Process()
    held = (us, psutil.Process(pool.pids()["zygote"]))
    return {
        "processes": 1 + len(us.children(recursive=True)),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory_mb": round(sum(p.memory_full_info().uss for p in held) / 2**20, 1),
    }


def run(pool: VerifierPool, work: list[Work]) -> tuple[list[RewardResult], list[float]]:
    """Groups of samples, a few at a time in the pool, as the loop submits them."""
    waiting: deque[tuple[Future[list[RewardResult]], list[float]]] = deque()
    results: list[RewardResult] = []
    seconds: list[float] = []
    groups = [work[i : i + GROUP] for i in range(0, len(work), GROUP)]
    while groups or waiting:
        while groups and len(waiting) < 4 * pool.num_processes:
            spent: list[float] = []
            waiting.append((pool.submit([w.item for w in groups.pop(0)], spent), spent))
        future, spent = waiting.popleft()
        results += future.result(timeout=600)
        seconds += spent
    return results, seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--share", type=float, default=0.06, help="of programs that hang, crash, flood or hog")
    parser.add_argument("--kill-every", type=float, default=2.0, help="mean seconds between killed sandboxes")
    parser.add_argument("--time-limit", type=float, default=1.0)
    parser.add_argument("--deadline", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rlcore-soak-") as folder:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None
        result = soak(parse())
        for _ in range(100):  # the last zygotes empty their own
            if not (left := list(Path(folder).iterdir())):
                break
            time.sleep(0.1)
        result["folders_left"] = len(left)
        result["holds"] = result["holds"] and not result["folders_left"]
    print(json.dumps(result))
    return int(not result["holds"])


def soak(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"time_limit_s": options.time_limit, "deadline_s": options.deadline, "memory_limit_mb": 512}
    term = Term("code", options={**settings, "sandbox": {"tier": options.tier}})
    work = samples(options.programs, options.share, options.seed, term)
    tenth = max(GROUP, len(work) // 10)
    rates: list[float] = []
    paces: list[float] = []  # programs per second of work: how many hangs a tenth drew does not count
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    died, latest = 0, 0.0
    before: dict[str, float] = {}
    with VerifierPool(options.processes, options.deadline + 5.0, memory_limit_mb=2048) as pool:
        pool.submit([Work(term, "print(1)", ONE, 0.0).item] * GROUP).result()
        for start in range(0, len(work), tenth):
            killer = Killer(pool, options.kill_every, start)
            killer.start()
            part, begun = work[start : start + tenth], time.monotonic()
            results, seconds = run(pool, part)
            killer.stop()
            rates.append(len(results) / (time.monotonic() - begun))
            quick = [s for s in seconds if s < options.time_limit]
            paces.append(len(quick) / max(sum(quick), 1e-6))
            died += killer.kills["verifiers"]
            statuses.update({f"killed {name}": count for name, count in killer.kills.items()})
            for one, result, spent in zip(part, results, seconds, strict=True):
                statuses[result.status.value] += 1
                latest = max(latest, spent - options.deadline)
                if result.status.value != "ok" or abs(result.score - one.score) > 1e-9:
                    reason = result.info.get("error") or result.info.get("failed", "")
                    wrong.append(f"{one.item.input.response[10:70]!r}: {result.status.value} {result.score}: {reason}")
            run(pool, [Work(term, "print(1)", ONE, 0.0) for _ in range(4 * GROUP)])  # all workers up, at rest
            print(f"{start + len(part)}/{len(work)}: {rates[-1]:.0f}/s, {dict(statuses)}", file=sys.stderr)
            before = before or footprint(pool)
        after = footprint(pool)
    return _verdict(options, work, rates, paces, statuses, wrong, died, latest, before, after)


def killed_tries(reason: str) -> list[str]:
    """The tries of a sample, if all of them failed as a killed sandbox does."""
    told = reason.partition(": error 0.0: the sandbox failed: ")[2].split(NEXT)
    return told if all(GONE.fullmatch(one) for one in told) else []


def _verdict(
    options: argparse.Namespace,
    work: list[Work],
    rates: list[float],
    paces: list[float],
    statuses: Counter[str],
    wrong: list[str],
    died: int,
    latest: float,
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    excused = [w for w in wrong if ": error 0.0: the verifier process died while scoring" in w]
    tries = [[] if w in excused else killed_tries(w) for w in wrong]
    unexpected = [w for w, killed in zip(wrong, tries, strict=True) if w not in excused and not killed]
    flat = statistics.median(paces[-3:]) / statistics.median(paces[:3])
    same = {
        # a worker keeps up to four zygotes, each of one or (bwrap) more processes; how many depends on the last kills
        "processes": after["processes"] <= before["processes"] + 6 * options.processes,
        "threads": after["threads"] == before["threads"],
        "descriptors": after["descriptors"] <= before["descriptors"] + 2,
        "memory_mb": after["memory_mb"] <= 1.2 * before["memory_mb"] + 16,
    }
    whole = sum(statuses[s] for s in ("ok", "timeout", "error", "unparsable")) == len(work)
    return {
        "bench": "soak_code",
        "programs": len(work),
        "tier": options.tier,
        "programs_per_s_of_tenths": [round(rate, 1) for rate in rates],
        "pace_of_tenths": [round(pace, 1) for pace in paces],
        "last_over_first_pace": round(flat, 2),
        "statuses": dict(statuses),
        "unexpected": unexpected[:10],
        "num_unexpected": len(unexpected),
        "lost_with_killed_verifiers": len(excused),
        "lost_with_killed_sandboxes": [len(killed) for killed in tries if killed],  # tries of each sample
        "latest_beyond_deadline_s": round(latest, 2),
        "after_first_tenth": before,
        "after": after,
        "holds": all(same.values())
        and not unexpected
        and len(excused) <= died
        and sum(map(len, tries)) <= statuses["killed sandboxes"]
        and latest <= 1.0
        and whole
        and (flat > 0.7 or len(work) < 2000),  # small tenths are noise
    }


if __name__ == "__main__":
    sys.exit(main())
