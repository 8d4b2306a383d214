"""The weight publishers of the loops: a group of models sends, the rollout engines report what they hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.generation.rollout import RolloutWorker
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup, WorkerError
from actors.placement.restarts import RestartPolicy
from actors.training.policy import PolicyWorker
from actors.training.reference import ReferenceWorker
from actors.training.worker import LanguageModelWorker
from actors.weights.sender import WeightSyncError
from rlcore import metrics as M

SENDER_SLACK_S = 90.0


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
