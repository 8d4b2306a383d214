"""A pool of verifier processes that survives crashes and hangs of rewards.

A thread per process sends one chunk of samples at a time and reads the verdicts one by one. If a sample exceeds its
time, its process gets SIGKILL and the sample `Status.TIMEOUT`; a sample that kills its process gets `Status.ERROR` with
the cause. The remaining samples continue in a new fork, a few milliseconds later. See `rlcore.rewards.child` for the
other side.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import select
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rlcore.processes.child import HEADER, send_frame
from rlcore.processes.zygote import LOAD_TIMEOUT_S, Zygote, ZygoteLost
from rlcore.rewards import child
from rlcore.rewards.composition import Item, Term
from rlcore.rewards.registry import NOTHING, RewardError, failure
from rlcore.types import RewardResult, Status

__all__ = ["Item", "Term", "VerifierPool"]

GRACE_S = 0.5  # from the end of a worker's socket to the end of its process
MIN_CHUNK = 8  # samples of one group per chunk
ENV_LIST = "RLCORE_REWARD_ENV"  # comma-separated names of additional variables for rewards


@dataclass
class _Worker:
    pid: int
    sock: socket.socket
    zygote: Zygote
    buffer: bytearray = field(default_factory=bytearray)
    spent: bool = False  # the worker announced that it exits

    def gone(self) -> bool:
        """True if an idle worker has exited."""
        readable, _, _ = select.select([self.sock], [], [], 0)
        return bool(readable)

    def send(self, items: Sequence[Item]) -> None:
        self.sock.settimeout(LOAD_TIMEOUT_S)
        send_frame(self.sock, child.pack(items))

    def read(self, deadline: float) -> dict[str, Any]:
        """The next message.

        Raises:
            TimeoutError: no message before `deadline` (time.monotonic).
            EOFError: the worker is gone.
        """
        head = HEADER.size
        while True:
            if len(self.buffer) >= head:
                end = head + HEADER.unpack_from(self.buffer)[0]
                if len(self.buffer) >= end:
                    payload = bytes(self.buffer[head:end])
                    del self.buffer[:end]
                    return json.loads(payload)  # type: ignore[no-any-return]
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            try:
                piece = self.sock.recv(1 << 16)
            except ConnectionError:
                piece = b""
            if not piece:
                raise EOFError
            self.buffer += piece

    def reap(self, grace_s: float) -> str:
        self.sock.close()
        return self.zygote.reap(self.pid, grace_s)


@dataclass
class _Job:
    """A submitted list; its chunks fill `results`."""

    items: Sequence[Item]
    results: list[RewardResult | None]
    future: Future[list[RewardResult]]
    left: int
    seconds: list[float]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, count: int) -> None:
        with self.lock:
            self.left -= count
            if self.left == 0 and not self.future.done():
                self.future.set_result([r for r in self.results if r is not None])

    def fail(self, error: BaseException) -> None:
        with self.lock:
            if not self.future.done():
                self.future.set_exception(error)


class VerifierPool:
    """`num_processes` verifier processes, each scoring one sample at a time.

    Args:
        num_processes: number of workers.
        timeout_s: wall-clock seconds for one sample with all its terms; imports of rewards are not counted.
        memory_limit_mb: address space of a worker (RLIMIT_AS), in MiB; 0 for no limit.
        cwd: working directory of the workers, the base of relative reward paths; None: the caller's.
        imports: reward paths, with files that are imported when a term names an unknown reward.

    The environment of workers has only PATH, HOME, the locale and similar variables; list others that a reward needs
    (an API key) in the variable RLCORE_REWARD_ENV, separated by commas. Output of rewards goes to standard error.
    """

    def __init__(
        self,
        num_processes: int = 1,
        timeout_s: float = 5.0,
        memory_limit_mb: int = 2048,
        cwd: str | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        if num_processes < 1 or not timeout_s > 0 or memory_limit_mb < 0:
            raise ValueError(
                f"a pool needs num_processes >= 1, timeout_s > 0 and memory_limit_mb >= 0, "
                f"got {num_processes}, {timeout_s}, {memory_limit_mb}"
            )
        self.num_processes, self.timeout_s, self.memory_limit_mb = num_processes, timeout_s, memory_limit_mb
        self._cwd, self._imports = cwd, tuple(imports)
        self._chunks: queue.SimpleQueue[tuple[_Job, int, int] | None] = queue.SimpleQueue()
        self._lock, self._closed, self._warm = threading.Lock(), False, set[str]()
        self._workers: dict[int, _Worker] = {}  # by slot
        self._zygote = self._start_zygote()
        self._threads = [
            threading.Thread(target=self._run, args=(slot,), name=f"verifier-{slot}", daemon=True)
            for slot in range(num_processes)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, items: Sequence[Item], seconds: list[float] | None = None) -> Future[list[RewardResult]]:
        """Scores the items. Results are in the same order; a failure is a status of its sample.

        `seconds`, if given, has the wall-clock seconds of each sample once the future is done.

        The future raises RewardError if the pool is closed or its processes cannot be started, and the error of pickle
        if an item cannot be sent.
        """
        future: Future[list[RewardResult]] = Future()
        future.set_running_or_notify_cancel()
        seconds = [] if seconds is None else seconds
        seconds[:] = [0.0] * len(items)
        job = _Job(items, [None] * len(items), future, len(items), seconds)
        if not items:
            future.set_result([])
            return future
        size = max(MIN_CHUNK, math.ceil(len(items) / len(self._threads)))
        with self._lock:  # so that close() cannot run in between
            if self._closed:
                job.fail(RewardError("the verifier pool is closed"))
                return future
            for start in range(0, len(items), size):
                self._chunks.put((job, start, min(start + size, len(items))))
        return future

    def smoke(self, items: Sequence[Item], none_counts: bool = True) -> list[RewardResult]:
        """Scores the items and returns the results, as a check before a run.

        Args:
            none_counts: treats None from a reward as a failure. Set it to False for invented responses, which a reward
                may decline to score.

        Raises:
            RewardError: a reward cannot be loaded, raises, hangs, kills its process or returns no number. An
                unparsable reference is a property of the row and is returned.
        """
        results = self.submit(items).result()
        for item, result in zip(items, results, strict=True):
            if not none_counts and _only_none(item, result):
                continue
            if result.status in (Status.ERROR, Status.TIMEOUT):
                named = ", ".join(term.fn or term.name for term in item.terms)
                raise RewardError(f"the reward check before the start failed ({named}): {result.info.get('error')}")
        return results

    def pids(self) -> dict[str, Any]:
        """`{"zygote": pid, "workers": [pid, ...]}` of this moment."""
        with self._lock:
            return {"zygote": self._zygote.process.pid, "workers": sorted(w.pid for w in list(self._workers.values()))}

    def close(self) -> None:
        """Kills and reaps every process; unfinished futures raise RewardError. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            zygote = self._zygote
        for _ in self._threads:
            self._chunks.put(None)
        zygote.close()  # the threads see the end of their workers
        for thread in self._threads:
            thread.join(timeout=10.0)
        while not self._chunks.empty():
            if (chunk := self._chunks.get_nowait()) is not None:
                chunk[0].fail(RewardError("the verifier pool was closed"))

    def _start_zygote(self) -> Zygote:
        options = {"imports": list(self._imports), "memory_limit_mb": self.memory_limit_mb}
        return Zygote("verifier", "rlcore.rewards.child:serve", options, self.memory_limit_mb, self._cwd, ENV_LIST)

    def _run(self, slot: int) -> None:
        with contextlib.suppress(RewardError):  # on failure the first sample reports the reason
            self._workers[slot] = self._spawn()
        while (chunk := self._chunks.get()) is not None:
            job, start, stop = chunk
            try:
                self._score(slot, job, start, stop)
            except Exception as error:
                self._drop(slot)
                job.fail(RewardError("the verifier pool was closed") if self._closed else error)
            else:
                job.finish(stop - start)
        self._drop(slot)

    def _score(self, slot: int, job: _Job, start: int, stop: int) -> None:
        done, retried = start, False
        while done < stop:
            if (worker := self._workers.get(slot)) is None or worker.gone():
                self._drop(slot)
                worker = self._workers[slot] = self._spawn()
            begun, first = time.monotonic(), done
            try:
                worker.send(job.items[done:stop])
                done = self._read(worker, job, done, stop)
                if worker.spent:
                    self._drop(slot)
                continue
            except (TimeoutError, EOFError, ConnectionError) as error:
                done = next((i for i in range(done, stop) if job.results[i] is None), stop)
                timed_out = isinstance(error, TimeoutError)
                spent = time.monotonic() - begun - sum(job.seconds[first:done])
            del self._workers[slot]
            try:
                cause = worker.reap(0.0 if timed_out else GRACE_S)
            except ZygoteLost:
                if self._closed or retried:
                    raise
                retried = True  # the zygote was killed together with the worker: not the fault of the sample
                continue
            if done < stop:
                job.results[done] = self._timeout() if timed_out else self._death(cause)
                job.seconds[done] = self.timeout_s if timed_out else max(spent, 0.0)
                done += 1

    def _read(self, worker: _Worker, job: _Job, done: int, stop: int) -> int:
        """Reads verdicts from sample `done` on; returns the index of the next sample."""
        deadline = time.monotonic() + self.timeout_s
        while done < stop:
            message = worker.read(deadline)
            if "loading" in message:
                deadline = time.monotonic() + LOAD_TIMEOUT_S
                continue
            if "loaded" in message:
                if message["loaded"].startswith("rlcore."):
                    self._warm.add(message["loaded"].partition(":")[0])  # later forks inherit it from the zygote
            else:
                job.results[done] = RewardResult(
                    message["score"], Status(message["status"]), message["parts"], message["info"]
                )
                job.seconds[done] = message["seconds"]
                done += 1
                if message["last"]:
                    worker.spent = True
                    break
            deadline = time.monotonic() + self.timeout_s
        return done

    def _timeout(self) -> RewardResult:
        message = f"no verdict within {self.timeout_s:g} s (reward.timeout_s); the verifier process was killed"
        return failure(message, Status.TIMEOUT)

    def _death(self, cause: str) -> RewardResult:
        hint = f"; the memory limit is {self.memory_limit_mb} MB (reward.memory_limit_mb)"
        return failure(f"the verifier process died while scoring this sample: {cause}{hint}")

    def _spawn(self) -> _Worker:
        for attempt in range(2):
            zygote = self._zygote
            try:
                return _Worker(*zygote.fork(sorted(self._warm)), zygote)
            except ZygoteLost as error:
                if attempt:
                    raise RewardError(f"verifier processes cannot be started: {error}; see the log") from error
                with self._lock:
                    if self._closed:
                        raise RewardError("the verifier pool was closed") from error
                    if self._zygote is zygote:  # otherwise another thread has replaced it
                        zygote.close()
                        self._zygote = self._start_zygote()
        raise AssertionError("unreachable")

    def _drop(self, slot: int) -> None:
        if (worker := self._workers.pop(slot, None)) is not None:
            with contextlib.suppress(ZygoteLost):
                worker.reap(0.0)


def _only_none(item: Item, result: RewardResult) -> bool:
    """True if all failed terms returned None."""
    infos = [result.info] if len(item.terms) == 1 else [result.info.get(term.name, {}) for term in item.terms]
    failed = [info for info in infos if "error" in info]
    return bool(failed) and all(info.get("returned") == NOTHING for info in failed)
