"""Over a process group: rank 0 of the policy broadcasts to every worker of every engine. NCCL, or gloo without GPUs.

Ranks of the group: 0 is the policy's rank 0; worker w of engine i is 1 + i x (workers of an engine) + w. The group is
joined in two steps, so that a peer that never comes is named and does not hang the others: every worker announces
itself in a TCP store; once all have, rank 0 gives the word and all build the group. A broadcast is polled, never waited
for blindly: with its peer gone NCCL would block for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed import ProcessGroupGloo
from torch.distributed.distributed_c10d import PrefixStore, Store

from actors.weights.fleet import Fleet
from actors.weights.records import Bucket, Payload, fill, header

GO, STOP = "go", "stop"
POLL_S = 0.0005
POLL_MAX_S = 0.02
LOOK_EVERY_S = 0.25  # how often rank 0 asks whether a peer failed during a broadcast
SLACK_S = 30.0  # of the backends' own time limits, so that ours speak first


class GroupBrokenError(RuntimeError):
    """A peer of the group failed or was late; the group has to be joined again."""


class Group:
    """One process group, beside any that the process has already."""

    def __init__(self, kind: str, store: Store, rank: int, size: int, device: torch.device, limit_s: float) -> None:
        self._pg = _backend(kind, PrefixStore("weights", store), rank, size, limit_s)
        self._store = store  # rank 0's lives as long as the group
        greeting = torch.full((1,), 1 if rank == 0 else 0, dtype=torch.uint8, device=device)
        self.finish(self.broadcast(greeting), limit_s)  # NCCL connects at the first collective

    def broadcast(self, flat: torch.Tensor) -> Any:
        if self._pg is None:
            raise GroupBrokenError("the weight group broke in an earlier broadcast")
        return self._pg.broadcast(flat, 0)

    def finish(self, work: Any, limit_s: float, failed: Callable[[], bool] = lambda: False) -> None:
        """Waits for a broadcast. `failed` says that a peer is known to be gone.

        Raises:
            GroupBrokenError: a peer is gone, or `limit_s` is over; the group is closed then.
        """
        ends_at, looked, pause = time.monotonic() + limit_s, time.monotonic(), POLL_S
        while not work.is_completed():
            now = time.monotonic()
            late = now > ends_at
            if late or (now - looked > LOOK_EVERY_S and failed()):
                self.close()
                why = f"not finished within {limit_s:.3g} s" if late else "a peer has failed"
                raise GroupBrokenError(f"broadcast of weights: {why}")
            looked = now if now - looked > LOOK_EVERY_S else looked
            time.sleep(pause)
            pause = min(2 * pause, POLL_MAX_S)
        try:
            work.wait()
        except RuntimeError as error:
            self.close()
            raise GroupBrokenError(f"broadcast of weights: {error}") from error

    def close(self) -> None:
        if self._pg is not None:
            self._pg.abort()
            self._pg = None


def _backend(kind: str, store: Store, rank: int, size: int, limit_s: float) -> Any:
    limit = timedelta(seconds=limit_s + SLACK_S)
    if kind == "gloo":
        return ProcessGroupGloo(store, rank, size, limit)
    from torch.distributed import ProcessGroupNCCL  # a build of torch without CUDA has none

    options = ProcessGroupNCCL.Options()
    options._timeout = limit
    return ProcessGroupNCCL(store, rank, size, options)


class CollectiveLink:
    """The trainer's half, on the policy's rank 0. See `actors.weights.sender.Link`."""

    everywhere, exclusive = False, True

    def __init__(self, kind: str, dtype: torch.dtype, workers_per_engine: int, deadline_s: float) -> None:
        self.kind, self.dtype, self.workers, self.deadline_s = kind, dtype, workers_per_engine, deadline_s
        self.device = torch.device("cpu" if kind == "gloo" else "cuda:0")
        self.group: Group | None = None
        self._flat: torch.Tensor | None = None

    @property
    def joined(self) -> bool:
        return self.group is not None

    def join(self, fleet: Fleet) -> None:
        """Builds the group; engines that do not come are noted as failed, and there is no group then."""
        from actors.placement.process import free_address

        self.close(last=True)
        engines, host = sorted(fleet.engines), free_address()[0]
        size, limit = 1 + len(engines) * self.workers, timedelta(seconds=fleet.seconds_left)
        store = TCPStore(host, 0, None, True, limit, wait_for_workers=False)
        common = {"transport": self.kind, "address": host, "port": store.port, "size": size}
        first = {i: 1 + k * self.workers for k, i in enumerate(engines)}  # rank of the engine's first worker
        own = {i: ({**common, "offset": rank, "limit_s": fleet.seconds_left},) for i, rank in first.items()}
        calls = fleet.start_each("init_weights", own)
        here = self._await(fleet, calls, store, first)
        store.set("word", GO if here else STOP)
        if here:
            try:
                self.group = Group(self.kind, store, 0, size, self.device, fleet.seconds_left)
            except RuntimeError as error:  # of torch: a peer that went after the word
                fleet.failed |= dict.fromkeys(fleet.alive, f"init_weights: {error}")
        fleet.wait(calls, "init_weights")
        if fleet.failed:
            self.close(last=True)

    def _await(self, fleet: Fleet, calls: dict[Any, int], store: Store, offsets: dict[int, int]) -> bool:
        """True once every worker of every engine has announced itself; else the missing ones are noted."""
        names = {i: [_announcement(first + w) for w in range(self.workers)] for i, first in offsets.items()}
        while not fleet.has_failed(calls, "init_weights"):
            if store.check([name for own in names.values() for name in own]):
                return True
            if time.monotonic() > fleet.ends_at:
                text = f"init_weights: never joined the weight group within {fleet.deadline_s:g} s"
                missing = [i for i, own in names.items() if not store.check(own)]
                fleet.failed |= dict.fromkeys(missing, text)
                fleet.lost |= set(missing)
                break
            time.sleep(POLL_MAX_S)
        return False

    def pack(self, bucket: Bucket) -> Payload:
        head = header(bucket, self.dtype)
        self._flat = torch.empty(head["num_bytes"], dtype=torch.uint8, device=self.device)
        fill(self._flat, bucket, head)
        return head

    def meet(self, payload: Payload) -> Payload:
        return payload

    def transmit(self, fleet: Fleet, calls: dict[Any, int]) -> None:
        if self.group is None or self._flat is None:
            return
        try:
            work = self.group.broadcast(self._flat)
            self.group.finish(work, fleet.seconds_left, lambda: fleet.has_failed(calls, "load_bucket"))
        except RuntimeError as error:
            self.close(last=True)
            fleet.wait(calls, "load_bucket")  # they find out as well; those whose process is gone are `lost`
            fleet.failed |= dict.fromkeys(fleet.alive, f"load_bucket: {error}")

    def close(self, last: bool = False) -> None:
        """After each update; `last`: the group is given up too."""
        self._flat = None
        if last and self.group is not None:
            self.group.close()
            self.group = None


def _announcement(rank: int) -> str:
    return f"here/{rank}"


class CollectiveInbox:
    """The engine's half, in each of its workers. Receiving goes on in the background until the tensor is asked for."""

    def __init__(self, info: Any, rank: int, device: torch.device) -> None:
        """Joins the group.

        Raises:
            GroupBrokenError: rank 0 gave it up, or the deadline passed.
        """
        limit, own = timedelta(seconds=info.limit_s), info.offset + rank
        try:
            store = TCPStore(info.address, info.port, None, False, limit)
            store.set(_announcement(own), "")
            store.wait(["word"], limit)
            word = store.get("word")
        except RuntimeError as error:  # torch.distributed's errors are
            raise GroupBrokenError(f"the weight group at {info.address}:{info.port}: {error}") from error
        if word != GO.encode():
            raise GroupBrokenError("the weight group was given up: another engine did not join")
        self.device, self._group = device, Group(info.transport, store, own, info.size, device, info.limit_s)

    def receive(self, info: Any) -> Callable[[], torch.Tensor]:
        flat = torch.empty(info.num_bytes, dtype=torch.uint8, device=self.device)
        work, ends_at = self._group.broadcast(flat), time.monotonic() + info.seconds

        def wait() -> torch.Tensor:
            self._group.finish(work, max(ends_at - time.monotonic(), 0.0))
            return flat

        return wait

    def close(self) -> None:
        self._group.close()
