"""Groups of Ray actors. Only this file applies `ray.remote`, and only the function `wait` waits for Ray.

Workers are plain classes without constructor arguments. A call names a method object of the class, never a string.
Every call has a deadline and a phase name; errors contain phase, role, rank, node, pid and the last log lines of the
actor.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placement.placement import RoleSlots
from rlcore.problems import UserError

W = TypeVar("W")
R = TypeVar("R")

SLICE_S = 0.5  # handlers of SIGINT and SIGTERM run between two slices
LOG_LINES = 20  # lines
MAX_BLAMED = 4  # actors described in full by one error
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ActorError(UserError, RuntimeError):
    """An error in an actor, or a failure of one.

    Attributes: `phase`, `role`, `rank`, `node`, `pid` (None: no process yet), `waited_s` and `log_lines`.
    """

    def __init__(self, message: str, info: ActorInfo, phase: str, waited_s: float, log_lines: str):
        super().__init__(message)
        self.role, self.rank, self.node, self.pid = info.role, info.rank, info.node, info.pid
        self.phase, self.waited_s, self.log_lines = phase, waited_s, log_lines


class DeadlineExceeded(ActorError):
    """An actor did not answer in time. The attributes describe the first late actor."""


class ActorDied(ActorError):
    """The process of an actor ended, never started, or its node was lost."""


class WorkerError(ActorError):
    """The worker's code raised: `__cause__` is its exception, the message contains its traceback."""


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """Identity and location of an actor, as far as known."""

    role: str
    rank: int
    node: str
    pid: int | None
    state: str
    actor_id: str

    def __str__(self) -> str:
        return f"{self.role}[{self.rank}] on node {self.node}, " + (f"pid {self.pid}" if self.pid else "no process yet")


@dataclass(slots=True)
class Member:
    """One actor of a group."""

    role: str
    rank: int
    node: str
    handle: Any

    def info(self) -> ActorInfo:
        """Queries Ray's control store; also works for dead actors."""
        # Ray's public state API needs the dashboard, which small clusters do not run.
        from ray._private.state import actors

        actor_id = self.handle._actor_id.hex()
        try:
            known = actors(actor_id) or {}
        except Exception:  # the control store is gone: do not hide the original error
            known = {}
        node = self.node or known.get("Address", {}).get("IPAddress", "?")
        pid, state = known.get("Pid") or None, str(known.get("State", "unknown"))
        return ActorInfo(self.role, self.rank, node, pid, state, actor_id)


@dataclass(frozen=True, slots=True)
class Call:
    """A running method call on one actor."""

    ref: Any
    member: Member


@dataclass(slots=True)
class Pending(Generic[R]):
    """Running calls. The deadline counts from their submission."""

    calls: list[Call]
    phase: str
    timeout_s: float
    single: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def refs(self) -> list[Any]:
        return [call.ref for call in self.calls]

    def result(self) -> R:
        """Results in rank order, or the one result of `submit_one`.

        Raises:
            WorkerError, ActorDied: as soon as one call fails, even if others still run.
            DeadlineExceeded: more than `timeout_s` seconds since submission.
        """
        results: dict[Any, Any] = {}
        while left := [call for call in self.calls if call.ref not in results]:
            for call in wait(left, self.started, self.timeout_s, self.phase):
                results[call.ref] = self._fetch(call)
        ordered = [results[call.ref] for call in self.calls]
        return ordered[0] if self.single else ordered  # type: ignore[return-value]

    def _fetch(self, call: Call) -> Any:
        try:
            return ray.get(call.ref)
        except RayTaskError as error:
            raise _worker_error(error, call.member, self.phase, time.monotonic() - self.started) from error.cause
        except RayError as error:
            raise _actor_died(error, call.member, self.phase, time.monotonic() - self.started) from None


def wait(calls: Sequence[Call], started: float, timeout_s: float, phase: str) -> list[Call]:
    """Blocks until at least one call has finished or failed, and returns all of those.

    Args:
        started: `time.monotonic()` from which the deadline counts.

    Raises:
        DeadlineExceeded: no call has ended; the message lists all late actors.
    """
    by_ref = {call.ref: call for call in calls}
    while True:
        left_s = started + timeout_s - time.monotonic()
        done, _ = ray.wait(list(by_ref), num_returns=1, timeout=min(SLICE_S, max(left_s, 0.0)))
        if done:
            # Fetch all ready calls, so that a failed one is seen among many successful ones.
            done, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
            return [by_ref[ref] for ref in done]
        if left_s <= 0:
            raise _deadline_exceeded(calls, phase, time.monotonic() - started)


