"""How many rollout engines one driver serves: the real handle and dispatcher on a real local Ray, over fake engines.

    python tests/bench/scale.py                           64, 256 and 1,024 engines: about 10 minutes on two cores
    python tests/bench/scale.py --engines 64 --hosts 64   each engine in a process of its own

An engine runs `--slots` samples at a time and ends a group of `--samples` after a latency from a long-tailed law
(lognormal or Pareto, a fixed seed), with `--tokens` tokens per sample in arrays as real ones have. Only the language
model is faked: calls, replies and threads are those of `RolloutHandle` and Ray. The driver keeps `--ahead` + 1 calls of
`generate` under way, each of `--load` groups per engine slot, as a run with trainer.max_staleness does.

A Ray actor process takes 60 to 100 MB, several times that with torch, so 1,024 of them do not fit into 24 GiB: an
asynchronous actor hosts many engines, `--hosts` processes in all. The driver makes the same calls as with one process
each, and its own CPU time is measured apart from theirs; on a machine of few cores they compete with it, which the
throughput shows.

Prints one JSON line. Per number of engines: the driver's CPU milliseconds per trajectory, the hosts' too, throughput
over the ideal (the same groups in the same order over the same slots, with no delay: a simulation), and `slot_wait_s`,
the time between the end of a group and the begin of the next in its slot, real and ideal. `driver_limit_per_s`: the
trajectories per second at which the driver, one Python process, would fill a core. `saturates`: the first number of
engines whose throughput is below 90 % of the ideal at this latency; null if none.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.generation.handle import RolloutHandle
from actors.generation.rollout import Collected, Finished, Request, RolloutWorker, Sample
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup, Member
from actors.placement.restarts import RestartPolicy
from rlcore.interfaces import Sampling
from rlcore.types import Prompt

MAX_LATENCY = 20.0  # in means: a run does not end with one response of an hour
LAWS = {
    "lognormal": lambda rng, count: rng.lognormal(-0.5, 1.0, count),  # mean 1, p99 6.2, median 0.61
    "pareto": lambda rng, count: 1 / 3 * (1 + rng.pareto(1.5, count)),  # mean 1, p99 7.2, median 0.53
}


# ---- engines


@dataclass
class FakeEngine:
    """The part of `RolloutWorker` that sampling uses, as coroutines. A group's latency is its prompt, in ms."""

    at_once: int  # groups
    num_tokens: int
    waiting: deque[tuple[str, Request, int]] = field(default_factory=deque)
    running: dict[tuple[str, int], asyncio.TimerHandle] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    free_since: list[float] = field(default_factory=list)  # of slots that have run a group
    waits: list[float] = field(default_factory=list)
    unfinished: int = 0
    nudged: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(self, name: str, requests: Sequence[Request], sampling: Sampling) -> None:
        self.waiting.extend((name, request, sampling.num_samples) for request in requests)
        self.unfinished += len(requests) * sampling.num_samples
        self._fill()

    async def collect(self, timeout_s: float, call_id: str | None, below: int) -> Collected:
        ends_at = time.monotonic() + timeout_s
        while not (self.finished or self.nudged or self.unfinished <= below):
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), ends_at - time.monotonic())
            except TimeoutError:
                break
        done, self.finished, self.nudged = self.finished, [], False
        return Collected(done, self.unfinished)

    async def nudge(self) -> None:
        self.nudged = True
        self.changed.set()

    async def abort(self, *names: str) -> None:
        for key in [key for key in self.running if key[0] in names]:
            self.running.pop(key).cancel()
        self.waiting = deque(item for item in self.waiting if item[0] not in names)

    def _fill(self) -> None:
        loop, now = asyncio.get_running_loop(), time.monotonic()
        while self.waiting and len(self.running) < self.at_once:
            name, request, count = self.waiting.popleft()
            if self.free_since:
                self.waits.append(now - self.free_since.pop(0))
            latency = request.token_ids[0] / 1000
            self.running[name, request.index] = loop.call_later(latency, self._end, name, request.index, count)

    def _end(self, name: str, index: int, count: int) -> None:
        del self.running[name, index]
        self.unfinished -= count
        self.free_since.append(time.monotonic())
        tokens = np.arange(self.num_tokens, dtype=np.int32)
        logprobs, versions = np.zeros(self.num_tokens, np.float32), np.zeros(self.num_tokens, np.int32)
        sample = Sample(tokens, logprobs, versions, "stop", "x" * self.num_tokens)
        self.finished.append(Finished(name, index, [sample] * count, begun_version=0))
        self._fill()
        self.changed.set()


class Host:
    """An asynchronous actor with many engines."""

    def __init__(self, engines: int, at_once: int, num_tokens: int) -> None:
        self.engines = [FakeEngine(at_once, num_tokens) for _ in range(engines)]

    async def call(self, index: int, name: str, *args: Any) -> Any:
        return await getattr(self.engines[index], name)(*args)

    async def measured(self) -> tuple[list[float], float]:
        """Slot waits, and the CPU seconds of this process."""
        return [wait for engine in self.engines for wait in engine.waits], time.process_time()


@dataclass
class Method:
    host: Any
    index: int
    name: str

    def remote(self, *args: Any) -> Any:
        return self.host.call.remote(self.index, self.name, *args)


class Hosted:
    """Stands for the actor handle of one engine."""

    def __init__(self, host: Any, index: int) -> None:
        self._host, self._index, self._actor_id = host, index, host._actor_id

    def __getattr__(self, name: str) -> Method:
        return Method(self._host, self._index, name)


