"""When workers are restarted, and when a run ends instead: the policy, and the handles that use it."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from actors.generation.handle import RolloutHandle
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorDied, ActorError, DeadlineExceeded, WorkerError
from actors.placement.restarts import WINDOW_S, RestartPolicy, WorkerFailed
from actors.verifying.handle import RewardHandle
from actors.verifying.verifier import GroupInput
from actors.weights.sender import WeightSyncError
from rlcore.interfaces import Sampling
from rlcore.types import Group, Prompt, RewardInput, RewardResult, Trajectory
from tests.actors.placement.test_gpu_sharing import PROMPTS, Engine
from tests.actors.weights.test_handle import INFO, Pool


def raised(cause: Exception, phase: str = "gen") -> WorkerError:
    error = WorkerError(f"phase {phase}: rollout[0] raised {cause}\n--- traceback ---\n...", INFO, phase, 0.0, "")
    error.__cause__ = cause
    return error


def died() -> ActorDied:
    return ActorDied("phase gen: rollout[0] died", INFO, "gen", 0.0, "")


def late() -> DeadlineExceeded:
    return DeadlineExceeded("phase restart: no answer", INFO, "restart rollout", 0.0, "")


class Policy:
    """A policy over two workers whose restarts fail as `script` says, at a time that the test sets."""

    def __init__(self, max_restarts: int = 3, script: Sequence[ActorError] = (), expendable: bool = False) -> None:
        self.restarted: list[list[int]] = []
        self.messages: list[str] = []
        self.script, self.now = list(script), 0.0
        self.pool: Any = Pool(object(), object())
        self.policy = RestartPolicy(
            self.pool, self.restart, max_restarts, "key", self.messages.append, expendable, lambda: self.now
        )
        self.recover, self.served, self.starts = self.policy.recover, self.policy.served, self.policy.starts

    def restart(self, ranks: Sequence[int]) -> None:
        self.restarted.append(list(ranks))
        if self.script:
            raise self.script.pop(0)


@pytest.mark.parametrize("cause", [ValueError("prompt 'p' has 99 tokens"), TypeError("t"), KeyError("k")])
def test_an_error_of_the_request_restarts_nothing_and_is_one_short_line(cause: Exception) -> None:
    rig = Policy()
    rig.served(0)
    with pytest.raises(WorkerFailed) as caught:
        rig.recover({0: raised(cause)})
    assert str(caught.value) == (
        f"rollout[0] cannot serve its request in phase gen: {type(cause).__name__}: {cause}"
    )
    assert rig.restarted == []


def test_the_same_error_at_the_first_request_of_a_fresh_worker_ends_the_run() -> None:
    rig = Policy()
    rig.recover({0: raised(RuntimeError("the loop died: head size 16, pid 123"))})
    assert rig.restarted == [[0]]
    with pytest.raises(WorkerFailed, match="before its first answer, with the same error as before") as caught:
        rig.recover({0: raised(RuntimeError("the loop died: head size 16, pid 456"))})
    assert "traceback" not in str(caught.value)
    assert rig.restarted == [[0]]


def test_two_fresh_workers_with_the_same_error_need_no_restart() -> None:
    rig = Policy()
    text = "update_weights: ValueError: there is no module named layers.0.mlp"
    with pytest.raises(WorkerFailed, match=r"rollout\[1\].*no module named"):
        rig.recover({0: text, 1: text})
    assert rig.restarted == []


def test_other_errors_deaths_and_workers_that_served_are_restarted() -> None:
    rig = Policy(max_restarts=9)
    rig.recover({0: died()})
    rig.recover({0: died()})  # killed twice: that says nothing of the next start
    rig.recover({0: raised(RuntimeError("a"))})
    rig.recover({0: raised(RuntimeError("b"))})
    rig.served(0)
    rig.recover({0: raised(RuntimeError("b"))})
    assert len(rig.restarted) == 5


def test_old_failures_do_not_count() -> None:
    rig = Policy(max_restarts=1)
    for day in range(14):
        rig.now = day * 86400.0
        rig.recover({0: died()})
    assert [m.rpartition(": ")[2] for m in rig.messages] == ["restart 1 of 1"] * 14
    rig.now += WINDOW_S - 1
    with pytest.raises(WorkerFailed, match=r"rollout\[0\] failed 2 times in 6 hours \(key\); the last failure: ph"):
        rig.recover({0: died()})


def test_a_worker_that_another_thread_restarted_is_left_alone() -> None:
    rig = Policy(max_restarts=1)
    before = {0: rig.starts(0)}
    rig.recover({0: died()}, before)
    rig.recover({0: died()}, before)
    assert rig.restarted == [[0]]


def test_a_failure_of_the_restart_is_another_failure() -> None:
    sync = raised(WeightSyncError(3, {1: "it is dead"}), "weight sync")
    rig = Policy(2, [died(), sync])
    rig.recover({0: died()})
    assert rig.restarted == [[0], [0], [0, 1]]
    other = died()
    other.role = "policy"
    rig.script = [other]
    with pytest.raises(ActorDied):
        rig.recover({1: died()})


def test_workers_found_dead_are_restarted_too() -> None:
    rig = Policy()
    rig.pool.workers[1] = type("Dead", (), {"dead": True})()
    rig.recover({0: died()})
    assert rig.restarted == [[0, 1]]


def test_a_worker_that_cannot_be_started_is_given_up_only_where_another_is_left() -> None:
    with pytest.raises(WorkerFailed, match="could not be started"):
        Policy(3, [late()]).recover({0: died()})
    rig = Policy(3, [late()], expendable=True)
    rig.recover({0: died()})
    assert rig.policy.lost == {0}
    assert "is dropped; 1 remain" in rig.messages[-1]
    for _ in range(3):
        rig.recover({1: died()})
    with pytest.raises(WorkerFailed, match="failed 4 times"):
        rig.recover({1: died()})


# ---- rollout engines


class Broken(Engine):
    """Raises at every submit, or dies after its first group."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__([])
        self.error = error

    def submit(self, call: str, requests: Any, sampling: Sampling) -> None:
        if self.error is not None:
            raise self.error
        super().submit(call, requests, sampling)