class ActorGroup(Generic[W]):
    """N actors of one worker class, in the slots of one role. Rank i lives in bundle `slots.bundle_indices[i]`."""

    def __init__(
        self, worker_class: type[W], slots: RoleSlots, name: str, env: Mapping[str, str], max_concurrency: int = 1
    ):
        self.worker_class, self.slots, self.name = worker_class, slots, name
        self._env, self._max_concurrency = dict(env), max_concurrency
        self._members = [self._spawn(rank) for rank in range(len(slots))]
        # Calls of several threads reach all ranks in the same order: collective operations would hang otherwise.
        self._submitting = threading.Lock()

    @classmethod
    def create(
        cls, worker_class: type[W], slots: RoleSlots, name: str, env: Mapping[str, str], max_concurrency: int = 1
    ) -> ActorGroup[W]:
        """Starts the processes without waiting; the first call waits for them, so that groups start in parallel.

        Args:
            name: of the group in messages; usually the role.
            env: environment of the processes, set before Python starts (OMP_NUM_THREADS and the like).
            max_concurrency: concurrent method calls in one worker, in threads.
        """
        return cls(worker_class, slots, name, env, max_concurrency)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def handles(self) -> list[Any]:
        """Ray actor handles by rank, for calls between workers; the driver must not use them."""
        return [member.handle for member in self._members]

    @property
    def infos(self) -> list[ActorInfo]:
        return [member.info() for member in self._members]

    def put(self, value: Any) -> Any:
        """A reference of one copy in the object store, to use as an argument of calls."""
        return ray.put(value)

    def broadcast(self, method: Callable[..., R], *args: Any, timeout_s: float, phase: str) -> list[R]:
        """Makes the same call on every actor; results in rank order. Raises like `Pending.result`."""
        return self.submit_broadcast(method, *args, timeout_s=timeout_s, phase=phase).result()

    def scatter(
        self, method: Callable[..., R], per_rank_args: Sequence[tuple[Any, ...]], timeout_s: float, phase: str
    ) -> list[R]:
        """Calls each actor with separate arguments; results in rank order. Raises like `Pending.result`; ValueError:
        wrong count.
        """
        return self.submit_scatter(method, per_rank_args, timeout_s=timeout_s, phase=phase).result()

    def one(self, rank: int, method: Callable[..., R], *args: Any, timeout_s: float, phase: str) -> R:
        """Makes one call on one actor. Raises like `Pending.result`."""
        return self.submit_one(rank, method, *args, timeout_s=timeout_s, phase=phase).result()

    def submit_broadcast(self, method: Callable[..., R], *args: Any, timeout_s: float, phase: str) -> Pending[list[R]]:
        # One copy in the object store for all actors.
        shared = [self.put(arg) if len(self) > 1 and _is_bulky(arg) else arg for arg in args]
        return self.submit_scatter(method, [tuple(shared)] * len(self), timeout_s=timeout_s, phase=phase)

    def submit_scatter(
        self, method: Callable[..., R], per_rank_args: Sequence[tuple[Any, ...]], timeout_s: float, phase: str
    ) -> Pending[list[R]]:
        if len(per_rank_args) != len(self):
            raise ValueError(f"phase {phase}: {len(per_rank_args)} argument tuples for {len(self)} {self.name} actors")
        name = self._method_name(method)
        with self._submitting:
            calls = [_call(member, name, args) for member, args in zip(self._members, per_rank_args, strict=True)]
        return Pending(calls, phase, timeout_s)

    def submit_one(self, rank: int, method: Callable[..., R], *args: Any, timeout_s: float, phase: str) -> Pending[R]:
        return Pending([_call(self._members[rank], self._method_name(method), args)], phase, timeout_s, single=True)

    def replace(self, rank: int) -> None:
        """Kills an actor, dead or alive, and starts a new one without state on the same bundle."""
        ray.kill(self._members[rank].handle, no_restart=True)
        self._members[rank] = self._spawn(rank)

    def restart(
        self,
        ranks: Sequence[int],
        method: Callable[..., Any],
        arguments: Callable[[int], tuple[Any, ...]],
        timeout_s: float,
    ) -> None:
        """Replaces several actors and calls `method(*arguments(rank))` on each. Raises like `Pending.result`."""
        for rank in ranks:
            self.replace(rank)
        phase = f"restart {self.name}"
        calls = [self.submit_one(r, method, *arguments(r), timeout_s=timeout_s, phase=phase) for r in ranks]
        for call in calls:
            call.result()

    def shutdown(self) -> None:
        """Kills all processes. Safe to call twice; the slots stay reserved."""
        for member in self._members:
            ray.kill(member.handle, no_restart=True)
        self._members = []

    def _spawn(self, rank: int) -> Member:
        slots = self.slots
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=slots.placement_group, placement_group_bundle_index=slots.bundle_indices[rank]
        )
        actor = ray.remote(self.worker_class).options(
            num_cpus=slots.num_cpus,
            num_gpus=slots.num_gpus,
            scheduling_strategy=strategy,
            runtime_env={"env_vars": self._env},
            max_restarts=0,  # a worker restarted by Ray would have no state and answer anyway
            max_task_retries=0,
            max_concurrency=self._max_concurrency,
        )
        return Member(self.name, rank, slots.node_names[rank], actor.remote())

    def _method_name(self, method: Callable[..., Any]) -> str:
        name = str(getattr(method, "__name__", ""))
        known = any(vars(cls).get(name) is method for cls in self.worker_class.__mro__)
        if not callable(method) or not known or name.startswith("__"):
            raise TypeError(
                f"{method!r} is not a method of {self.worker_class.__name__}; "
                f"pass the method object, such as {self.worker_class.__name__}.{name or 'start'}"
            )
        return name


