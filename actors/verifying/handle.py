"""Scorer handle of the verifier hosts."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from actors.placement.group import ActorError, ActorGroup
from actors.placement.restarts import RestartPolicy
from actors.verifying.verifier import GroupInput, VerifierWorker
from rlcore.rewards.scorers import Batcher
from rlcore.types import Group, RewardResult


class RewardHandle:
    """`RewardScorer` over verifier hosts. Groups that arrive during a call are batched in the next one.

    A host that dies or misses its deadline is restarted and its groups are scored again; if the restart fails, by the
    other hosts.

    Args:
        timeout_s: deadline of a call for a number of samples.
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
        limit, asked = self._limit_s(groups), [GroupInput.of(group) for group in groups]
        while True:
            rank = self._free.get()
            starts = self._restarts.starts(rank)
            try:
                results = self._group.one(rank, VerifierWorker.score, asked, timeout_s=limit, phase="reward")
                self._restarts.served(rank)
                return results
            except ActorError as error:
                self._restarts.recover({rank: error}, {rank: starts})
            finally:
                if rank not in self._restarts.lost:
                    self._free.put(rank)
