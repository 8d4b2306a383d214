"""Rollout engines and verifiers dressed as `rlcore.interfaces`, and the weights on their way to the engines.

The models are in `actors.handles_train`.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actors.gpu_sharing import GpuSharing
from actors.group import ActorError, ActorGroup, WorkerError
from actors.policy import PolicyWorker
from actors.reference import ReferenceWorker
from actors.restarts import RestartPolicy
from actors.rollout import Finished, Request, RolloutWorker
from actors.verifier import VerifierWorker
from actors.weight_sync import WeightSyncError
from actors.worker import LanguageModelWorker
from rlcore import metrics as M
from rlcore.interfaces import Sampling
from rlcore.problems import UserError
from rlcore.rewards.scorers import Batcher
from rlcore.types import Group, Prompt, RewardResult, Trajectory

SENDER_SLACK_S = 90.0
ABORT_S = 5.0


class RolloutStalled(UserError, RuntimeError):
    """The engines answer, but no group finished before the deadline."""


@dataclass
class WeightHandle:
    """`WeightPublisher`, and `ReferencePublisher` where there is a reference to send: the ranks of a group send, the
    rollout engines report the version they hold.

    `join` comes before the first sending.
    """

    policy: ActorGroup[PolicyWorker]
    rollout: ActorGroup[RolloutWorker]
    timeout_s: float
    sharing: GpuSharing
    restarts: RestartPolicy
    connect: Callable[[ActorGroup[Any]], None]  # joins a group of senders to all engines
    reference: ActorGroup[ReferenceWorker] | None = None  # None: it never sends
    exclusive: bool = False  # an engine hears only the group joined last, and no engine is sent to alone
    version: int = -1  # of the policy's weights that were sent last
    _from_reference: bool = False  # whose weights the engines hold, or should
    _joined: ActorGroup[Any] | None = None  # where exclusive

    def join(self) -> None:
        """Joins the senders to the engines; again after an engine was restarted."""
        groups = [self.policy, self.reference]
        for group in [self._sender] if self.exclusive else groups:
            if group is not None:
                self.connect(group)
                self._joined = group

    def renewed(self, group: ActorGroup[Any]) -> None:
        """The ranks of a group have another engine: where engines hear several groups it joins at once, else when it
        sends next."""
        if group not in (self.policy, self.reference):
            return
        if not self.exclusive:
            self.connect(group)
        elif self._joined is group:
            self._joined = None

    def publish(self, after: int = -1) -> M.Metrics:
        self._from_reference, self.version = False, max(self.version, after) + 1
        return self._everywhere()

    def publish_reference(self) -> M.Metrics:
        """The engines go on to report the policy's current version. Nothing may be under way on them.

        Raises:
            RuntimeError: no reference to send, or before the first `publish`.
        """
        if self.reference is None or self.version < 0:
            raise RuntimeError("publish_reference without a reference that sends, or before the first publish")
        self._from_reference = True
        return self._everywhere()

    def rejoin(self, engines: Sequence[int]) -> None:
        """After these engines were restarted: joins all anew, and sends again what the engines should hold."""
        self.join()
        self._send(None if self.exclusive else list(engines))

    def resend(self) -> None:
        """Sends engines that lost their weights in sleep what they held last; nothing before the first `publish`."""
        if self.version >= 0:
            self._everywhere()

    @property
    def _sender(self) -> ActorGroup[Any]:
        return self.reference if self._from_reference and self.reference is not None else self.policy

    def _everywhere(self) -> M.Metrics:
        self.sharing.for_weights()
        try:
            if self.exclusive and self._joined is not self._sender:
                self.join()
            return self._send(None)
        except WorkerError as error:
            if not isinstance(error.__cause__, WeightSyncError):
                raise
            self.restarts.recover(error.__cause__.failed)  # every other engine holds the new weights
            return {}

    def _send(self, engines: list[int] | None) -> M.Metrics:
        begun, version = time.perf_counter(), self.version
        # The sender has the same deadline, starts it later and knows which engine is late: let it speak first.
        limit, method = self.timeout_s + SENDER_SLACK_S, LanguageModelWorker.send_weights
        sent = self._sender.broadcast(method, version, engines, timeout_s=limit, phase="weight sync")
        asked = range(len(self.rollout)) if engines is None else engines
        answers = [
            self.rollout.submit_one(i, RolloutWorker.version, timeout_s=self.timeout_s, phase="weight versions")
            for i in asked
        ]
        wrong = {i: v for i, answer in zip(asked, answers, strict=True) if (v := answer.result()) != version}
        if wrong:
            raise RuntimeError(
                f"weight sync to version {version}: "
                + ", ".join(f"rollout[{i}] reports version {v}" for i, v in wrong.items())
            )
        seconds = time.perf_counter() - begun
        return {
            "sync/megabytes": M.Last(sent[0]["bytes"] / 1e6),
            "sync/seconds": M.Last(seconds),
            "sync/pause_s": M.Last(sent[0]["pause_s"]),
        }


@dataclass
class _EngineFailure:
    rank: int
    starts: int  # of the engine, before the call that failed
    todo: dict[int, Prompt]
    error: Exception


@dataclass
class RolloutHandle:
    """`RolloutEngine` over vLLM workers: prompts are dealt over the engines, all samples of one to the same engine.

    An engine that dies is restarted, given the current weights and its unfinished prompts again.
    """

    group: ActorGroup[RolloutWorker]
    sharing: GpuSharing
    idle_timeout_s: float  # without a single finished group
    restarts: RestartPolicy
    _calls: Iterator[int] = field(default_factory=itertools.count)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        with self.sharing.generating():
            yield from self._generate(prompts, sampling)

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        call = f"call-{next(self._calls)}"
        arrived: queue.Queue[tuple[Prompt, Finished] | _EngineFailure] = queue.Queue()
        stopped = threading.Event()

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
            stopped.set()
            if missing:
                self._give_up(call)

    def _give_up(self, call: str) -> None:
        """The caller goes away early: engines drop what is left of the call, as far as they still answer."""
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
        """One engine's share, on a thread of its own. Reads only this engine; ends when its share is done."""
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
                    if finished.call_id == call:  # others belong to a call that was given up
                        self.restarts.served(rank)
                        arrived.put((todo.pop(finished.index), finished))
        except Exception as error:  # handed to the caller's thread: one that dies unseen would look like a stall
            if not stopped.is_set():
                arrived.put(_EngineFailure(rank, starts, todo, error))


