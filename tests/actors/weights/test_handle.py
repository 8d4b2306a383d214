"""Dealing of batches, and of weights: the handles over workers in this process, without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.config.schema import DeadlinesConfig
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorError, ActorInfo, WorkerError
from actors.placement.restarts import RestartPolicy, WorkerFailed
from actors.training import handles
from actors.training.handles import LanguageModelHandle, ModelHandle, ObjectStore, ValueHandle, deal, trained_only
from actors.training.worker import ModelWorker
from actors.weights.handle import WeightHandle
from actors.weights.sender import WeightSyncError
from rlcore import metrics as M
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.algorithms.value import ValueObjective
from rlcore.data.batching.balance import split
from rlcore.objective import Objective
from rlcore.types import TrainBatch

INFO = ActorInfo("rollout", 0, "here", 1, "ALIVE", "id")


class Pool:
    """The calls of an `ActorGroup`, on workers of this process."""

    def __init__(self, *workers: Any) -> None:
        self.workers = list(workers)

    name = "rollout"

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def handles(self) -> list[Any]:
        return self.workers

    @property
    def infos(self) -> list[ActorInfo]:
        states = ["DEAD" if getattr(w, "dead", False) else "ALIVE" for w in self.workers]
        return [ActorInfo("rollout", i, "here", 1, state, "id") for i, state in enumerate(states)]

    def put(self, value: Any) -> Any:
        return value

    def scatter(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]], timeout_s: float, phase: str
    ) -> Any:
        assert len(calls) == len(self)
        assert timeout_s > 0
        try:
            if method is ModelWorker.on_arrays:
                return [method(w, *args) for w, args in zip(self.workers, calls, strict=True)]
            return [getattr(w, method.__name__)(*args) for w, args in zip(self.workers, calls, strict=True)]
        except Exception as error:
            raise WorkerError(f"phase {phase}: {error}", self.infos[0], phase, 0.0, "") from error

    def broadcast(self, method: Callable[..., Any], *args: Any, timeout_s: float, phase: str) -> Any:
        return self.scatter(method, [args] * len(self), timeout_s, phase)

    def submit_one(self, rank: int, method: Callable[..., Any], *args: Any, timeout_s: float, phase: str) -> Any:
        future: Future[Any] = Future()
        try:
            future.set_result(getattr(self.workers[rank], method.__name__)(*args))
        except ActorError as error:
            future.set_exception(error)
        except Exception as error:
            wrapped = WorkerError(f"phase {phase}: {error}", self.infos[rank], phase, 0.0, "")
            wrapped.__cause__ = error
            future.set_exception(wrapped)
        return future

    def one(self, rank: int, method: Callable[..., Any], *args: Any, timeout_s: float, phase: str) -> Any:
        return self.submit_one(rank, method, *args, timeout_s=timeout_s, phase=phase).result()


def batch_of(lengths: Sequence[int], rows_per_unit: int = 1) -> TrainBatch:
    """Every token of a row is its number plus one; all but the first token of a row are trained."""
    sizes = np.array(lengths, dtype=np.int32)
    column = np.arange(int(sizes.max()))
    real = column < sizes[:, None]
    return TrainBatch.from_padded(
        tokens=np.where(real, np.arange(1, len(sizes) + 1)[:, None], 0).astype(np.int32),
        lengths=sizes,
        loss_mask=real & (column > 0),
        sample_ids=[f"s{i}" for i in range(len(sizes))],
        scores=np.arange(len(sizes), dtype=np.float32),
        rows_per_unit=rows_per_unit,
    )


# ---- which rank gets which rows


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 50), min_size=4, max_size=60), st.integers(1, 5), st.integers(1, 200))
@example(2, [9, 1, 1, 9, 5, 5], 4, 1)
def test_units_stay_together_and_nothing_else_is_lost(unit: int, lengths: list[int], ranks: int, limit: int) -> None:
    batch = batch_of(lengths[: len(lengths) // unit * unit], unit)
    parts = deal(batch, ranks, limit)
    assert len(parts) == ranks
    assert len({len(micro_batches) for micro_batches in parts}) == 1
    assert sorted(row for micro_batches in parts for micro in micro_batches for row in micro) == list(range(len(batch)))
    for micro_batches in parts:
        for micro in micro_batches:
            assert len(micro) % unit == 0
            whole = micro.tolist()
            for k in range(0, len(whole), unit):
                assert whole[k] % unit == 0
                assert whole[k : k + unit] == list(range(whole[k], whole[k] + unit))
            padded = len(micro) * max((lengths[row] for row in whole), default=0)
            assert padded <= limit or len(micro) == unit


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 200))
def test_rows_by_themselves_are_dealt_as_before(lengths: list[int], ranks: int, limit: int) -> None:
    parts = deal(batch_of(lengths), ranks, limit)
    assert [[micro.tolist() for micro in rank] for rank in parts] == split(lengths, ranks, limit)


def test_two_pairs_by_hand() -> None:
    """Pairs of (2, 8), (3, 3) and (4, 1) tokens, 16 at once: the first alone, the others together."""
    batch = batch_of([2, 8, 3, 3, 4, 1], 2)
    (micro,) = deal(batch, 1, 16)
    assert [rows.tolist() for rows in micro] == [[0, 1], [4, 5, 2, 3]]
    (some,) = deal(batch, 1, 16, np.array([4, 5, 0, 1]))
    assert [rows.tolist() for rows in some] == [[0, 1], [4, 5]]


def test_half_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="5 rows are not a whole number of units of 2"):
        deal(batch_of([3] * 5, 2), 1, 100)


# ---- models


class Model:
    """Scores a token by its id plus the temperature; counts what it trained."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def numbers(self, whole: TrainBatch, micro_batches: list[Any], temperature: float = 0.0) -> Any:
        self.saw = whole
        return whole.select(np.concatenate([np.array([], dtype=int), *micro_batches])).tokens + np.float32(temperature)

    def update(self, whole: TrainBatch, micro_batches: list[Any], denominator: float, rate: float, *rest: Any) -> Any:
        self.saw, rows = whole, [row for micro in micro_batches for row in micro.tolist()]
        self.calls.append((rows, micro_batches, denominator, rate, *rest))
        return {"x": M.Mean(float(whole.select(rows).num_loss_tokens), denominator)}

    def save(self, directory: str) -> dict[str, Any]:
        self.calls.append(("save", directory))
        return {f"of-{id(self)}": {"bytes": 1}}

    def initialize(self, directory: str) -> None:
        self.calls.append(("initialize", directory))

    load = reset_optimizer = export = save


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("unit", [1, 2])
def test_answers_come_back_in_their_places(ranks: int, unit: int) -> None:
    """Scoring needs no units: any rows will do."""
    batch = batch_of([3, 9, 1, 4, 7], unit)
    pool: Any = Pool(*(Model() for _ in range(ranks)))
    handle = LanguageModelHandle(pool, 12, DeadlinesConfig(), temperature=0.5)
    assert np.array_equal(handle.logprobs(batch), batch.tokens + 0.5)
    assert np.array_equal(ValueHandle(pool, 12, DeadlinesConfig()).values(batch), batch.tokens)