def _call(member: Member, method: str, args: tuple[Any, ...]) -> Call:
    return Call(getattr(member.handle, method).remote(*args), member)


def _is_bulky(value: Any) -> bool:
    """Small scalars are sent inside of the call; other arguments may be large."""
    return not isinstance(value, (int, float, str, bool, type(None), ray.ObjectRef))


def _worker_error(error: RayTaskError, member: Member, phase: str, waited_s: float) -> WorkerError:
    info = member.info()
    trace = ANSI.sub("", str(error)).strip()
    summary = f"{type(error.cause).__name__}: {error.cause}"
    message = f"phase {phase}: {info} raised {summary}\n--- traceback in the worker ---\n{trace}"
    return WorkerError(message, info, phase, waited_s, _log_lines(info))


def _actor_died(error: RayError, member: Member, phase: str, waited_s: float) -> ActorDied:
    info = member.info()
    lines = _log_lines(info)
    cause = ANSI.sub("", str(error)).strip()
    hint = "" if isinstance(error, RayActorError) else f" ({type(error).__name__})"
    message = (
        f"phase {phase}: {info} died{hint} after {waited_s:.1f} s of waiting\n"
        f"--- its last log lines ---\n{lines}\n--- what Ray says ---\n{cause}"
    )
    return ActorDied(message, info, phase, waited_s, lines)


def _deadline_exceeded(calls: Sequence[Call], phase: str, waited_s: float) -> DeadlineExceeded:
    infos = [call.member.info() for call in calls[:MAX_BLAMED]]
    blocks = []
    for info in infos:
        state = "" if info.pid else f" (its process has not started: {info.state})"
        blocks.append(f"{info}{state}\n--- its last log lines ---\n{_log_lines(info)}")
    if len(calls) > MAX_BLAMED:
        blocks.append("also late: " + ", ".join(f"{c.member.role}[{c.member.rank}]" for c in calls[MAX_BLAMED:]))
    head = f"phase {phase}: no answer after {waited_s:.1f} s from {len(calls)} actor{'s' if len(calls) > 1 else ''}:"
    return DeadlineExceeded("\n".join([head, *blocks]), infos[0], phase, waited_s, _log_lines(infos[0]))


def _log_lines(info: ActorInfo) -> str:
    """The last log lines of a worker: from its log files on this node, otherwise through Ray."""
    if info.pid is None:
        return "(its process never started)"
    here = info.node.split("/")[0] == ray.util.get_node_ip_address()
    session = ray._private.worker._global_node
    if not here or session is None:
        return _remote_log_lines(info)
    # Ray's names: worker-<id>-<job>-<pid>.err and .out. Lines that start with a colon are Ray's own marks.
    files = sorted(Path(session.get_logs_dir_path()).glob(f"worker-*-{info.pid}.*"))
    shown = []
    for file in files:
        lines = [ln for ln in ANSI.sub("", _tail(file)).splitlines() if ln.strip() and not ln.startswith(":")]
        shown += [f"[{file.suffix[1:]}] {line}" for line in lines[-LOG_LINES:]]
    return "\n".join(shown) or "(it printed nothing)"


def _remote_log_lines(info: ActorInfo) -> str:
    from ray.util.state import get_log

    lines = []
    for suffix in ("err", "out"):
        try:
            lines += list(get_log(actor_id=info.actor_id, suffix=suffix, tail=LOG_LINES, timeout=5))
        except Exception as error:  # no dashboard, or the node is gone: do not hide the original error
            return f"(its log is on node {info.node}, in Ray's logs folder, pid {info.pid}; {type(error).__name__})"
    return ANSI.sub("", "".join(lines)).strip() or "(it printed nothing)"


def _tail(file: Path, max_bytes: int = 64_000) -> str:
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - max_bytes, 0))
        return stream.read().decode(errors="replace")
