"""Rollout engines and models that take turns on the same GPUs: the order of calls, without a GPU."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from actors.build import Builder
from actors.config.compose import compose
from actors.config.schema import DeadlinesConfig
from actors.generation.handle import RolloutHandle
from actors.generation.rollout import Collected, Finished, Request, Sample
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorDied
from actors.placement.restarts import RestartPolicy
from actors.training.handles import ModelHandle, RewardModelHandle
from actors.training.offload import Held
from actors.weights.handle import WeightHandle
from rlcore.data.batching.collate import collate
from rlcore.interfaces import Sampling, World
from rlcore.loops.sampling import sample_and_score
from rlcore.rewards.config import RewardConfig
from rlcore.rewards.scorers import RewardModelScorer
from rlcore.types import Group, Prompt, RewardScale, TrainBatch
from tests.actors.weights.test_handle import INFO, Pool
from tests.fakes import FakeTracker

PROMPTS = [Prompt(uid=f"p{i}", token_ids=(i + 1,), text=str(i)) for i in range(6)]


class Engine:
    """Finishes one group a call, and refuses to sleep with groups under way, as vLLM's engine does."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.waiting, self.asleep, self.weights = log, deque[tuple[str, Request]](), False, True
        self.dead = False

    def submit(self, call: str, requests: Sequence[Request], sampling: Sampling) -> None:
        if self.asleep or not self.weights:
            raise RuntimeError("cannot sample: asleep, or without weights")
        self.waiting.extend((call, request) for request in requests)

    def collect(self, timeout_s: float, call_id: str | None, below: int) -> Collected:
        time.sleep(0.02)
        if not self.waiting:
            return Collected([], 0)
        call, request = self.waiting.popleft()
        self.log.append("group")
        sample = Sample(np.array([7], dtype=np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), "stop", "7")
        return Collected([Finished(call, request.index, [sample])], len(self.waiting))

    def nudge(self) -> None: ...

    def abort(self, *calls: str) -> None:
        self.waiting = deque(item for item in self.waiting if item[0] not in calls)

    def sleep(self, level: int) -> None:
        if self.dead:
            raise ActorDied("gone", INFO, "sleep", 0.0, "")
        if self.waiting:
            raise RuntimeError(f"cannot sleep with {len(self.waiting)} groups under way; collect or abort them first")
        self.asleep, self.weights = True, level < 2
        self.parts = ["weights", "kv_cache"]
        self.log.append("sleep")

    def wake(self, parts: list[str]) -> None:
        self.parts = [part for part in self.parts if part not in parts]
        self.asleep = bool(self.parts)
        self.log.append("wake" if len(parts) == 2 else f"wake {parts[0]}")


class RewardWorker:
    def __init__(self, log: list[str], engines: Sequence[Engine]) -> None:
        self.log, self.engines = log, engines

    def release(self, held: Held) -> None:
        self.log.append("release")

    def scale(self) -> RewardScale:
        return RewardScale.of(("reward",))

    def numbers(self, shard: TrainBatch, micro_batches: list[list[int]]) -> Any:
        self.log.append(f"scores {len(shard)}, engines {'asleep' if self.engines[0].asleep else 'awake'}")
        return shard.select(np.concatenate(micro_batches)).padded("tokens")[:, :1].astype(np.float32)


class Rig:
    def __init__(self, level: int, shared: bool = True, engines: int = 1) -> None:
        self.log: list[str] = []
        self.engines = [Engine(self.log) for _ in range(engines)]
        pool: Any = Pool(*self.engines)
        reward_pool: Any = Pool(RewardWorker(self.log, self.engines))
        self.sharing = GpuSharing(pool, level, 5.0, [reward_pool] if shared else [])
        self.sharing.resend = self.resend
        self.model = RewardModelHandle(reward_pool, 100, DeadlinesConfig(), self.sharing if shared else None)
        self.scorer = RewardModelScorer(
            self.model.rewards, 5.0, lambda groups: collate([t for g in groups for t in g.trajectories]),
            ready=self.sharing.wait_for_generation if shared else None,
        )  # fmt: skip
        restarts = RestartPolicy(pool, lambda ranks: None, 3, "rollout.max_restarts=3", lambda text: None)
        rollout = RolloutHandle(pool, self.sharing, 5.0, restarts, 256)
        self.world: World = SimpleNamespace(rollout=rollout, rewards=self.scorer, tracker=FakeTracker())  # type: ignore[assignment]

    def resend(self) -> None:
        self.sharing.for_weights()
        self.log.append("weights")
        for engine in self.engines:
            engine.weights = True

    def step(self) -> list[Group]:
        return sample_and_score(self.world, PROMPTS, Sampling(1, 4), RewardConfig())

    def publish(self) -> None:
        self.resend()