def test_the_reference_can_begin_elsewhere(tmp_path) -> None:
    begun = []

    class Movable(Model):
        def initialize(self, directory: str) -> None:
            begun.append(directory)

    handle = LanguageModelHandle(Pool(Movable(), Movable()), 12, DeadlinesConfig())  # type: ignore[arg-type]
    handle.initialize(tmp_path)
    assert begun == [str(tmp_path)] * 2


@pytest.mark.parametrize(
    ("kind", "objective"), [(LanguageModelHandle, SupervisedObjective()), (ValueHandle, ValueObjective())]
)
def test_an_update_counts_its_denominator_over_all_ranks(kind: type[ModelHandle], objective: Objective) -> None:
    workers = [Model() for _ in range(3)]
    pool: Any = Pool(*workers)
    batch = batch_of([3, 9, 1, 4, 7, 2], 2)
    merged = kind(pool, 16, DeadlinesConfig()).update(batch, 0.1, objective)
    total = batch.num_loss_tokens
    assert merged == {"x": M.Mean(total, 3 * total)}
    assert [call[2:] for worker in workers for call in worker.calls] == [(total, 0.1, objective)] * 3
    dealt = [rows for worker in workers for rows, *_ in worker.calls]
    assert sorted(row for rows in dealt for row in rows) == list(range(len(batch)))
    assert all(rows[0::2] == [row - 1 for row in rows[1::2]] for rows in dealt)


