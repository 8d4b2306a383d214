"""A rollout worker: vLLM in the same process, stepped by a separate loop thread.

All engine operations run on that thread as commands between two steps: adding the requests of a call, loading weights,
aborting. Callers (Ray actor threads) put a command in a queue and wait for its result.

Concurrency: `submit` and the weight calls wait for the current step; `collect` waits for groups; the loop waits for
commands when it is idle, and during an update (until its deadline).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from actors.config.schema import KvAfterUpdate, RolloutConfig
from actors.generation.vllm_engine import (
    Finished,
    PendingGroup,
    Request,
    Sample,
    VllmEngine,
)
from actors.generation.vllm_settings import engine_arguments, set_environment
from actors.placement.memory import GIB, free_share
from rlcore.interfaces import Sampling

__all__ = ["Collected", "Finished", "Request", "RolloutWorker", "Sample"]

LINGER_S = 0.005  # `collect` gathers a little longer than the first group: fewer, larger replies
IDLE_WAIT_S = 0.1  # how often a waiting loop looks at deadlines
SHUTDOWN_S = 60.0
MIN_SHARE = 0.05  # of a GPU
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Collected:
    """Reply of `collect`."""

    groups: list[Finished]
    unfinished: int  # samples that the engine still has, running or waiting


class RolloutWorker:
    """One vLLM engine (with its tensor-parallel workers). Methods may be called from any thread.

    Raises:
        RuntimeError: from every method, with the original error as its cause, once the loop thread has died.
    """

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        # Guards the next three; notified after every command and finished group, and when `_below` is reached.
        self._changed = threading.Condition()
        self._finished: list[PendingGroup] = []
        self._below, self._nudged = -1, False  # see `collect`
        self._seconds, self._counted_at = (0.0, 0.0), 0.0  # without and with groups under way; loop thread only
        self._error: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    # ---- life

    def start(
        self,
        model_path: str,
        config: RolloutConfig,
        device: str,
        dtype: str,
        max_model_len: int,
        threads: int,
        seed: int,
        reserved_bytes: float = 0.0,
        float32_head: bool = False,
    ) -> dict[str, Any]:
        """Builds the engine with dummy weights; the first update brings the real ones.

        Args:
            model_path: Hugging Face folder: config and tokenizer are read; weights only with `load_format` in
                `config.extra`.
            device: "cpu" or "cuda".
            dtype: "float32" or "bfloat16".
            threads: OpenMP threads per tensor-parallel worker; CPU only.
            reserved_bytes: of the GPU, for other processes; counts where `gpu_memory_utilization` is not set.
            float32_head: see `ModelConfig.float32_head`.

        Returns:
            `describe()`.

        Raises:
            ValueError: the other processes leave no room for an engine, or see `engine_arguments`.
        """
        if self._thread is not None:
            raise RuntimeError("this rollout worker was already started")
        set_environment(device, config.tensor_parallel_size, threads, dtype)
        if device == "cuda" and config.gpu_memory_utilization is None:
            config = replace(config, gpu_memory_utilization=_share(reserved_bytes, config.sleep_level > 0))
        arguments = engine_arguments(model_path, config, device, dtype, max_model_len, seed, float32_head)

        def build() -> VllmEngine:
            if device == "cpu":
                torch.set_num_threads(threads)  # a setting of the calling thread: why the loop builds its engine itself
            return VllmEngine(arguments, device, config.kv_after_update is KvAfterUpdate.recompute)

        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(build, ready), name="rollout-loop", daemon=True)
        self._thread.start()
        ready.result()
        return self.describe()

    def shutdown(self) -> None:
        """Stops the loop and frees the engine. Unfinished requests are dropped. Safe to call twice."""
        self._closing = True
        if self._thread is not None and self._thread.is_alive():
            self._commands.put((lambda: None, Future()))
            self._thread.join(timeout=SHUTDOWN_S)

    def describe(self) -> dict[str, Any]:
        """pid, node, vLLM and weight versions, device, KV cache tokens, running requests, memory of this process."""
        return self._on_loop(lambda: self._engine.describe())

    def sleep(self, level: int) -> None:
        """Frees the engine's GPU memory (1: weights go to host memory, 2: weights are dropped). CPU engines ignore it.

        Raises:
            RuntimeError: requests are under way.
        """
        self._on_loop(lambda: self._engine.sleep(level))

    def wake(self, tags: list[str] | None = None) -> None:
        """Wakes the engine up; `tags` selects a part ("weights", "kv_cache"). No effect on an awake engine."""
        self._on_loop(lambda: self._engine.wake(tags))

    # ---- sampling

    def submit(
        self, call_id: str, requests: Sequence[Request], sampling: Sampling, allowed: Sequence[int] = ()
    ) -> None:
        """Adds all requests between two steps. Results come from `collect`, tagged with `call_id`.

        With `sampling.seed`, on an engine that has nothing else to do, equal weights, prompts and seed give equal
        samples: the generators are seeded and the prefix cache is emptied, so that every step has the same batch.
        With groups under way the seed is ignored.

        Args:
            allowed: if given, only these tokens are generated; see `Sample.choices`.

        Raises:
            ValueError: a prompt leaves no room for a token, an index or `call_id` is in use; nothing was added.
            RuntimeError: no whole set of weights is loaded.
        """
        self._on_loop(lambda: self._engine.submit(call_id, requests, sampling, allowed))

    def collect(self, timeout_s: float, call_id: str | None = None, below: int = -1) -> Collected:
        """Groups finished since the last call: waits until there is one, until the engine has at most `below`
        unfinished samples, for a `nudge`, or for `timeout_s`.

        Args:
            call_id: of the groups to return; None: all.

        Raises:
            RuntimeError: requests wait, but the weights are unusable (a weight update broke off).
        """
        ends_at = time.monotonic() + timeout_s
        self._check_alive()

        def found() -> list[PendingGroup]:
            return [group for group in self._finished if call_id in (None, group.call_id)]

        def asked() -> bool:
            return self._nudged or self._engine.unfinished() <= below

        with self._changed:
            self._below = below
            self._changed.wait_for(lambda: found() or self._error or self._stuck() or asked(), timeout=timeout_s)
            self._check_alive()
            if not found() and self._stuck():
                raise RuntimeError(f"cannot sample: {self._engine.unusable}")
            if found() and self._engine.groups:
                linger = min(LINGER_S, max(ends_at - time.monotonic(), 0.0))
                self._changed.wait_for(lambda: self._error or not self._engine.groups or asked(), timeout=linger)
            done, self._below, self._nudged = found(), -1, False
            self._finished = [group for group in self._finished if call_id not in (None, group.call_id)]
        return Collected(self._engine.records(done) if done else [], self._engine.unfinished())

    def nudge(self) -> None:
        """Ends the `collect` that waits now, or else the next one, at once."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def abort(self, *call_ids: str) -> None:
        """Drops the requests of calls and their results that were not collected. Unknown ids are ignored."""

        def drop() -> None:
            self._engine.abort(call_ids)
            with self._changed:
                self._finished = [group for group in self._finished if group.call_id not in call_ids]

        self._on_loop(drop)

    def idle(self) -> bool:
        """No request is under way and no result waits to be collected."""
        return self._on_loop(lambda: not self._engine.groups and not self._finished)

    def seconds(self) -> tuple[float, float]:
        """Time without and with groups under way since the start; the current step is not counted yet."""
        return self._seconds

    # ---- weights

    def init_weights(self, info: dict[str, Any]) -> None:
        """Connects the engine to the trainer: `transport` ("host", "ipc", "nccl", "gloo") and its arguments."""
        self._on_loop(lambda: self._engine.init_weights(info))

    def begin_update(self, version: int, deadline_s: float = 600.0) -> None:
        """Opens an update. Sampling stops until `finish_update`; with requests under way, and room for a second set of
        weights, it continues until then. After `deadline_s` the update is broken (see `abort_update`).
        """
        self._on_loop(lambda: self._engine.begin_update(version, deadline_s))

    def load_bucket(self, payload: dict[str, Any]) -> None:
        """Loads a bucket from the transport. A failure breaks the update."""
        self._on_loop(lambda: self._engine.load_bucket(payload))

    def finish_update(self, version: int) -> float:
        """Ends the update; sampling continues with `version`.

        Returns:
            Seconds for which requests under way had to wait.

        Raises:
            ValueError: weights are missing, or `version` is not the one begun.
        """
        return self._on_loop(lambda: self._engine.finish_update(version))

    def abort_update(self) -> None:
        """Aborts the current update, if any. If a bucket was loaded, sampling is blocked until a complete update."""

        def stop() -> None:
            if self._engine.update is not None:
                self._engine.break_update("the last weight update was aborted")

        self._on_loop(stop)

    def version(self) -> int:
        """Of the loaded weights; -1 before the first update and after a broken one."""
        return self._on_loop(lambda: self._engine.version)

    def weight_checksums(self) -> dict[str, str]:
        """vLLM's checksum of each weight; equal weights on equal hardware have equal ones."""
        return self._on_loop(lambda: self._engine.weight_checksums())

    # ---- callers' side

    def _stuck(self) -> bool:
        return bool(self._engine.groups and self._engine.unusable)

    def _check_alive(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the rollout loop died: {type(self._error).__name__}: {self._error}") from self._error
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the rollout worker is not running")

    def _on_loop(self, function: Callable[[], T]) -> T:
        self._check_alive()
        result: Future[T] = Future()
        self._commands.put((function, result))
        while not result.done():  # the loop may die between the check and the put
            with contextlib.suppress(TimeoutError):
                result.exception(timeout=1.0)
            if not result.done():
                self._check_alive()
        return result.result()

    # ---- loop thread

    def _main(self, build: Callable[[], VllmEngine], ready: Future[None]) -> None:
        try:
            self._engine = build()
        except BaseException as error:
            self._fail(error)
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            self._serve()
        except BaseException as error:
            self._fail(error)
        with contextlib.suppress(Exception):  # keep the first error
            self._engine.shutdown()

    def _serve(self) -> None:
        engine, self._counted_at = self._engine, time.monotonic()
        while not self._closing:
            busy = bool(engine.groups)
            changed = self._run_commands(wait=not engine.can_step())
            changed = engine.check_deadline() or changed
            self._count(busy)
            done = []
            if engine.can_step():
                done = engine.step()
                self._count(True)
            if done or changed or engine.unfinished() <= self._below:
                with self._changed:
                    self._finished += done
                    self._changed.notify_all()

    def _count(self, busy: bool) -> None:
        idle_s, busy_s = self._seconds
        passed, self._counted_at = time.monotonic() - self._counted_at, time.monotonic()
        self._seconds = (idle_s, busy_s + passed) if busy else (idle_s + passed, busy_s)

    def _run_commands(self, wait: bool) -> bool:
        """Runs all that are queued; true if there was one."""
        ran = False
        with contextlib.suppress(queue.Empty):
            while True:
                timeout = IDLE_WAIT_S if wait and not ran else 0
                function, result = self._commands.get(block=timeout > 0, timeout=timeout)
                ran = True
                try:
                    result.set_result(function())
                except Exception as error:
                    result.set_exception(error)
        return ran

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def _share(reserved: float, turns: bool) -> float:
    total = float(torch.cuda.get_device_properties(0).total_memory)
    if (share := free_share(reserved, total, turns)) < MIN_SHARE:
        raise ValueError(
            f"a GPU of {total / GIB:.0f} GiB has no room for a rollout engine next to the {reserved / GIB:.0f} GiB of "
            "the roles that share it: engine.offload=all with rollout.sleep_level=1, more policy workers with "
            "engine.zero_stage=3, separate GPUs (cluster.roles.rollout.colocate_with=null), or set "
            "rollout.gpu_memory_utilization; `rlcore plan` shows what lies on a GPU"
        )
    return share