class Rollout:
    def __init__(self, first: Callable[[], Engine], then: Callable[[], Engine], max_restarts: int = 3) -> None:
        self.pool: Any = Pool(first())
        self.restarts = 0

        def restart(ranks: Sequence[int]) -> None:
            self.restarts += 1
            self.pool.workers = [then()]

        policy = RestartPolicy(self.pool, restart, max_restarts, "rollout.max_restarts=3", lambda text: None)
        self.handle = RolloutHandle(self.pool, GpuSharing(self.pool, 0, 1.0), 5.0, policy, 256)

    def generate(self) -> list[Group]:
        return list(self.handle.generate(PROMPTS, Sampling(1, 4)))


def test_a_prompt_that_is_too_long_restarts_no_engine() -> None:
    def broken() -> Engine:
        return Broken(ValueError("prompt 'p1' has 300 tokens; the engine takes 1 to 199"))

    rig = Rollout(broken, broken)
    with pytest.raises(WorkerFailed, match=r"^rollout\[0\] cannot .*: prompt 'p1' has 300 tokens; .* 1 to 199$"):
        rig.generate()
    assert rig.restarts == 0


def test_an_engine_that_fails_alike_at_each_first_step_is_restarted_once() -> None:
    def broken() -> Engine:
        return Broken(RuntimeError("the rollout loop died: head size 16"))

    rig = Rollout(broken, broken)
    with pytest.raises(WorkerFailed, match="head size 16"):
        rig.generate()
    assert rig.restarts == 1


def test_an_engine_that_fails_once_gets_its_unfinished_prompts_again() -> None:
    rig = Rollout(lambda: Broken(RuntimeError("once")), lambda: Engine([]))
    assert len(rig.generate()) == 6
    assert rig.restarts == 1


# ---- verifier hosts


