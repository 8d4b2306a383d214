"""Weights over a process group, to several engines and to tensor-parallel ones; buckets that wait while engines sample.

`gloo` is the transport `nccl` in all but the backend: set-up of the group, ranks, failures and re-joins are real here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ray = pytest.importorskip("ray")
pytest.importorskip("vllm")

from actors.config.schema import RolloutConfig  # noqa: E402
from actors.generation.rollout import Finished, Request, RolloutWorker  # noqa: E402
from actors.weights.records import pack  # noqa: E402
from actors.weights.sender import Sender, WeightSyncError, make_sender  # noqa: E402
from rlcore.interfaces import Sampling  # noqa: E402
from tests.integration.test_rollout import MAX_LEN, PROMPTS, TOLERANCE, Source, build_model  # noqa: E402

pytestmark = pytest.mark.timeout(900)
DEADLINE_S = 20.0


class Counting(RolloutWorker):
    """Counts the engine's steps."""

    count = 0

    def watch(self) -> None:
        step = self._engine.step

        def counted() -> Any:
            self.count += 1
            time.sleep(0.005)  # so that generation outlasts a transfer, however loaded the machine is
            return step()

        self._on_loop(lambda: setattr(self._engine, "step", counted))

    def steps(self) -> int:
        return self.count


class Acting(Source):
    """Does something before each of its buckets."""

    def __init__(self, model: torch.nn.Module, act: Callable[[int], None]) -> None:
        super().__init__(model)
        self.act = act

    def buckets(self, max_bytes: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
        for i, bucket in enumerate(super().buckets(max_bytes)):
            self.act(i)
            yield bucket


class Rig:
    """Two engines and the model that they should agree with."""

    def __init__(self, folder: Path, parallel: int = 1) -> None:
        self.folder, self.parallel, self.version, self.calls = folder, parallel, 0, 0
        self.model = build_model(folder, tied=True)
        self.engines = [self.engine() for _ in range(2)]

    def engine(self) -> Any:
        engine = ray.remote(num_cpus=0, max_concurrency=4)(Counting).remote()
        config = RolloutConfig(cpu_kv_cache_gib=0.25, tensor_parallel_size=self.parallel)
        ray.get(engine.start.remote(str(self.folder), config, "cpu", "float32", MAX_LEN, 1, 0))
        return engine

    def sender(self, backend: str, source: Source | None = None, deadline_s: float = DEADLINE_S) -> Sender:
        return make_sender(
            backend, source or Source(self.model), rank=0, dtype=torch.float32, bucket_bytes=2**16,
            deadline_s=deadline_s, tensor_parallel_size=self.parallel,
        )  # fmt: skip

    def perturb(self) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    def sync(self, sender: Sender) -> dict[str, float]:
        self.version += 1
        return sender.send(self.version)

    def submit(self, engine: Any, samples: int, length: int) -> None:
        self.calls += 1
        requests = [Request(i, f"p{i}", prompt) for i, prompt in enumerate(PROMPTS)]
        ray.get(engine.submit.remote(f"c{self.calls}", requests, Sampling(samples, length)))

    def collect(self, engine: Any) -> list[Finished]:
        groups: list[Finished] = []
        while len(groups) < len(PROMPTS):
            groups += ray.get(engine.collect.remote(5.0)).groups
        return groups

    def worst(self, engine: Any) -> float:
        """Largest difference between an engine's log-probs and the model's."""
        self.submit(engine, 1, 5)
        worst = 0.0
        for group in self.collect(engine):
            prompt = PROMPTS[group.index]
            for sample in group.samples:
                ids = torch.tensor([[*prompt, *sample.token_ids.tolist()]])
                with torch.no_grad():
                    every = self.model(ids).logits.log_softmax(-1)
                ours = every[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
                worst = max(worst, (ours - torch.tensor(sample.logprobs)).abs().max().item())
        return worst

    def stop(self) -> None:
        for engine in self.engines:
            ray.kill(engine)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("pair"))
    yield rig
    rig.stop()


@pytest.mark.slow
def test_twenty_syncs_to_two_tensor_parallel_engines_over_one_group(tmp_path: Path) -> None:
    rig = Rig(tmp_path, parallel=2)
    sender = rig.sender("gloo", deadline_s=120)
    sender.connect(rig.engines)
    try:
        for _ in range(20):
            rig.perturb()
            sent = rig.sync(sender)
            assert [rig.worst(engine) < TOLERANCE for engine in rig.engines] == [True, True]
        assert sent["buckets"] == len(list(rig.model.named_parameters(remove_duplicate=False)))
        assert sent["pause_s"] == 0  # nothing was under way
    finally:
        sender.close()
        rig.stop()


def test_checksums_tell_which_weights_differ(rig: Rig) -> None:
    sender = rig.sender("host")
    sender.connect(rig.engines)
    rig.sync(sender)
    equal, again = ray.get([engine.weight_checksums.remote() for engine in rig.engines])
    assert equal == again
    with torch.no_grad():
        rig.model.get_parameter("model.norm.weight").mul_(2)
    rig.version += 1
    sender.send(rig.version, [0])
    changed, old = ray.get([engine.weight_checksums.remote() for engine in rig.engines])
    assert old == equal
    assert {name.rpartition(":")[2] for name in changed if changed[name] != old[name]} == {"model.norm.weight"}
    rig.sync(sender)


@pytest.mark.parametrize("backend", ["host", "gloo"])
def test_generation_continues_while_buckets_travel(rig: Rig, backend: str) -> None:
    engine, steps, watched = rig.engines[0], [], False

    def look(bucket: int) -> None:
        seen, ends_at = ray.get(engine.steps.remote()), time.monotonic() + 10
        while watched and ray.get(engine.steps.remote()) < seen + 2 and time.monotonic() < ends_at:
            time.sleep(0.002)  # a slow link: two steps of the engine for each bucket
        steps.append(ray.get(engine.steps.remote()))

    slow = rig.sender(backend, Acting(rig.model, look))
    slow.connect(rig.engines)
    try:
        rig.sync(slow)
        ray.get(engine.watch.remote())
        rig.submit(engine, 16, 300)
        rig.perturb()
        steps.clear()
        watched = True
        sent = rig.sync(slow)
        assert steps[-1] - steps[0] > len(steps)  # more than a step for each bucket
        assert sent["pause_s"] < sent["seconds"] / 3
        versions = {int(v) for group in rig.collect(engine) for s in group.samples for v in s.versions}
        assert versions == {rig.version - 1, rig.version}
        assert max(rig.worst(engine) for engine in rig.engines) < TOLERANCE
    finally:
        slow.close()


def test_a_staged_update_that_is_given_up_leaves_the_old_weights(rig: Rig) -> None:
    engine, sender = rig.engines[0], rig.sender("host")
    sender.connect(rig.engines)
    rig.sync(sender)
    rig.submit(engine, 16, 200)
    ray.get(engine.begin_update.remote(rig.version + 1, 60.0))
    ray.get(engine.load_bucket.remote(pack([("model.norm.weight", torch.zeros(128))])))
    ray.get(engine.abort_update.remote())
    assert ray.get(engine.version.remote()) == rig.version
    rig.collect(engine)
    assert rig.worst(engine) < TOLERANCE
    rig.perturb()
    rig.sync(sender)
    assert rig.worst(engine) < TOLERANCE


@pytest.mark.slow  # by default a peer that never joins is named, and a broken group is joined again
def test_a_killed_peer_is_named_in_time_and_the_next_group_is_whole(rig: Rig) -> None:
    def kill(bucket: int) -> None:
        if bucket == 3 and len(victims) == 1:
            ray.kill(victims[0])

    victims: list[Any] = []
    source = Acting(rig.model, kill)
    sender = rig.sender("gloo", source)
    sender.connect(rig.engines)
    rig.sync(sender)
    victims.append(rig.engines[1])
    began = time.monotonic()
    with pytest.raises(WeightSyncError, match=r"rollout\[1\]: load_bucket: .*Actor") as failure:
        rig.sync(sender)
    assert time.monotonic() - began < DEADLINE_S
    assert list(failure.value.failed) == [1]  # the survivor is not to be replaced
    with pytest.raises(RuntimeError, match="cannot sample"):
        rig.submit(rig.engines[0], 1, 4)

    rig.engines[1] = rig.engine()
    victims.clear()
    sender.connect(rig.engines)
    rig.perturb()
    rig.sync(sender)
    assert max(rig.worst(engine) for engine in rig.engines) < TOLERANCE
    with pytest.raises(ValueError, match="connect again"):
        sender.send(99, [0])
    sender.close()


def test_a_group_that_broke_is_joined_again_by_the_next_update(rig: Rig) -> None:
    source = Acting(rig.model, lambda bucket: None)
    sender = rig.sender("gloo", source)
    sender.connect(rig.engines)

    def fail(bucket: int) -> None:
        if bucket == 2:
            sender.link.group.close()  # type: ignore[attr-defined]

    source.act = fail
    with pytest.raises(WeightSyncError):
        rig.sync(sender)
    source.act = lambda bucket: None
    rig.perturb()
    rig.sync(sender)
    assert max(rig.worst(engine) for engine in rig.engines) < TOLERANCE
    sender.close()


def test_a_peer_that_never_joins_is_named_and_holds_up_nobody(rig: Rig) -> None:
    class Deaf:
        def init_weights(self, info: dict[str, Any]) -> None:
            time.sleep(600)

    deaf = ray.remote(num_cpus=0)(Deaf).remote()
    sender = rig.sender("gloo", deadline_s=3)
    began = time.monotonic()
    with pytest.raises(WeightSyncError, match=r"rollout\[1\]: init_weights: never joined the weight group within 3 s"):
        sender.connect([rig.engines[0], deaf])
    assert time.monotonic() - began < DEADLINE_S
    ray.kill(deaf)
    sender.connect(rig.engines)
    rig.sync(sender)
    assert max(rig.worst(engine) for engine in rig.engines) < TOLERANCE
    sender.close()