@pytest.mark.parametrize("level", [1, 2])
def test_a_reward_model_on_the_engines_gpus_scores_after_generation(level: int) -> None:
    rig = Rig(level)
    groups = rig.step()
    assert [g.trajectories[0].reward.score for g in groups] == [1, 2, 3, 4, 5, 6]  # type: ignore[union-attr]
    scored = ["sleep", "scores 6, engines asleep"]
    assert rig.log == ["group"] * 6 + scored
    rig.log.clear()
    rig.step()  # a refill, or an evaluation: no update in between
    weights_first = ["release", "wake weights", "weights", "release", "wake kv_cache"]
    assert rig.log == [*(weights_first if level == 2 else ["release", "wake"]), *["group"] * 6, *scored]
    rig.log.clear()
    rig.publish()
    assert rig.log == ["release", "wake weights", "weights"]  # buckets may take the KV cache's place
    rig.log.clear()
    rig.step()
    assert rig.log == ["release", "wake kv_cache", *["group"] * 6, *scored]
    rig.publish()
    rig.log.clear()
    rig.sharing.for_training()  # half awake
    assert rig.log == ["release", "wake kv_cache", "sleep"]


def test_a_reward_model_on_its_own_gpus_scores_while_the_engines_generate() -> None:
    rig = Rig(1, shared=False)
    rig.step()
    assert not {"sleep", "wake"} & set(rig.log)
    assert rig.log.index("group") < next(i for i, entry in enumerate(rig.log) if entry.startswith("scores"))
    assert next(i for i, entry in enumerate(rig.log) if entry.startswith("scores")) < len(rig.log) - 1


def test_a_generation_that_is_given_up_frees_the_gpus() -> None:
    rig = Rig(1)
    groups = rig.world.rollout.generate(PROMPTS, Sampling(1, 4))
    waiting = rig.scorer.submit(next(groups))
    groups.close()  # type: ignore[attr-defined]
    assert waiting.result(5)[0].score in range(1, 7)
    assert rig.log[-2:] == ["sleep", "scores 1, engines asleep"]


def test_training_while_groups_are_under_way_is_a_named_error() -> None:
    rig = Rig(1)
    groups = rig.world.rollout.generate(PROMPTS, Sampling(1, 4))
    first = next(groups)
    with pytest.raises(RuntimeError, match="while rollout engines generate"):
        rig.model.scores(collate(first.trajectories))
    assert len(list(groups)) == 5


def test_models_that_score_side_by_side_put_the_engines_to_sleep_once() -> None:
    rig = Rig(1)
    barrier = threading.Barrier(3)

    def ask() -> None:
        barrier.wait()
        rig.sharing.for_training()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rig.log == ["sleep"]
    rig.sharing.for_weights()
    rig.sharing.for_weights()
    assert rig.log == ["sleep", "release", "wake weights"]


def test_a_dead_engine_holds_no_memory_and_ends_no_training() -> None:
    """It is found dead, and restarted, at the next generation or weight sync."""
    rig = Rig(1, engines=2)
    rig.engines[0].dead = True
    rig.sharing.for_training()
    assert rig.log == ["sleep"]


def test_level_0_never_calls_the_engines() -> None:
    rig = Rig(0)
    rig.step()
    assert not {"sleep", "wake"} & set(rig.log)


def test_only_roles_on_the_engines_gpus_take_turns_with_them() -> None:
    def shares(role: str, *overrides: str) -> bool:
        nothing: Any = None
        builder = Builder(compose(overrides), nothing, nothing, "cuda", ExitStack())
        sharing = GpuSharing(nothing, 1, 1.0)
        group: Any = SimpleNamespace(name=role)
        weights: Any = SimpleNamespace(renewed=lambda group: None)
        return builder.handle(sharing, weights, ModelHandle, group).sharing is sharing

    for role in ("policy", "reference", "critic", "reward"):
        assert shares(role, "cluster=gpu64_colocated", "cluster.roles.reward.num_workers=64")
    assert not shares("reward", "cluster=gpu64_colocated", "cluster.roles.reward={num_workers:8,colocate_with:null}")
    assert not shares("policy", "cluster=gpu8")


