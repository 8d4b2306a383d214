"""Groups of real Ray actors: order, deadlines, deaths, errors, replacement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.config.schema import ClusterConfig, RoleConfig, RolesConfig
from actors.placement.group import ActorDied, ActorGroup, DeadlineExceeded, WorkerError
from actors.placement.placement import Placement

LIMIT = {"timeout_s": 60.0, "phase": "test"}


class Base:
    def inherited(self) -> str:
        return "inherited"


class Worker(Base):
    def __init__(self) -> None:
        self.calls = 0

    def echo(self, value):
        self.calls += 1
        return value

    def count(self) -> int:
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def sleep(self, seconds: float) -> float:
        print(f"going to sleep for {seconds}")
        time.sleep(seconds)
        return seconds

    def meet(self, folder: Path, name: str, names: list[str]) -> str:
        (folder / name).touch()
        while not all((folder / other).exists() for other in names):
            time.sleep(0.01)
        return name

    def die(self, log_lines: str) -> None:
        for i in range(30):
            print(f"line {i}")
        print(log_lines, file=sys.stderr)
        os._exit(3)

    def fail(self, text: str) -> None:
        raise KeyError(text)

    def fail_or_sleep(self, seconds: float) -> None:
        if seconds < 0:
            os._exit(1)
        time.sleep(seconds)

    def writes_in_place(self, array: np.ndarray) -> bool:
        return bool(array.flags.writeable)


class Unborn:
    def __init__(self) -> None:
        raise OSError("no such model")

    def hello(self) -> None: ...


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    config = ClusterConfig(
        roles=RolesConfig(
            policy=RoleConfig(num_workers=2, cpus_per_worker=0.5),
            rollout=RoleConfig(num_workers=1, cpus_per_worker=0.5),
            reference=RoleConfig(num_workers=2, cpus_per_worker=0.1),
            verifier=RoleConfig(num_workers=1, cpus_per_worker=0.1),
        )
    )
    made = Placement.create(config)
    yield made
    made.remove()
    ray.shutdown()


@pytest.fixture(scope="module")
def shared(placement) -> Iterator[ActorGroup[Worker]]:
    """Two workers that no test harms."""
    group = ActorGroup.create(Worker, placement.slots["policy"], "policy", {"OMP_NUM_THREADS": "3", "FLAVOUR": "mint"})
    yield group
    group.shutdown()
    group.shutdown()


@pytest.fixture
def mortal(placement) -> Iterator[ActorGroup[Worker]]:
    """One worker that a test may end."""
    group = ActorGroup.create(Worker, placement.slots["rollout"], "rollout", {})
    yield group
    group.shutdown()


def test_broadcast_scatter_and_one(shared):
    assert shared.broadcast(Worker.echo, 7, **LIMIT) == [7, 7]
    assert shared.scatter(Worker.echo, [("a",), ("b",)], **LIMIT) == ["a", "b"]
    assert shared.one(1, Worker.inherited, **LIMIT) == "inherited"
    assert len(shared) == 2
    assert len(set(shared.broadcast(Worker.pid, **LIMIT))) == 2


def test_results_keep_rank_order_whoever_is_first(shared):
    assert shared.scatter(Worker.sleep, [(0.8,), (0.0,)], **LIMIT) == [0.8, 0.0]


def test_environment_is_set_before_the_process_starts(shared):
    assert shared.broadcast(Worker.env, "OMP_NUM_THREADS", **LIMIT) == ["3", "3"]
    assert shared.broadcast(Worker.env, "FLAVOUR", **LIMIT) == ["mint", "mint"]


def test_broadcast_puts_bulky_arguments_once_and_they_arrive_whole(shared):
    array = np.arange(300_000)
    back = shared.broadcast(Worker.echo, array, **LIMIT)
    assert all((b == array).all() for b in back)
    assert shared.broadcast(Worker.writes_in_place, array, **LIMIT) == [False, False]


@pytest.mark.parametrize("method", [Base.__init__, len, "echo", lambda self: 1, ActorGroup.one])
def test_a_method_of_another_class_is_refused(shared, method):
    with pytest.raises(TypeError, match="not a method of Worker"):
        shared.broadcast(method, **LIMIT)


def test_scatter_wants_one_tuple_per_actor(shared):
    with pytest.raises(ValueError, match="1 argument tuples for 2 policy actors"):
        shared.scatter(Worker.echo, [(1,)], **LIMIT)


def test_calls_on_two_groups_overlap(shared, mortal, tmp_path):
    """Each of the three actors waits until it sees the files of all: only calls that overlap can answer."""
    names = ["a", "b", "c"]
    ours = shared.submit_scatter(Worker.meet, [(tmp_path, "a", names), (tmp_path, "b", names)], **LIMIT)
    theirs = mortal.submit_broadcast(Worker.meet, tmp_path, "c", names, **LIMIT)
    assert [ours.result(), theirs.result()] == [["a", "b"], ["c"]]


def test_exceptions_of_the_worker_come_with_role_rank_and_traceback(shared):
    with pytest.raises(WorkerError) as caught:
        shared.one(1, Worker.fail, "lost key", timeout_s=60, phase="update")
    error, text = caught.value, str(caught.value)
    assert (error.role, error.rank, error.phase) == ("policy", 1, "update")
    assert error.pid == shared.one(1, Worker.pid, **LIMIT)
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("lost key",)
    assert "raise KeyError(text)" in text, "the line of the worker's code"
    assert "\x1b" not in text
    assert shared.one(1, Worker.echo, 1, **LIMIT) == 1, "the actor lives on"


def test_a_deadline_names_phase_actor_and_log_lines(mortal):
    pid = mortal.one(0, Worker.pid, **LIMIT)
    here = ray.util.get_node_ip_address()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        mortal.broadcast(Worker.sleep, 60.0, timeout_s=1.5, phase="gen")
    assert time.monotonic() - started > 1.4
    error, text = caught.value, str(caught.value)
    assert (error.phase, error.role, error.rank, error.pid, error.node) == ("gen", "rollout", 0, pid, here)
    assert error.waited_s >= 1.5
    assert "going to sleep for 60.0" in error.log_lines
    assert f"phase gen: no answer after {error.waited_s:.1f} s" in text
    assert f"rollout[0] on node {here}, pid {pid}" in text


def test_a_dead_actor_is_reported_at_once_with_its_log_lines(mortal):
    pid = mortal.one(0, Worker.pid, **LIMIT)
    with pytest.raises(ActorDied) as caught:  # at once: DeadlineExceeded would come after the deadline alone
        mortal.one(0, Worker.die, "out of cheese", timeout_s=300, phase="gen")
    error = caught.value
    assert error.waited_s < 300
    assert (error.role, error.rank, error.pid, error.phase) == ("rollout", 0, pid, "gen")
    assert "out of cheese" in error.log_lines
    assert "line 29" in error.log_lines
    assert "line 5\n" not in error.log_lines, "only the last lines"
    with pytest.raises(ActorDied):  # and again, for whoever calls next
        mortal.one(0, Worker.pid, **LIMIT)


def test_one_death_among_many_does_not_wait_for_the_others(placement):
    group = ActorGroup.create(Worker, placement.slots["reference"], "reference", {})
    try:
        with pytest.raises(ActorDied) as caught:
            group.scatter(Worker.fail_or_sleep, [(120.0,), (-1.0,)], timeout_s=120, phase="update")
        assert caught.value.rank == 1
        assert caught.value.waited_s < 120
    finally:
        group.shutdown()


def test_a_constructor_that_raises_names_its_error(placement):
    group = ActorGroup.create(Unborn, placement.slots["verifier"], "verifier", {})
    with pytest.raises(ActorDied, match="OSError: no such model"):
        group.broadcast(Unborn.hello, timeout_s=60, phase="start")
    group.shutdown()


def test_replace_gives_a_fresh_actor_on_the_same_bundle(mortal):
    mortal.one(0, Worker.echo, 1, **LIMIT)
    old = mortal.one(0, Worker.pid, **LIMIT)
    with pytest.raises(ActorDied):
        mortal.one(0, Worker.die, "bye", **LIMIT)
    mortal.replace(0)
    assert mortal.one(0, Worker.pid, **LIMIT) != old
    assert mortal.one(0, Worker.count, **LIMIT) == 0
    mortal.replace(0)  # a living one as well
    assert mortal.one(0, Worker.count, **LIMIT) == 0


def test_an_actor_that_cannot_start_says_so(placement, mortal):
    mortal.one(0, Worker.pid, **LIMIT)
    second = ActorGroup.create(Worker, placement.slots["rollout"], "second", {})  # its bundle is taken
    with pytest.raises(DeadlineExceeded, match="its process has not started") as caught:
        second.broadcast(Worker.pid, timeout_s=2, phase="start")
    assert caught.value.pid is None
    second.shutdown()


def test_signal_handlers_run_while_waiting(mortal):
    mortal.one(0, Worker.pid, **LIMIT)
    seen: list[float] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(time.monotonic()))
    try:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        end = mortal.one(0, Worker.sleep, 3.0, **LIMIT)
        assert end == 3.0
        assert seen
        assert time.monotonic() - seen[0] > 1.0, "the handler ran before the call ended"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_only_the_group_applies_ray_remote_and_awaits():
    found = subprocess.run(
        ["grep", "-rnE", r"ray\.(remote|get|wait)\(", "actors", "rlcore", "--include=*.py"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert found
    # The doctor starts a Ray of its own in a child; a weight sender awaits engines from inside an actor.
    owners = ("actors/placement/group.py", "actors/commands/doctor.py", "actors/weights/")
    strangers = [line for line in found if not line.startswith(owners)]
    assert not strangers, strangers
