"""Weight publishers for the loops: a group of models sends, the rollout engines report their version.

Threads and locks. The loop's thread updates the policy (`changing`) and publishes; the collector of a failed engine
restarts it at any time, and sends it weights (`rejoin`). Locks are taken in this order:

1. of `GpuSharing`, where a waking engine gets its weights again (`resend`);
2. `RestartPolicy.paused`: a publication and a restart exclude each other;
3. `_stable`: no engine gets weights while an update changes them.

`changing` takes only the last, so an update and a restart run side by side until the new process needs weights; a
publication inside of it would take them in the wrong order, and is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.generation.rollout import RolloutWorker
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup, WorkerError
from actors.placement.restarts import RestartPolicy
from actors.training.worker import LanguageModelWorker, PolicyWorker, ReferenceWorker
from actors.weights.sender import WeightSyncError
from rlcore import metrics as M

SENDER_SLACK_S = 90.0


@dataclass
class WeightHandle:
    """`WeightPublisher`, and `ReferencePublisher` if a reference sends weights: the ranks of a group send, the rollout
    engines report their version.

    Call `join` before the first transfer.
    """

    policy: ActorGroup[PolicyWorker]
    rollout: ActorGroup[RolloutWorker]
    timeout_s: float
    sharing: GpuSharing
    restarts: RestartPolicy
    connect: Callable[[ActorGroup[Any]], None]  # connects a group of senders to all engines
    reference: ActorGroup[ReferenceWorker] | None = None  # None: no reference sends weights
    exclusive: bool = False  # engines receive only from the group joined last, and always all together
    checksums: bool = False  # compare the weights of all engines after each transfer
    version: int = -1  # version of the last sent policy weights
    policy_version: int = -1  # version of the weights in the policy
    _from_reference: bool = False  # true if the engines have, or should have, the reference's weights
    _joined: ActorGroup[Any] | None = None  # used if exclusive
    _stable: threading.RLock = field(default_factory=threading.RLock)  # held while weights change, or are sent
    _changed_by: threading.Thread | None = None  # inside of `changing`
    _torn: bool = False  # an update broke off

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._stable:
            self._changed_by, self._torn = threading.current_thread(), True
            try:
                yield
                self.policy_version, self._torn = max(self.policy_version, self.version) + 1, False
            finally:
                self._changed_by = None

    def join(self) -> None:
        """Connects the senders to the engines; call it again after a restart of an engine."""
        groups = [self.policy, self.reference]
        for group in [self._sender] if self.exclusive else groups:
            if group is not None:
                self.connect(group)
                self._joined = group

    def renewed(self, group: ActorGroup[Any]) -> None:
        """Called when a group has a new engine: it joins immediately if engines can receive from several groups,
        otherwise at its next transfer.
        """
        if group not in (self.policy, self.reference):
            return
        if not self.exclusive:
            self.connect(group)
        elif self._joined is group:
            self._joined = None

    def publish(self, after: int = -1) -> M.Metrics:
        with self._sending(self.policy):
            self._from_reference, self.version = False, max(self.version + 1, self.policy_version, after + 1)
            self.policy_version = self.version
            return self._everywhere()

    def publish_reference(self) -> M.Metrics:
        """Sends the reference's weights. The engines keep reporting the policy's current version; they must be idle.

        Raises:
            RuntimeError: no reference sends weights, or no `publish` before.
        """
        if self.reference is None or self.version < 0:
            raise RuntimeError("publish_reference without a reference that sends, or before the first publish")
        with self._sending(self.reference):
            self._from_reference = True
            return self._everywhere()

    def rejoin(self, engines: Sequence[int]) -> None:
        """Call it after a restart of these engines, inside of `RestartPolicy.recover`: connects all again and sends the
        policy's weights as they are now, which may be newer than the last published ones.
        """
        with self._stable:
            if self._torn:
                raise RuntimeError("an update of the policy broke off: no engine can get its weights")
            self.join()
            self._send(None if self.exclusive else list(engines))

    def resend(self) -> None:
        """Sends the policy's weights again to engines that lost them in sleep; does nothing before the first `publish`.
        """
        if self.version >= 0:
            with self._sending(self._sender):
                self.version = self._current_version
                self._everywhere()

    @property
    def _sender(self) -> ActorGroup[Any]:
        return self.reference if self._from_reference and self.reference is not None else self.policy

    @property
    def _current_version(self) -> int:
        """Of the sender's weights. Those of the reference go by the policy's last sent version."""
        return self.version if self._from_reference else self.policy_version

    @contextmanager
    def _sending(self, sender: ActorGroup[Any]) -> Iterator[None]:
        if self._changed_by is threading.current_thread():
            raise RuntimeError("weights were published inside of `changing`, before the update was complete")
        self.sharing.for_weights(sender)
        with self.restarts.paused(), self._stable:
            yield

    def _everywhere(self) -> M.Metrics:
        try:
            if self.exclusive and self._joined is not self._sender:
                self.join()
            return self._send(None)
        except WorkerError as error:
            if not isinstance(error.__cause__, WeightSyncError):
                raise
            self.restarts.recover(error.__cause__.failed)  # all other engines have the new weights
            return {}

    def _send(self, engines: list[int] | None) -> M.Metrics:
        begun, version = time.perf_counter(), self._current_version
        # The sender starts the same deadline later and knows which engine is late: let its error come first.
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
        if self.checksums:
            self._compare(version)
        seconds = time.perf_counter() - begun
        return {
            "sync/megabytes": M.Last(sent[0]["bytes"] / 1e6),
            "sync/seconds": M.Last(seconds),
            "sync/pause_s": M.Last(sent[0]["pause_s"]),
        }

    def _compare(self, version: int) -> None:
        calls = [
            self.rollout.submit_one(
                i, RolloutWorker.weight_checksums, timeout_s=self.timeout_s, phase="weight checksums"
            )
            for i in range(len(self.rollout))
        ]
        first, *others = [call.result() for call in calls]
        for i, other in enumerate(others, 1):
            names = sorted(n for n in first.keys() | other.keys() if first.get(n) != other.get(n))
            if names:
                raise RuntimeError(
                    f"weight sync to version {version}: rollout[0] and rollout[{i}] differ in {len(names)} weights: "
                    + ", ".join(names[:5])
                )