@pytest.mark.parametrize("ranks", [1, 3])
def test_some_rows_of_a_batch(ranks: int) -> None:
    """The denominator is that of these rows; log-probs of the others are 0."""
    workers, batch, rows = [Model() for _ in range(ranks)], batch_of([3, 9, 1, 4, 7, 2], 2), np.array([4, 5, 0, 1])
    handle = LanguageModelHandle(Pool(*workers), 16, DeadlinesConfig())  # type: ignore[arg-type]
    merged = handle.update(batch, 0.1, SupervisedObjective(), rows)
    total = batch.select(rows).num_loss_tokens
    assert merged == {"x": M.Mean(total, ranks * total)}
    assert sorted(row for worker in workers for row in worker.calls[-1][0]) == [0, 1, 4, 5]
    found = handle.logprobs(batch, 0.5, np.array([5, 2]))
    asked = np.repeat(np.isin(np.arange(6), [5, 2]), batch.lengths)
    assert np.array_equal(found, np.where(asked, batch.tokens + 0.5, 0))


def test_a_denominator_needs_no_tokens() -> None:
    batch, rows = batch_of([3, 9, 1, 4, 7, 2], 2), np.array([4, 5, 2, 3])
    light, copy = trained_only(batch, rows), batch.select(rows)
    assert light.loss_counts.tolist() == copy.loss_counts.tolist()
    assert light.num_loss_tokens == copy.num_loss_tokens
    np.testing.assert_array_equal(light.scores, copy.scores)
    assert (light.tokens.strides, light.loss_mask.strides, light.rows_per_unit) == ((0,), (0,), 2)


