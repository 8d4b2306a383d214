"""Handle of the rollout engines."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actors.generation.rollout import Finished, Request, RolloutWorker
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorError, ActorGroup
from actors.placement.restarts import RestartPolicy
from rlcore.interfaces import RolloutAbandoned, Sampling
from rlcore.metrics import Metrics
from rlcore.problems import UserError
from rlcore.types import Group, Prompt, Trajectory

ABORT_S = 5.0


class RolloutStalled(UserError, RuntimeError):
    """The engines respond, but no group finished before the deadline."""


@dataclass
class _EngineFailure:
    rank: int
    starts: int  # of the engine, before the call that failed
    todo: dict[int, Prompt]
    error: Exception


@dataclass
class RolloutHandle:
    """`RolloutEngine` over vLLM workers: distributes prompts over the engines; all samples of a prompt are on one
    engine.

    A dead engine is restarted and gets the current weights and its unfinished prompts again.
    """

    group: ActorGroup[RolloutWorker]
    sharing: GpuSharing
    idle_timeout_s: float  # time without a finished group
    restarts: RestartPolicy
    _calls: Iterator[int] = field(default_factory=itertools.count)
    _under_way: set[threading.Event] = field(default_factory=set)  # one per call; set: the call is abandoned

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        with self.sharing.generating():
            yield from self._generate(prompts, sampling)

    def abandon(self) -> None:
        for abandoned in list(self._under_way):
            abandoned.set()

    def metrics(self) -> Metrics:
        return {}

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        call = f"call-{next(self._calls)}"
        arrived: queue.Queue[tuple[Prompt, Finished] | _EngineFailure] = queue.Queue()
        stopped, abandoned = threading.Event(), threading.Event()
        self._under_way.add(abandoned)

        def serve(rank: int, todo: dict[int, Prompt]) -> None:
            threading.Thread(
                target=self._serve,
                args=(rank, call, todo, sampling, arrived, stopped),
                daemon=True,
                name=f"rollout-{rank}",
            ).start()

        engines = len(self.group)
        for rank in range(min(engines, len(prompts))):
            serve(rank, {i: prompts[i] for i in range(rank, len(prompts), engines)})
        missing, heard = len(prompts), time.monotonic()
        try:
            while missing:
                try:
                    item = arrived.get(timeout=0.5)  # short, so that signals are handled
                except queue.Empty:
                    if abandoned.is_set():
                        raise RolloutAbandoned(f"gen: {missing} of {len(prompts)} prompts were abandoned") from None
                    if time.monotonic() - heard > self.idle_timeout_s:
                        raise RolloutStalled(
                            f"gen: no group finished for {self.idle_timeout_s:.0f} s, {missing} of {len(prompts)} are "
                            f"missing (cluster.deadlines.generate_s)"
                        ) from None
                    continue
                heard = time.monotonic()
                if isinstance(item, _EngineFailure):
                    if not isinstance(item.error, ActorError):
                        raise item.error
                    self.restarts.recover({item.rank: item.error}, {item.rank: item.starts})
                    serve(item.rank, item.todo)
                    heard = time.monotonic()
                    continue
                missing -= 1
                yield group_of(*item, sampling.step)
        finally:
            self._under_way.discard(abandoned)
            stopped.set()
            if missing:
                self._give_up(call)

    def _give_up(self, call: str) -> None:
        """The caller stops early: responsive engines drop the rest of the call."""
        with contextlib.suppress(ActorError):
            self.group.broadcast(RolloutWorker.abort, call, timeout_s=ABORT_S, phase="abort")

    def _serve(
        self,
        rank: int,
        call: str,
        todo: dict[int, Prompt],
        sampling: Sampling,
        arrived: queue.Queue[Any],
        stopped: threading.Event,
    ) -> None:
        """The share of one engine, on a separate thread, which ends when the share is finished."""
        starts = self.restarts.starts(rank)
        try:
            requests = [Request(i, prompt.uid, prompt.token_ids) for i, prompt in todo.items()]
            seed = None if sampling.seed is None else (sampling.seed + rank) % 2**31
            limit = self.idle_timeout_s + 60
            self.group.one(
                rank, RolloutWorker.submit, call, requests, replace(sampling, seed=seed), timeout_s=limit, phase="gen"
            )
            while todo and not stopped.is_set():
                for finished in self.group.one(rank, RolloutWorker.collect, 1.0, timeout_s=limit, phase="gen"):
                    if finished.call_id == call:  # others belong to an abandoned call
                        self.restarts.served(rank)
                        arrived.put((todo.pop(finished.index), finished))
        except Exception as error:  # passed to the caller's thread; an unseen failure would look like a stall
            if not stopped.is_set():
                arrived.put(_EngineFailure(rank, starts, todo, error))


def group_of(prompt: Prompt, finished: Finished, step: int) -> Group:
    """Converts the output of an engine to aligned per-token arrays."""
    prefix = np.asarray(prompt.token_ids, dtype=np.int32)
    zeros, nothing = np.zeros(prefix.size, dtype=np.float32), np.full(prefix.size, -1, dtype=np.int32)
    trajectories = []
    for k, sample in enumerate(finished.samples):
        tokens = np.concatenate([prefix, sample.token_ids]).astype(np.int32, copy=False)
        mask = np.zeros(tokens.size, dtype=np.bool_)
        mask[prefix.size :] = True
        trajectories.append(
            Trajectory(
                uid=prompt.uid,
                sample_id=f"{prompt.uid}#{step}.{k}",
                tokens=tokens,
                loss_mask=mask,
                rollout_logprobs=np.concatenate([zeros, sample.logprobs]),
                versions=np.concatenate([nothing, sample.versions]),
                num_prompt_tokens=prefix.size,
                finish_reason=sample.finish_reason,
                text=sample.text,
            )
        )
    return Group(prompt, trajectories)
