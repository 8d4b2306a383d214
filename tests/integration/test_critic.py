"""The critic on real Ray and DeepSpeed: groups of one and of two gloo ranks, through the handle, against plain PyTorch.

Each group is started once; its processes build engines of every ZeRO stage one after another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from actors.config.schema import (
    ClusterConfig,
    DeadlinesConfig,
    DType,
    EngineConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    RoleConfig,
    RolesConfig,
)
from actors.placement.group import ActorGroup, WorkerError
from actors.placement.placement import Placement
from actors.training.critic import CriticWorker
from actors.training.handles import ValueHandle
from actors.training.scorer import Scorer
from actors.training.worker import StartSpec
from rlcore import metrics as M
from rlcore.algorithms.value import ValueObjective
from rlcore.types import TrainBatch
from tests.integration.test_training import gradients

VOCABULARY, WIDTH, LR, CLIP, LIMIT = 61, 32, 1e-3, 0.2, 30
# Adam divides by the gradient's own size: a larger eps keeps rounding of near-zero gradients out of the comparison
OPTIMIZER = OptimizerConfig(eps=1e-4, max_grad_norm=0.5)
OBJECTIVE = ValueObjective(CLIP)
MODEL, WAIT = ModelConfig(), {"timeout_s": 300, "phase": "test"}
LAYOUTS = [(size, stage) for size in (1, 2) for stage in (0, 2, 3)]
HEAD = {
    "weight": torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(8)) / 4,
    "bias": torch.tensor([0.3]),
}

pytestmark = pytest.mark.timeout(600)


class Watched(CriticWorker):
    """A critic that can be built anew in its process, and shows gradients and weights."""

    def rebuild(
        self, folder: str, stage: int, model: ModelConfig, packing: bool = False, head: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        assert self._spec is not None
        engine = dataclasses.replace(self._spec.engine, zero_stage=stage, packing=packing)
        self._spec = dataclasses.replace(self._spec, model_path=folder, model=model, engine=engine)
        self.head = head
        self._build(folder, self.with_head)
        return self.describe()

    def with_head(self, path: str, model: ModelConfig, trainable: bool) -> Scorer:
        scorer = self._load(path, model, trainable)
        if self.head:
            scorer.head.load_state_dict(self.head)  # type: ignore[union-attr]
        return scorer

    def watched_update(self, shard: TrainBatch, micro: list[list[int]], denominator: float, rate: float) -> Any:
        """Metrics, gradients and new weights."""
        engine, seen = self.engine, {}
        plain = engine.step

        def step(learning_rate: float) -> tuple[float, bool]:
            seen.update(gradients(engine))
            return plain(learning_rate)

        engine.step = step  # type: ignore[method-assign]
        try:
            metrics = self.update(shard, micro, denominator, rate, OBJECTIVE)
        finally:
            del engine.step
        return metrics, {n: g.numpy() for n, g in seen.items()}, self.weights()

    def weights(self) -> dict[str, Any]:
        found = {n: t.clone() for bucket in self.engine.buckets(6000) for n, t in bucket}
        head: Any = self.engine.scorer.head
        with self.engine._gathered(list(head.parameters())):
            found |= {f"head.{n}": p.detach().clone() for n, p in head.named_parameters()}
        return {n: t.float().numpy() for n, t in found.items()}


class Critic:
    """A group and its handle."""

    def __init__(self, group: ActorGroup[Watched]) -> None:
        self.group = group
        self.handle = ValueHandle(group, LIMIT, DeadlinesConfig())

    def build(
        self, folder: str, stage: int, model: ModelConfig = MODEL, packing: bool = False, head: Any = HEAD
    ) -> Any:
        return self.group.broadcast(Watched.rebuild, folder, stage, model, packing, head, **WAIT)

    def watched(self, batch: TrainBatch) -> tuple[M.Metrics, dict[str, Any], dict[str, Any]]:
        denominator = OBJECTIVE.denominator(batch)
        _, answers = self.handle._scatter(Watched.watched_update, batch, (denominator, LR), "update")
        for _, gradient, weights in answers[1:]:
            assert_equal(gradient, answers[0][1])
            assert_equal(weights, answers[0][2])
        return M.merge(metrics for metrics, _, _ in answers), answers[0][1], answers[0][2]

    def weights(self) -> dict[str, Any]:
        return self.group.broadcast(Watched.weights, **WAIT)[0]


def started(size: int, folder: str) -> tuple[Placement, Critic]:
    critic = RoleConfig(num_workers=size, cpus_per_worker=0.25)
    unused = {name: RoleConfig(num_workers=0) for name in ("policy", "rollout", "verifier")}
    placement = Placement.create(ClusterConfig(roles=RolesConfig(critic=critic, **unused)))
    group = ActorGroup.create(Watched, placement.slots["critic"], "critic", {"OMP_NUM_THREADS": "1"})
    address, port = group.one(0, Watched.address, **WAIT)
    engine = EngineConfig(optimizer=OPTIMIZER)
    calls = [
        (StartSpec(rank, size, address, port, "cpu", folder, MODEL, engine, timeout_s=60.0),)
        for rank in range(size)
    ]
    described = group.scatter(Watched.start, calls, **WAIT)
    assert [d["rank"] for d in described] == list(range(size))
    assert len({d["pid"] for d in described}) == size
    return placement, Critic(group)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models of one architecture, and a larger one."""
    made = {}
    for seed, (name, layers) in enumerate({"first": 2, "second": 2, "larger": 3}.items()):
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            initializer_range=0.2,
        )
        path = tmp_path_factory.mktemp(name)
        Qwen2ForCausalLM(config).save_pretrained(path)
        made[name] = str(path)
    return made