def test_arrays_are_put_once_and_freed_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy and critic use the same objects; what is computed later is one more object, not the batch again."""
    monkeypatch.setattr(handles, "INLINE_BYTES", 0)
    put: list[Any] = []

    class Stored(Pool):
        def put(self, value: Any) -> Any:
            put.append(value.copy())
            return put[-1]

    store, batch = ObjectStore(), batch_of([3, 9, 1, 4])
    policy, critic = Stored(Model(), Model()), Stored(Model())
    logprobs = LanguageModelHandle(policy, 16, DeadlinesConfig(), store=store)  # type: ignore[arg-type]
    values = ValueHandle(critic, 16, DeadlinesConfig(), store=store)  # type: ignore[arg-type]
    batch = batch.with_arrays(values=values.values(batch))
    assert len(put) == len(store) == 3  # tokens, offsets and mask
    batch = batch.with_arrays(old_logprobs=logprobs.logprobs(batch))
    assert len(put) == 3
    for rows in (np.array([0, 1]), np.array([2, 3])):
        logprobs.update(batch, 0.1, SupervisedObjective(), rows)
        values.update(batch, 0.1, ValueObjective(), rows)
    assert len(put) == len(store) == 6  # values, old log-probs and scores
    assert policy.workers[0].saw.values is put[3] or any(policy.workers[0].saw.values is x for x in put)
    with pytest.raises(ValueError, match="read-only"):
        batch.tokens[0] = 1
    del batch
    assert len(store) == 0


def test_the_critic_is_saved_loaded_and_initialised_on_every_rank() -> None:
    workers = [Model(), Model()]
    handle = ValueHandle(Pool(*workers), 16, DeadlinesConfig())  # type: ignore[arg-type]
    handle.save(Path("a"))
    handle.load(Path("b"))
    handle.initialize(Path("c"))
    wanted = [("save", "a"), ("save", "b"), ("initialize", "c")]  # the double's load is its save
    assert [worker.calls for worker in workers] == [wanted, wanted]


# ---- weights


class Engine:
    """What a rollout engine holds: whose weights, under which version."""

    def __init__(self) -> None:
        self.holds: tuple[str, int] = ("nothing", -1)
        self.heard = 0
        self.joined: str | None = None
        self.dead = self.deaf = False
        self.checksums = {"tp0:a": "1", "tp0:b": "2"}

    def weight_checksums(self) -> dict[str, str]:
        return self.checksums

    def version(self) -> int:
        return self.holds[1]


class Sender:
    """A rank of policy or reference. `exclusive`: engines hear only the one that joined them last."""

    def __init__(self, name: str, exclusive: bool) -> None:
        self.name, self.exclusive = name, exclusive
        self.engines: list[Engine] = []

    def connect(self, engines: list[Engine]) -> None:
        self.engines = list(engines)
        for engine in engines:
            engine.joined = self.name

    def initialize(self, directory: str) -> None:
        self.engines = []

    def send_weights(self, version: int, only: list[int] | None) -> dict[str, float]:
        assert self.engines, "send before connect"
        if self.exclusive:
            assert only is None
            assert all(engine.joined == self.name for engine in self.engines)
        failed = {}
        for i in range(len(self.engines)) if only is None else only:
            engine = self.engines[i]
            if engine.dead:
                failed[i] = "it is dead"
            elif not engine.deaf:
                engine.holds = (self.name, version)
                engine.heard += 1
        if failed:
            raise WeightSyncError(version, failed)
        return {"bytes": 2e6, "seconds": 0.0, "pause_s": 0.0, "buckets": 1.0}


class Rig:
    def __init__(self, exclusive: bool = False, reference: bool = True, max_restarts: int = 3) -> None:
        self.engines = [Engine(), Engine()]
        self.rollout = Pool(*self.engines)
        self.messages: list[str] = []
        self.connected: list[str] = []

        def restart(ranks: Sequence[int]) -> None:
            for rank in ranks:
                self.rollout.workers[rank] = Engine()
            self.weights.rejoin(ranks)

        def connect(group: Pool) -> None:
            self.connected.append(group.workers[0].name)
            group.broadcast(Sender.connect, self.rollout.handles, timeout_s=1, phase="connect")

        self.restarts = RestartPolicy(self.rollout, restart, max_restarts, "max_restarts", self.messages.append)  # type: ignore[arg-type]
        self.weights = WeightHandle(
            Pool(Sender("policy", exclusive)),  # type: ignore[arg-type]
            self.rollout,  # type: ignore[arg-type]
            1.0,
            GpuSharing(self.rollout, 0, 1.0),  # type: ignore[arg-type]
            self.restarts,
            connect,  # type: ignore[arg-type]
            Pool(Sender("reference", exclusive)) if reference else None,  # type: ignore[arg-type]
            exclusive,
        )
        self.weights.join()

    @property
    def holds(self) -> list[tuple[str, int]]:
        return [engine.holds for engine in self.rollout.workers]


@pytest.mark.parametrize("exclusive", [False, True])
def test_policy_and_reference_take_turns_on_the_engines(exclusive: bool) -> None:
    rig = Rig(exclusive)
    for version in (0, 1):
        assert M.values(rig.weights.publish())["sync/megabytes"] == 2.0
        assert rig.holds == [("policy", version)] * 2
        rig.weights.publish_reference()
        assert rig.holds == [("reference", version)] * 2  # the policy's version: what sampled then was this step's
    rig.weights.publish()
    assert rig.holds == [("policy", 2)] * 2
    turns = ["policy", "reference"]
    assert rig.connected == (turns * 2 + ["policy"] if exclusive else turns)


def test_engines_whose_weights_differ_are_named() -> None:
    rig = Rig(False)
    rig.weights.checksums = True
    rig.weights.publish()
    rig.engines[1].checksums = {"tp0:a": "1", "tp0:b": "other"}
    with pytest.raises(RuntimeError, match=r"version 1: rollout\[0\] and rollout\[1\] differ in 1 weights: tp0:b"):
        rig.weights.publish()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("holder", ["policy", "reference"])
@pytest.mark.parametrize("renewed", ["policy", "reference"])
def test_a_model_that_begins_elsewhere_joins_the_engines_again(
    exclusive: bool, holder: str, renewed: str, tmp_path: Path
) -> None:
    """Whoever holds the engines at that time: with NCCL, a group joined behind the handle's back would make the other
    one send to nobody until its deadline."""
    rig = Rig(exclusive)
    rig.weights.publish()
    if holder == "reference":
        rig.weights.publish_reference()
    group: Any = rig.weights.policy if renewed == "policy" else rig.weights.reference
    handle = LanguageModelHandle(group, 12, DeadlinesConfig(), renewed=partial(rig.weights.renewed, group))
    handle.initialize(tmp_path)
    for version in (1, 2):
        rig.weights.publish()
        assert rig.holds == [("policy", version)] * 2
        rig.weights.publish_reference()
        assert rig.holds == [("reference", version)] * 2


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("holder", ["policy", "reference"])
def test_an_engine_that_died_comes_back_with_what_the_others_hold(exclusive: bool, holder: str) -> None:
    """It is found dead while sampling, then a second one while sending."""
    rig = Rig(exclusive)
    rig.weights.publish(after=3)  # as a resumed run does
    send = rig.weights.publish_reference if holder == "reference" else rig.weights.publish
    send()
    version = rig.weights.version
    rig.rollout.workers[0].dead = True
    rig.restarts.recover({0: "died in a step"})
    assert rig.holds == [(holder, version)] * 2
    assert rig.rollout.workers[1].heard == (3 if exclusive else 2)
    rig.rollout.workers[1].dead = True
    assert send() == {}
    assert rig.holds == [(holder, rig.weights.version)] * 2
    rig.weights.publish()
    assert rig.holds == [("policy", rig.weights.version)] * 2
    assert rig.weights.version == (5 if holder == "reference" else 7)  # no number twice
    assert [m.split(" (")[0] for m in rig.messages] == ["rollout[0] failed", "rollout[1] failed"]


def test_an_engine_that_keeps_dying_ends_the_run() -> None:
    rig = Rig(max_restarts=1)
    rig.weights.publish()
    rig.rollout.workers[0].dead = True
    rig.weights.publish()
    rig.rollout.workers[0].dead = True
    with pytest.raises(WorkerFailed, match=r"rollout\[0\] failed 2 times.*it is dead"):
        rig.weights.publish()


def test_an_engine_that_reports_another_version_is_named() -> None:
    rig = Rig()
    rig.weights.publish()
    rig.rollout.workers[1].deaf = True
    with pytest.raises(RuntimeError, match=r"to version 1: rollout\[1\] reports version 0"):
        rig.weights.publish()


def test_versions_count_updates() -> None:
    rig = Rig()
    rig.weights.publish()
    for _ in range(3):
        with rig.weights.changing():
            pass
    assert (rig.weights.version, rig.weights.policy_version) == (0, 3)
    rig.weights.publish()
    assert rig.holds == [("policy", 3)] * 2
    rig.weights.publish()  # nothing changed: a new version all the same
    assert (rig.weights.version, rig.weights.policy_version) == (4, 4)


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_restart_waits_for_an_update_and_gets_its_version(exclusive: bool) -> None:
    """It begins while the policy changes: weights are sent after the update, under the version that they then have."""
    rig = Rig(exclusive)
    rig.weights.publish()
    with rig.weights.changing():
        collector = threading.Thread(target=rig.restarts.recover, args=({0: "died in a step"},), daemon=True)
        collector.start()
        collector.join(0.2)
        assert collector.is_alive()
        assert rig.holds == [("nothing", -1), ("policy", 0)]
    collector.join(5)
    assert not collector.is_alive()
    assert rig.holds == [("policy", 1), ("policy", 1 if exclusive else 0)]
    assert rig.weights.version == 0
    rig.weights.publish()
    assert rig.holds == [("policy", 1)] * 2


def test_a_publication_waits_for_a_restart() -> None:
    rig = Rig()
    rig.weights.publish()
    begun, may_end, restart = threading.Event(), threading.Event(), rig.restarts.restart

    def slow(ranks: Sequence[int]) -> None:
        begun.set()
        assert may_end.wait(5)
        restart(ranks)

    rig.restarts.restart = slow
    collector = threading.Thread(target=rig.restarts.recover, args=({0: "died in a step"},), daemon=True)
    collector.start()
    assert begun.wait(5)
    with rig.weights.changing():  # training continues meanwhile
        pass
    loop = threading.Thread(target=rig.weights.publish, daemon=True)
    loop.start()
    loop.join(0.1)
    assert loop.is_alive()
    may_end.set()
    for thread in (collector, loop):
        thread.join(5)
        assert not thread.is_alive()
    assert rig.holds == [("policy", 1)] * 2
    assert [m.split(":")[1] for m in rig.messages] == [" restart 1 of 3"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_restarts_updates_and_publications_side_by_side(exclusive: bool) -> None:
    """Two collectors restart engines while the loop trains and publishes: no deadlock, and every label is right."""
    rig = Rig(exclusive, max_restarts=10**6)
    state, mixed = [0, 0], list[str]()  # the policy's weights, in two halves
    send = Sender.send_weights

    def checked(self: Sender, version: int, only: list[int] | None) -> dict[str, float]:
        if state[0] != state[1] or state[0] != version:
            mixed.append(f"{state} as {version}")
        return send(self, version, only)

    rig.weights.policy.workers[0].send_weights = partial(checked, rig.weights.policy.workers[0])  # type: ignore[attr-defined]
    rig.weights.publish()
    stop = threading.Event()

    def collect(rank: int) -> None:
        while not stop.is_set():
            rig.rollout.workers[rank].dead = True
            rig.restarts.recover({rank: "died"}, {rank: rig.restarts.starts(rank)})
            time.sleep(0.001)

    collectors = [threading.Thread(target=collect, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in collectors:
        thread.start()
    try:
        for step in range(1, 60):
            with rig.weights.changing():
                state[0] = step
                time.sleep(0.001)
                state[1] = step
            if step % 2:
                rig.weights.publish()
                assert rig.weights.version == step
    finally:
        stop.set()
    for thread in collectors:
        thread.join(10)
        assert not thread.is_alive()
    assert mixed == []


def test_weights_of_a_broken_update_are_never_sent() -> None:
    rig = Rig()
    rig.weights.publish()

    def update() -> None:
        with rig.weights.changing():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        update()
    with pytest.raises(RuntimeError, match="broke off"):
        rig.restarts.recover({0: "died"})
    assert rig.holds[0] == ("nothing", -1)


def test_a_publication_inside_of_an_update_is_refused() -> None:
    rig = Rig()
    with rig.weights.changing(), pytest.raises(RuntimeError, match="inside of `changing`"):
        rig.weights.publish()


def test_other_failures_of_a_sender_are_not_taken_for_an_engine() -> None:
    rig = Rig()
    rig.weights.policy.workers[0].engines = []  # type: ignore[attr-defined]
    with pytest.raises(WorkerError, match="send before connect"):
        rig.weights.publish()
    assert rig.messages == []


def test_a_reference_is_sent_only_where_there_is_one_and_a_version() -> None:
    with pytest.raises(RuntimeError, match="before the first publish"):
        Rig().weights.publish_reference()
    alone = Rig(reference=False)
    alone.weights.publish()
    with pytest.raises(RuntimeError, match="without a reference"):
        alone.weights.publish_reference()
    assert alone.connected == ["policy"]
