"""Transport over a process group: policy rank 0 broadcasts to all workers of all engines. NCCL, or gloo without GPUs.

Ranks of the group: 0 is policy rank 0; worker w of engine i is 1 + i x (workers per engine) + w. Joining has two steps,
so that a missing peer is reported and does not block the others: every worker announces itself in a TCP store; once all
have, rank 0 gives a signal and all create the group. Broadcasts are polled, because NCCL would block forever if a peer
is gone.
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

from actors.placement.process import open_store
from actors.weights.engine_group import EngineGroup
from actors.weights.records import Bucket, Payload, fill, header

GO, STOP = "go", "stop"
POLL_S = 0.0005
POLL_MAX_S = 0.02
LOOK_EVERY_S = 0.25  # interval of rank 0's checks for failed peers during a broadcast
SLACK_S = 30.0  # margin on the backends' time limits, so that our errors come first


class GroupBrokenError(RuntimeError):
    """A peer of the group failed or was late; the group must be joined again."""


class Group:
    """A process group, independent of existing ones of the process."""

    def __init__(self, kind: str, store: Store, rank: int, size: int, device: torch.device, limit_s: float) -> None:
        self._pg = _backend(kind, PrefixStore("weights", store), rank, size, limit_s)
        self._store = store  # rank 0's store exists as long as the group
        greeting = torch.full((1,), 1 if rank == 0 else 0, dtype=torch.uint8, device=device)
        self.finish(self.broadcast(greeting), limit_s)  # NCCL connects at the first collective

    def broadcast(self, flat: torch.Tensor) -> Any:
        if self._pg is None:
            raise GroupBrokenError("the weight group broke in an earlier broadcast")
        return self._pg.broadcast(flat, 0)

    def finish(self, work: Any, limit_s: float, failed: Callable[[], bool] = lambda: False) -> None:
        """Waits for a broadcast. `failed` returns True if a peer is known to be gone.

        Raises:
            GroupBrokenError: a peer is gone, or `limit_s` passed; the group is then closed.
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
    from torch.distributed import ProcessGroupNCCL  # missing in builds of torch without CUDA

    options = ProcessGroupNCCL.Options()
    options._timeout = limit
    return ProcessGroupNCCL(store, rank, size, options)


class CollectiveLink:
    """The trainer side, on policy rank 0. See `actors.weights.sender.Link`."""

    everywhere, exclusive = False, True

    def __init__(self, kind: str, dtype: torch.dtype, workers_per_engine: int, deadline_s: float) -> None:
        self.kind, self.dtype, self.workers, self.deadline_s = kind, dtype, workers_per_engine, deadline_s
        self.device = torch.device("cpu" if kind == "gloo" else "cuda:0")
        self.group: Group | None = None
        self._flat: torch.Tensor | None = None

    @property
    def joined(self) -> bool:
        return self.group is not None

    def join(self, engine_group: EngineGroup) -> None:
        """Creates the group. If engines are missing, they are recorded as failed and no group is created."""
        self.close(last=True)
        engines = sorted(engine_group.engines)
        size = 1 + len(engines) * self.workers
        host, store = open_store(engine_group.seconds_left)
        common = {"transport": self.kind, "address": host, "port": store.port, "size": size}
        first = {i: 1 + k * self.workers for k, i in enumerate(engines)}  # rank of the engine's first worker
        common |= {"limit_s": engine_group.seconds_left}
        arguments = {i: ({**common, "offset": rank},) for i, rank in first.items()}
        calls = engine_group.start_each("init_weights", arguments)
        here = self._await(engine_group, calls, store, first)
        store.set("word", GO if here else STOP)
        if here:
            try:
                self.group = Group(self.kind, store, 0, size, self.device, engine_group.seconds_left)
            except RuntimeError as error:  # from torch: a peer left after the signal
                engine_group.failed |= dict.fromkeys(engine_group.alive, f"init_weights: {error}")
        engine_group.wait(calls, "init_weights")
        if engine_group.failed:
            self.close(last=True)

    def _await(self, engine_group: EngineGroup, calls: dict[Any, int], store: Store, offsets: dict[int, int]) -> bool:
        """True if all workers of all engines announced themselves in time; otherwise the missing ones are recorded as
        failed.
        """
        names = {i: [_announcement(first + w) for w in range(self.workers)] for i, first in offsets.items()}
        while not engine_group.has_failed(calls, "init_weights"):
            if store.check([name for own in names.values() for name in own]):
                return True
            if time.monotonic() > engine_group.ends_at:
                text = f"init_weights: never joined the weight group within {engine_group.deadline_s:g} s"
                missing = [i for i, own in names.items() if not store.check(own)]
                engine_group.failed |= dict.fromkeys(missing, text)
                engine_group.lost |= set(missing)
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

    def transmit(self, engine_group: EngineGroup, calls: dict[Any, int]) -> None:
        if self.group is None or self._flat is None:
            return
        try:
            work = self.group.broadcast(self._flat)
            self.group.finish(work, engine_group.seconds_left, lambda: engine_group.has_failed(calls, "load_bucket"))
        except RuntimeError as error:
            self.close(last=True)
            engine_group.wait(calls, "load_bucket")  # they detect it too; engines with dead processes are `lost`
            engine_group.failed |= dict.fromkeys(engine_group.alive, f"load_bucket: {error}")

    def close(self, last: bool = False) -> None:
        """Called after each update; `last` also closes the group."""
        self._flat = None
        if last and self.group is not None:
            self.group.close()
            self.group = None


def _announcement(rank: int) -> str:
    return f"here/{rank}"


class CollectiveInbox:
    """The engine side, in each of its workers. Receives in the background until the tensor is used."""

    def __init__(self, info: Any, rank: int, device: torch.device) -> None:
        """Joins the group.

        Raises:
            GroupBrokenError: rank 0 gave up, or the deadline passed.
        """
        limit, own = timedelta(seconds=info.limit_s), info.offset + rank
        try:
            store = TCPStore(info.address, info.port, None, False, limit)
            store.set(_announcement(own), "")
            store.wait(["word"], limit)
            word = store.get("word")
        except RuntimeError as error:  # base class of torch.distributed's errors
            raise GroupBrokenError(f"the weight group at {info.address}:{info.port}: {error}") from error
        if word != GO.encode():
            raise GroupBrokenError("the weight group was closed: another engine did not join")
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