def group_of(prompt: Prompt, finished: Finished, step: int) -> Group:
    """Aligned per-token arrays out of what an engine returned."""
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


class RewardHandle:
    """`RewardScorer` over verifier hosts. Groups that arrive while a call is under way travel together in the next.

    A host that dies or misses its deadline is restarted and its groups are scored again; where that is impossible, by
    the others.

    Args:
        timeout_s: deadline of a call by its number of samples.
        start_s: deadline of a restart.
    """

    def __init__(
        self,
        group: ActorGroup[VerifierWorker],
        timeout_s: Callable[[int], float],
        restarts: RestartPolicy,
        start_s: float,
    ) -> None:
        self._group, self._timeout_s, self._restarts = group, timeout_s, restarts
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for rank in range(len(group)):
            self._free.put(rank)
        tries = 1 + restarts.max_restarts * len(group)

        def limit_s(groups: list[Group]) -> float:
            return (self._limit_s(groups) + start_s) * tries

        self._batcher = Batcher("the verifiers", self._score, limit_s, threads=len(group))

    def submit(self, group: Group) -> Future[list[RewardResult]]:
        return self._batcher.submit(group)

    def close(self) -> None:
        self._batcher.close()

    def _limit_s(self, groups: Sequence[Group]) -> float:
        return self._timeout_s(sum(len(g.trajectories) for g in groups))

    def _score(self, groups: list[Group]) -> list[list[RewardResult]]:
        limit = self._limit_s(groups)
        while True:
            rank = self._free.get()
            starts = self._restarts.starts(rank)
            try:
                results = self._group.one(rank, VerifierWorker.score, groups, timeout_s=limit, phase="reward")
                self._restarts.served(rank)
                return results
            except ActorError as error:
                self._restarts.recover({rank: error}, {rank: starts})
            finally:
                if rank not in self._restarts.lost:
                    self._free.put(rank)