class HostedGroup(ActorGroup[RolloutWorker]):
    """The calls of an `ActorGroup`; rank r is engine r // hosts of host r % hosts."""

    def __init__(self, hosts: Sequence[Any], engines: int) -> None:
        self.worker_class, self.name = RolloutWorker, "rollout"
        self._members = [
            Member("rollout", rank, "here", Hosted(hosts[rank % len(hosts)], rank // len(hosts)))
            for rank in range(engines)
        ]


# ---- the driver's side


def latencies(options: argparse.Namespace, count: int) -> np.ndarray:
    """[count] seconds of each group: its slowest sample's, scaled to a mean of `--latency`."""
    rng = np.random.default_rng(0)
    drawn = LAWS[options.law](rng, (max(count, 10_000), options.samples)).max(1)
    return options.latency * np.minimum(drawn / drawn.mean(), MAX_LATENCY)[:count]


def ideal(seconds: np.ndarray, calls: int, ahead: int, slots: int) -> tuple[float, list[float]]:
    """Makespan and slot waits if a free slot took the next group at once; call c begins when c - ahead - 1 ends."""
    size, free = len(seconds) // calls, [(0.0, False)] * slots  # when each slot is free, and if it has run a group
    ends, waits = np.zeros(calls), []
    for c in range(calls):
        begins = ends[: c - ahead].max() if c > ahead else 0.0
        for latency in seconds[c * size : (c + 1) * size]:
            at, used = heapq.heappop(free)
            if used:
                waits.append(max(begins - at, 0.0))
            heapq.heappush(free, (max(at, begins) + latency, True))
            ends[c] = max(ends[c], max(at, begins) + latency)
    return float(ends.max()), waits


def measure(ray: Any, engines: int, options: argparse.Namespace) -> dict[str, Any]:
    at_once = max(1, options.slots // options.samples)
    per_call = engines * at_once * options.load
    seconds = latencies(options, per_call * options.calls)
    count = min(options.hosts, engines)
    per_host = -(-engines // count)
    remote = ray.remote(num_cpus=0, max_concurrency=8 * per_host + 8)(Host)
    hosts = [remote.remote(per_host, at_once, options.tokens) for _ in range(count)]
    spent_before = sum(spent for _, spent in ray.get([host.measured.remote() for host in hosts]))
    group = HostedGroup(hosts, engines)
    restarts = RestartPolicy(group, lambda ranks: None, 0, "rollout.max_restarts", lambda text: None)
    handle = RolloutHandle(group, GpuSharing(group, 0, 60.0), 600.0, restarts, slots=options.slots)
    sampling = Sampling(options.samples, options.tokens)
    turn = threading.Semaphore(options.ahead + 1)  # released in the order of calls, as the feed does
    done = [threading.Event() for _ in range(options.calls)]

    def generate(c: int) -> int:
        places = range(c * per_call, (c + 1) * per_call)
        prompts = [Prompt(uid=str(i), token_ids=(max(1, round(1000 * seconds[i])),), text="") for i in places]
        found = sum(len(group.trajectories) for group in handle.generate(prompts, sampling))
        if c:
            done[c - 1].wait()
        done[c].set()
        turn.release()
        return found

    began, spent = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(options.calls) as callers:
        futures = []
        for c in range(options.calls):
            turn.acquire()
            futures.append(callers.submit(generate, c))
        trajectories = sum(future.result() for future in futures)
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    assert trajectories == per_call * options.calls * options.samples
    handle.close()
    measured = ray.get([host.measured.remote() for host in hosts])
    waits = [wait for of_host, _ in measured for wait in of_host]
    of_hosts = sum(cpu for _, cpu in measured) - spent_before
    for host in hosts:
        ray.kill(host)
    least, ideal_waits = ideal(seconds, options.calls, options.ahead, engines * at_once)
    return {
        "engines": engines,
        "processes": count,
        "trajectories": trajectories,
        "per_s": round(trajectories / wall, 1),
        "of_ideal": round(least / wall, 3),
        "driver_cpu_ms": round(1000 * spent / trajectories, 3),
        "driver_cores": round(spent / wall, 2),
        "driver_limit_per_s": round(trajectories / spent),
        "hosts_cpu_ms": round(1000 * of_hosts / trajectories, 3),
        "slot_wait_s": {name: percentiles(of) for name, of in (("real", waits), ("ideal", ideal_waits))},
        "wall_s": round(wall, 1),
    }


def percentiles(waits: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--hosts", type=int, default=4, help="processes that the engines share")
    parser.add_argument("--slots", type=int, default=32, help="samples that an engine runs at a time")
    parser.add_argument("--samples", type=int, default=8, help="per prompt")
    parser.add_argument("--tokens", type=int, default=500, help="per sample")
    parser.add_argument("--latency", type=float, default=5.0, help="mean seconds of a group")
    parser.add_argument("--law", choices=LAWS, default="lognormal")
    parser.add_argument("--calls", type=int, default=3, help="of generate")
    parser.add_argument("--load", type=int, default=3, help="groups of a call per slot for a group")
    parser.add_argument("--ahead", type=int, default=1, help="calls under way beside the first")
    options = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = [measure(ray, engines, options) for engines in options.engines]
    ray.shutdown()
    full = [row["engines"] for row in rows if row["of_ideal"] < 0.9]
    settings = {name: value for name, value in vars(options).items() if name != "engines"}
    print(json.dumps({"bench": "scale", "rows": rows, "saturates": min(full, default=None), **settings}))


if __name__ == "__main__":
    main()
