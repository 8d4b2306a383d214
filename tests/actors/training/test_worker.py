"""What a worker makes of a step, over an engine that only remembers what it was asked."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.config.schema import DType, EngineConfig, ModelConfig
from actors.training import worker as worker_module
from actors.training.critic import CriticWorker
from actors.training.flops import ModelFlops
from actors.training.worker import PolicyWorker, ReferenceWorker, StartSpec, padding_row
from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.algorithms.reward_config import RewardTrainingConfig
from rlcore.algorithms.reward_modeling import Counts, RewardObjective
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.algorithms.value import ValueObjective
from rlcore.objective import Objective, Outputs, TensorBatch
from rlcore.types import TrainBatch

SFT = SupervisedObjective()


class Recorder:
    """An engine with one weight; `outcome` is what its step returns."""

    device, stage, dtype = torch.device("cpu"), 0, DType.bfloat16
    flops = ModelFlops(parameters=1000, attention=10)

    def __init__(self, rank: int = 0, outcome: tuple[float, bool] = (2.5, True)) -> None:
        self.rank, self.outcome = rank, outcome
        self.weight = torch.zeros(1, requires_grad=True)
        self.seen: list[tuple[list[list[int]], list[int]]] = []
        self.lasts: list[bool] = []
        self.agreed: list[int] = []
        self.rates: list[float] = []

    def check_agreement(self, value: int, what: str) -> None:
        self.agreed.append(value)

    def forward(self, batch: TensorBatch, temperature: float = 1.0, first: int = 1, entropy: bool = False) -> Outputs:
        shape = batch.tokens.shape
        self.seen.append((batch.tokens.tolist(), batch.lengths.tolist()))
        return Outputs(self.weight.expand(shape), torch.zeros(shape) if entropy else None)

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        self.lasts.append(last)

    def step(self, learning_rate: float) -> tuple[float, bool]:
        self.rates.append(learning_rate)
        return self.outcome


def batch(rows_per_unit: int = 1) -> TrainBatch:
    return TrainBatch.from_padded(
        tokens=np.array([[5, 6, 7], [5, 6, 0], [8, 9, 4], [8, 3, 0]], dtype=np.int32),
        lengths=np.array([3, 2, 3, 2], dtype=np.int32),
        loss_mask=np.array([[0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.bool_),
        sample_ids=list("abcd"),
        scores=np.ones(4, dtype=np.float32),
        rows_per_unit=rows_per_unit,
    )


def policy(engine: Recorder) -> PolicyWorker:
    worker = PolicyWorker()
    worker._engine = engine  # type: ignore[assignment]
    return worker


def test_a_step_is_all_micro_batches_then_one_optimizer_step() -> None:
    engine = Recorder()
    metrics = policy(engine).update(batch(), [[0], [], [3, 1, 2]], 4.0, 0.01, SFT)
    assert engine.agreed == [3]
    assert engine.lasts == [False, False, True]
    assert engine.rates == [0.01]
    assert engine.seen == [
        ([[5, 6, 7]], [3]),
        ([[0, 0]], [2]),  # padding, so that every rank runs as many passes
        ([[8, 3, 0], [5, 6, 0], [8, 9, 4]], [2, 2, 3]),
    ]
    assert engine.weight.grad is not None
    assert engine.weight.grad.item() == pytest.approx(-5 / 4)  # five loss tokens over the denominator that was given
    found = M.values(metrics)
    assert found.pop("perf/actor_tokens_per_s") > 0
    assert found == {
        "actor/grad_norm": 2.5, "actor/lr": 0.01, "actor/skipped_steps": 0.0, "sft/loss": 0.0,
    }  # fmt: skip
    assert metrics["sft/loss"].count == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(("rank", "counted"), [(0, 1.0), (1, 0.0)])
def test_a_skipped_step_is_counted_by_one_rank(rank: int, counted: float) -> None:
    engine = Recorder(rank, (math.inf, False))
    found = M.values(policy(engine).update(batch(), [[0, 1, 2, 3]], 5.0, 0.01, SFT))
    assert found["actor/skipped_steps"] == counted
    assert math.isnan(found["actor/grad_norm"])


def test_no_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one micro-batch"):
        policy(Recorder()).update(batch(), [], 5.0, 0.01, SFT)


def test_metrics_carry_the_name_of_the_model() -> None:
    worker = CriticWorker()
    worker._engine = Recorder()  # type: ignore[assignment]
    assert set(worker.update(batch(), [[0]], 5.0, 0.1, SFT)) == {
        "critic/grad_norm", "critic/lr", "critic/skipped_steps", "sft/loss", "perf/critic_tokens_per_s",
    }  # fmt: skip


def test_speed_and_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "peak_flops", lambda device, dtype: 1e9 if dtype is torch.bfloat16 else None)
    memory = {"rss": 1.0, "gpu_allocated": 1.0, "gpu_peak": 3.0 * 2**30, "gpu_reserved": 4.0 * 2**30}
    monkeypatch.setattr(worker_module.process, "memory", lambda: memory)
    found = M.values(policy(Recorder())._speed([3, 2], seconds=0.5))
    assert found == {
        "perf/actor_tokens_per_s": 10.0,
        "perf/actor_mfu": pytest.approx(3 * (2 * 1000 * 5 + 4 * 10 * (9 + 4)) / (0.5 * 1e9)),
        "memory/actor_update_peak_gib": 3.0,
        "memory/actor_update_reserved_gib": 4.0,
    }


@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize(
    "objective",
    [
        PolicyGradientObjective(AlgorithmConfig(), 1.0, 8),
        PreferenceObjective(AlgorithmConfig(), 1.0, 8),
        ValueObjective(),
        RewardObjective(RewardTrainingConfig()),
    ],
    ids=["policy gradient", "preference", "value", "reward"],
)
def test_padding_is_a_whole_unit_and_adds_nothing(unit: int, objective: Objective) -> None:
    zeros = np.zeros(10, dtype=np.float32)
    like = batch(unit).with_arrays(advantages=zeros, ref_logprobs=zeros, values=zeros, returns=zeros)
    row = padding_row(like)
    assert (len(row), row.rows_per_unit) == (unit, unit)
    assert row.num_loss_tokens == 0
    assert row.scores is not None
    assert row.scores.shape == (unit,)
    assert {n for n in TrainBatch.ARRAYS if getattr(row, n) is not None} == {
        "advantages", "ref_logprobs", "values", "returns",
    }  # fmt: skip
    x, tensors = torch.randn(unit, 2, requires_grad=True), TensorBatch.from_train_batch(row)
    denominator = Counts(3.0, 1.0) if isinstance(objective, RewardObjective) else 3.0
    loss, metrics = objective.loss(Outputs(x), tensors, denominator)
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert not x.grad.any()
    assert metrics == {}


def test_a_spec_travels() -> None:
    spec = StartSpec(1, 2, "127.0.0.1", 5, "cpu", "folder", ModelConfig(), EngineConfig())
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("kind", [PolicyWorker, ReferenceWorker, CriticWorker])
def test_a_worker_tells_its_address_before_it_starts(kind: type[PolicyWorker]) -> None:
    host, port = kind().address()
    assert host == "127.0.0.1"
    assert port > 1024
    assert kind().memory()["rss"] > 2**20


def test_only_models_of_language_send_weights() -> None:
    for kind in (PolicyWorker, ReferenceWorker):
        with pytest.raises(RuntimeError, match="before connect"):
            kind().send_weights(0)
    assert not hasattr(CriticWorker, "send_weights")