@pytest.fixture(scope="module")
def critics(folders: dict[str, str]) -> Iterator[dict[int, Critic]]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    try:
        made = {size: started(size, folders["first"]) for size in (1, 2)}
        yield {size: critic for size, (_, critic) in made.items()}
        for placement, critic in made.values():
            critic.group.broadcast(CriticWorker.shutdown, **WAIT)
            critic.group.shutdown()
            placement.remove()
    finally:
        ray.shutdown()


def make_batch(num_rows: int = 7, seed: int = 0) -> TrainBatch:
    """Rows of 5 to 13 tokens, prompts of 2 to 4 included; old values near the present ones and far from them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 14, num_rows).astype(np.int32)
    column = np.arange(int(lengths.max()))
    real = column < lengths[:, None]
    mask = real & (column >= rng.integers(2, 5, num_rows)[:, None])
    return TrainBatch.from_padded(
        tokens=np.where(real, rng.integers(0, VOCABULARY, real.shape), 0).astype(np.int32),
        lengths=lengths,
        loss_mask=mask,
        sample_ids=[f"s{i}" for i in range(num_rows)],
        values=np.where(mask, rng.normal(0.3, 0.5, real.shape), 0).astype(np.float32),
        returns=np.where(mask, rng.normal(0.5, 1.0, real.shape), 0).astype(np.float32),
    )


class Plain:
    """One process, one batch, no DeepSpeed: what every layout must equal."""

    def __init__(self, folder: str, head: dict[str, torch.Tensor] = HEAD) -> None:
        self.body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
        self.head = torch.nn.Linear(WIDTH, 1)
        self.head.load_state_dict(head)
        named = [*self.body.named_parameters(), *((f"head.{n}", p) for n, p in self.head.named_parameters())]
        self.parameters = dict(named)
        self.adam = torch.optim.AdamW(self.parameters.values(), LR, tuple(OPTIMIZER.betas), OPTIMIZER.eps, 0.0)

    def values(self, batch: TrainBatch) -> torch.Tensor:
        tokens = torch.tensor(batch.padded("tokens"), dtype=torch.int64)
        real = torch.arange(tokens.shape[1]) < torch.tensor(batch.lengths)[:, None]
        hidden = self.body(input_ids=tokens, attention_mask=real.long()).last_hidden_state
        values = torch.zeros(tokens.shape)
        values[:, 1:] = self.head(hidden).squeeze(-1)[:, :-1]
        return torch.where(real, values, 0.0)

    def update(self, batch: TrainBatch) -> tuple[float, float, float, dict[str, Any]]:
        """Loss, share of clipped tokens, gradient norm and gradients of one step."""
        new = self.values(batch)[torch.tensor(batch.padded("loss_mask"))]
        old, returns = (torch.tensor(x[batch.loss_mask]) for x in (batch.values, batch.returns))
        held = torch.max(torch.min(new, old + CLIP), old - CLIP)
        pulled, clipped = (new - returns) ** 2, (held - returns) ** 2
        loss = torch.where(clipped > pulled, clipped, pulled).mean() / 2
        loss.backward()
        gradients = {n: p.grad.numpy().copy() for n, p in self.parameters.items() if p.grad is not None}
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), OPTIMIZER.max_grad_norm))
        self.adam.step()
        self.adam.zero_grad()
        return loss.item(), (clipped > pulled).float().mean().item(), norm, gradients


def assert_equal(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], value) for name, value in wanted.items())


def assert_close(got: dict[str, Any], wanted: dict[str, Any], relative: float) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(got[name] - value).max() <= relative * np.abs(value).max(), name


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_values_are_those_of_a_plain_forward(critics: Any, folders: Any, size: int, stage: int) -> None:
    critic = critics[size]
    critic.build(folders["first"], stage)
    for num_rows in (7, 1):  # one row leaves a rank without any
        batch = make_batch(num_rows, seed=9)
        with torch.no_grad():
            wanted = batch.flat(Plain(folders["first"]).values(batch).numpy())
        got = critic.handle.values(batch)
        assert (got.dtype, got.shape) == (np.float32, batch.tokens.shape)
        assert np.abs(got - wanted).max() < 1e-5
        assert np.abs(wanted).max() > 0.5
        assert (got[batch.offsets[:-1]] == 0).all()


def test_a_fresh_critic_says_zero(critics: Any, folders: Any) -> None:
    critics[2].build(folders["first"], 2, head=None)
    assert not critics[2].handle.values(make_batch()).any()


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_any_layout_trains_as_one_plain_batch(critics: Any, folders: Any, size: int, stage: int) -> None:
    critic, plain = critics[size], Plain(folders["first"])
    (described, *_) = critic.build(folders["first"], stage)
    assert (described["world_size"], described["zero_stage"]) == (size, stage)
    for seed in range(3):  # moments and step counts must agree too
        batch = make_batch(seed=seed)
        loss, clipped, norm, gradient = plain.update(batch)
        metrics, got, weights = critic.watched(batch)
        assert_close(got, gradient, 1e-5 if seed == 0 else 1e-3)
        for name, parameter in plain.parameters.items():  # Adam moves by LR at most, whatever the gradient
            assert np.abs(weights[name] - parameter.detach().numpy()).max() < (1e-3 if seed == 0 else 2e-2) * LR, name
        values = M.values(metrics)
        assert values["critic/vf_loss"] == pytest.approx(loss, rel=1e-4)
        assert values["critic/vf_clipfrac"] == pytest.approx(clipped)
        assert 0 < clipped < 1
        assert values["critic/grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert norm > OPTIMIZER.max_grad_norm  # else clipping was not tested
        old, returns = batch.values[batch.loss_mask], batch.returns[batch.loss_mask]
        assert values["critic/returns/mean"] == pytest.approx(returns.mean(), rel=1e-4)
        explained = 1 - np.var(returns - old) / np.var(returns)
        assert values["critic/explained_variance"] == pytest.approx(explained, rel=1e-4)
        assert (values["critic/lr"], values["critic/skipped_steps"]) == (LR, 0)


@pytest.mark.parametrize(
    ("size", "stage", "dtype"),
    [(1, 0, "float32"), (2, 2, "bfloat16"), pytest.param(2, 3, "float32", marks=pytest.mark.slow)],
)
def test_updates_on_one_batch_teach_it_the_returns(
    critics: Any, folders: Any, size: int, stage: int, dtype: str
) -> None:
    critic = critics[size]
    critic.build(folders["first"], stage, ModelConfig(dtype=DType(dtype)), head=None)
    batch, losses = make_batch(seed=3), []
    for _ in range(40):
        batch = batch.with_arrays(values=critic.handle.values(batch))
        losses.append(M.values(critic.handle.update(batch, 3e-3, OBJECTIVE))["critic/vf_loss"])
    assert losses[-1] < 0.1 * losses[0]
    found = M.values(critic.handle.update(batch.with_arrays(values=critic.handle.values(batch)), 0.0, OBJECTIVE))
    assert found["critic/explained_variance"] > 0.8


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        *((0, "float32"), (3, "bfloat16")),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in [(2, "float32"), (3, "float32"), (0, "bfloat16")]),
    ],
)
def test_a_loaded_checkpoint_goes_on_bit_for_bit(
    critics: Any, folders: Any, tmp_path: Path, stage: int, dtype: str
) -> None:
    critic, model = critics[2], ModelConfig(dtype=DType(dtype))

    def updates(seeds: range) -> None:
        for seed in seeds:
            critic.handle.update(make_batch(seed=seed), LR, OBJECTIVE)

    critic.build(folders["first"], stage, model)
    updates(range(2))
    critic.handle.save(tmp_path / "critic")
    saved = critic.weights()
    updates(range(2, 5))
    uninterrupted, values = critic.weights(), critic.handle.values(make_batch())
    critic.build(folders["second"], stage, model, head=None)
    critic.handle.load(tmp_path / "critic")
    assert_equal(critic.weights(), saved)
    updates(range(2, 5))
    assert_equal(critic.weights(), uninterrupted)
    assert np.array_equal(critic.handle.values(make_batch()), values)
    assert not np.array_equal(uninterrupted["head.weight"], saved["head.weight"])


@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 2), (2, 3)])
def test_initialize_takes_the_body_and_forgets_the_head_and_the_optimizer(
    critics: Any, folders: Any, size: int, stage: int
) -> None:
    critic, batch = critics[size], make_batch(seed=5)
    critic.build(folders["first"], stage)
    critic.handle.update(batch, LR, OBJECTIVE)
    critic.handle.initialize(Path(folders["second"]))
    assert not critic.handle.values(batch).any()  # as in a process that has just started
    plain = Plain(folders["second"], {name: torch.zeros_like(value) for name, value in HEAD.items()})
    plain.update(batch)
    critic.handle.update(batch, LR, OBJECTIVE)
    for name, weight in critic.weights().items():
        assert np.abs(weight - plain.parameters[name].detach().numpy()).max() < 1e-2 * LR, name
    with pytest.raises(WorkerError, match="another architecture"):
        critic.handle.initialize(Path(folders["larger"]))


def test_packed_rows_train_as_rows_side_by_side(critics: Any, folders: Any) -> None:
    gradients, values = [], []
    for packing in (False, True):
        critics[2].build(folders["first"], 2, packing=packing)
        values.append(critics[2].handle.values(make_batch(seed=6)))
        gradients.append(critics[2].watched(make_batch(seed=6))[1])
    assert np.abs(values[1] - values[0]).max() < 1e-5
    assert_close(gradients[1], gradients[0], 1e-4)


def test_adapters_are_the_policys_alone(critics: Any, folders: Any) -> None:
    (plain, *_) = critics[1].build(folders["first"], 0)
    (described, *_) = critics[1].build(folders["first"], 0, ModelConfig(lora=LoraConfig(rank=4)))
    assert described["parameters"] == plain["parameters"]
    _, gradients, weights = critics[1].watched(make_batch())
    assert gradients.keys() == weights.keys()


def test_a_batch_without_returns_is_refused_by_name(critics: Any, folders: Any) -> None:
    critics[1].build(folders["first"], 0)
    with pytest.raises(WorkerError, match="the objective needs returns"):
        critics[1].handle.update(dataclasses.replace(make_batch(), returns=None), LR, OBJECTIVE)
