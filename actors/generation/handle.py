"""Handle of the rollout engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field

import numpy as np

from actors.generation.dispatch import Dispatcher, RolloutStalled
from actors.generation.rollout import Finished, RolloutWorker
from actors.generation.work_queue import Arrival
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorError, ActorGroup
from actors.placement.restarts import RestartPolicy
from rlcore import metrics as M
from rlcore.interfaces import Sampling
from rlcore.types import Group, Prompt, Trajectory

__all__ = ["RolloutHandle", "RolloutStalled"]

METRICS_S = 5.0


@dataclass
class RolloutHandle:
    """`RolloutEngine` over vLLM workers, which take prompts from one queue; all samples of a prompt are on one engine.

    A dead engine is restarted and gets the current weights; its unfinished prompts go to any engine.
    """

    group: ActorGroup[RolloutWorker]
    sharing: GpuSharing
    idle_timeout_s: float  # time without a finished group
    restarts: RestartPolicy
    slots: int  # samples that an engine processes at the same time
    _dispatcher: Dispatcher = field(init=False)
    _used: dict[int, tuple[float, float]] = field(default_factory=dict)  # rank -> seconds idle and busy, last seen

    def __post_init__(self) -> None:
        self._dispatcher = Dispatcher(self.group, self.restarts, self.slots, self.idle_timeout_s)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        with self.sharing.generating(), closing(self._dispatcher.groups(prompts, sampling)) as arrivals:
            for prompt, finished, engine in arrivals:
                yield group_of(prompt, finished, sampling.step, engine)

    def generating(self) -> AbstractContextManager[None]:
        """Engines are awake in this block; `generate` does this itself."""
        return self.sharing.generating()

    def submit(self, prompt: Prompt, sampling: Sampling, engine: int = -1) -> Future[Group]:
        """Samples one prompt, preferably on the engine that has its beginning in its cache; cancelling the future drops
        the request. Only in a block of `generating`.
        """
        group: Future[Group] = Future()

        def convert(arrival: Future[Arrival]) -> None:
            with suppress(InvalidStateError):  # it was cancelled
                if arrival.cancelled():
                    group.cancel()
                elif (error := arrival.exception()) is not None:
                    group.set_exception(error)
                else:
                    item = arrival.result()
                    group.set_result(group_of(prompt, item.finished, sampling.step, item.engine))

        arrival = self._dispatcher.submit(prompt, sampling, engine)
        group.add_done_callback(lambda done: arrival.cancel() if done.cancelled() else None)
        arrival.add_done_callback(convert)
        return group

    def abandon(self) -> None:
        self._dispatcher.abandon()

    def close(self) -> None:
        self._dispatcher.close()

    def metrics(self) -> M.Metrics:
        """`wait/engine_idle_s` (mean over engines) and `wait/engine_idle_share` since the last call. An engine that
        does not answer is left out.
        """
        limit, phase = METRICS_S, "engine metrics"
        calls = [
            self.group.submit_one(rank, RolloutWorker.seconds, timeout_s=limit, phase=phase)
            for rank in range(len(self.group))
        ]
        idle, total, count = 0.0, 0.0, 0
        for rank, call in enumerate(calls):
            with suppress(ActorError):
                now, before = call.result(), self._used.get(rank, (0.0, 0.0))
                if now[0] < before[0] or now[1] < before[1]:  # it was restarted
                    before = (0.0, 0.0)
                self._used[rank] = now
                idle, count = idle + now[0] - before[0], count + 1
                total += sum(now) - sum(before)
        if not count:
            return {}
        return {"wait/engine_idle_s": M.Mean(idle, count), "wait/engine_idle_share": M.Mean(idle, total)}


def group_of(prompt: Prompt, finished: Finished, step: int, engine: int) -> Group:
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
                engine=engine,
                begun_version=finished.begun_version,
            )
        )
    return Group(prompt, trajectories)