class Gpu:
    """Counts what lies on a GPU; refuses more than its size."""

    SIZES: ClassVar = {"weights": 10, "kv_cache": 45, "model weights": 12, "training state": 40, "bucket": 5}

    def __init__(self, size: int) -> None:
        self.size, self.held, self.log = size, set[str](), list[str]()

    def add(self, *parts: str) -> None:
        self.held |= set(parts)
        assert (used := sum(self.SIZES[part] for part in self.held)) <= self.size, f"{used}: {sorted(self.held)}"

    def work(self, name: str) -> None:
        self.log.append(f"{name}: {', '.join(sorted(self.held))}")


class SleepyEngine:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.loaded = gpu, -1
        gpu.add("weights", "kv_cache")

    def sleep(self, level: int) -> None:
        self.gpu.held -= {"weights", "kv_cache"}
        self.loaded = -1 if level == 2 else self.loaded

    def wake(self, parts: list[str]) -> None:
        self.gpu.add(*parts)

    def version(self) -> int:
        return self.loaded


class Trainer:
    """Brings its memory back when it is called, as `TrainEngine` does with engine.offload=all."""

    def __init__(self, gpu: Gpu, engine: SleepyEngine) -> None:
        self.gpu, self.engine = gpu, engine
        gpu.add("model weights", "training state")

    def release(self, held: Held) -> None:
        self.gpu.held -= {"training state"} | (set() if held is Held.WEIGHTS else {"model weights"})

    def numbers(self, *args: Any) -> Any:
        self.gpu.add("model weights")
        self.gpu.work("log-probs")
        return np.zeros(1, np.float32)

    def save(self, directory: str) -> dict[str, Any]:
        self.gpu.add("model weights", "training state")
        self.gpu.work("save")
        return {}

    def send_weights(self, version: int, only: Any) -> dict[str, float]:
        self.gpu.add("model weights", "bucket")
        self.gpu.work("sync")
        self.gpu.held.remove("bucket")
        self.engine.loaded = version
        return {"bytes": 1.0, "pause_s": 0.0}


@pytest.mark.parametrize("level", [1, 2])
def test_neither_engine_nor_model_works_while_the_other_holds_the_memory(level: int) -> None:
    """A GPU of 60 units has room for one at a time: 55 for the engine, 52 for the model, 27 for a weight sync."""
    gpu = Gpu(60)
    engine = SleepyEngine(gpu)
    rollout: Any = Pool(engine)
    models: list[Any] = []
    sharing = GpuSharing(rollout, level, 5.0, models, offloads=True)
    sharing.for_training()  # the engine started first
    models.append(policy := Pool(Trainer(gpu, engine)))
    handle = ModelHandle(policy, 100, DeadlinesConfig(), sharing)  # type: ignore[arg-type]
    restarts = RestartPolicy(rollout, lambda ranks: None, 3, "rollout.max_restarts=3", lambda text: None)
    weights = WeightHandle(policy, rollout, 5.0, sharing, restarts, lambda group: None)  # type: ignore[arg-type]
    sharing.resend = weights.resend

    def sample(name: str = "sampling") -> None:
        with sharing.generating():
            gpu.work(name)

    batch = collate([t for g in Rig(0).step() for t in g.trajectories])
    asleep, engine_works = "model weights, training state", "kv_cache, weights"
    sync = "bucket, model weights, weights"
    again = [f"sync: {sync}"] if level == 2 else []
    weights.publish()
    sample()
    handle._numbers(batch, phase="log-probs")
    handle.save(Path("x"))
    assert gpu.log == [
        f"sync: {sync}", f"sampling: {engine_works}", "log-probs: model weights", f"save: {asleep}",
    ]  # fmt: skip
    gpu.log.clear()
    sample("evaluation")
    weights.publish()  # while the engine is awake
    weights.publish()
    handle.save(Path("x"))  # while the engine is half awake
    sample()
    assert gpu.log == [
        *again, f"evaluation: {engine_works}", f"sync: {sync}", f"sync: {sync}", f"save: {asleep}",
        *again, f"sampling: {engine_works}",
    ]  # fmt: skip
    assert engine.loaded == weights.version == 2