class Host:
    """Scores a sample by its host's number; fails as `script` says."""

    def __init__(self, number: int, script: Sequence[Exception] = ()) -> None:
        self.number, self.script = number, list(script)
        self.dead = False
        self.calls: list[int] = []

    def score(self, groups: list[Any]) -> list[list[RewardResult]]:
        self.calls.append(len(groups))
        time.sleep(0.01)
        if self.script:
            raise self.script.pop(0)
        return [[RewardResult(float(self.number))] for _ in groups]


class Verifiers:
    def __init__(self, *hosts: Host, restart_fails: bool = False) -> None:
        self.pool: Any = Pool(*hosts)
        self.pool.name = "verifier"
        self.messages: list[str] = []
        self.restarted: list[int] = []

        def restart(ranks: Sequence[int]) -> None:
            self.restarted += ranks
            if restart_fails:
                error = late()
                error.role, error.rank = "verifier", ranks[0]
                raise error
            for rank in ranks:
                self.pool.workers[rank] = Host(rank + 10)

        policy = RestartPolicy(self.pool, restart, 3, "at most 3 restarts", self.messages.append, expendable=True)
        self.handle = RewardHandle(self.pool, lambda samples: 5.0, policy, 5.0)

    def scores(self, count: int = 12) -> set[float]:
        futures = [self.handle.submit(Group(Prompt(uid=str(i), token_ids=(1,), text=""), [])) for i in range(count)]
        return {result.score for future in futures for result in future.result(10)}


def test_a_dead_verifier_host_is_restarted_and_its_groups_are_scored_again() -> None:
    rig = Verifiers(Host(0, [died()]), Host(1))
    assert rig.scores() <= {1.0, 10.0}
    assert rig.restarted == [0]
    assert "verifier[0] failed" in rig.messages[0]
    rig.handle.close()


def test_verifier_hosts_get_no_token() -> None:
    """A sample of 50,000 tokens costs what its text costs."""
    sent: list[Any] = []
    host = Host(0)
    host.score = lambda groups: (sent.extend(groups), [[RewardResult(1.0)]])[1]  # type: ignore[method-assign]
    rig, count = Verifiers(host), 50_000
    numbers = np.zeros(count, np.float32)
    sample = Trajectory(
        "a", "a#0.0", np.arange(count, dtype=np.int32), numbers > 0, numbers, np.zeros(count, np.int32), 2, "length",
        "42",
    )  # fmt: skip
    prompt = Prompt("a", tuple(range(50_000)), "6 * 7", "42", ("math",), {"level": 3})
    assert rig.handle.submit(Group(prompt, [sample])).result(5) == [RewardResult(1.0)]
    wanted = RewardInput("6 * 7", "42", "42", "length", count - 2, {"level": 3})
    assert sent == [GroupInput(("math",), [wanted])]
    assert len(pickle.dumps(sent)) < 1000
    rig.handle.close()


def test_a_verifier_host_that_cannot_come_back_leaves_its_work_to_the_others() -> None:
    rig = Verifiers(Host(0, [died()]), Host(1), restart_fails=True)
    assert rig.scores() == {1.0}
    assert rig.restarted == [0]
    assert "verifier[0] could not be started and is dropped; 1 remain" in rig.messages[-1]
    assert rig.scores() == {1.0}
    rig.handle.close()


def test_an_error_of_the_verifiers_own_code_reaches_every_group_at_once() -> None:
    rig = Verifiers(Host(0, [ValueError("no such reward")] * 99), Host(1, [ValueError("no such reward")] * 99))
    with pytest.raises(WorkerFailed, match="ValueError: no such reward"):
        rig.scores()
    assert rig.restarted == []
    rig.handle.close()


def test_groups_that_arrive_during_a_call_travel_together() -> None:
    host = Host(0)
    rig = Verifiers(host)
    held = threading.Event()
    host.score = lambda groups, score=host.score: (held.wait(5), score(groups))[1]  # type: ignore[method-assign]
    futures = [rig.handle.submit(Group(Prompt(uid="a", token_ids=(1,), text=""), [])) for _ in range(9)]
    held.set()
    for future in futures:
        future.result(5)
    assert sum(host.calls) == 9
    assert len(host.calls) <= 3
    rig.handle.close()
