"""One optimizer step does not know how its batch was split: over micro-batches, over ranks, evenly or not.

A small recurrent model in float32 goes through what a worker does (trim, forward, loss with the denominator of the
whole batch, backward); ranks are simulated by adding their gradients. The result is compared with that of one pass
over all rows: loss, gradient, metrics, and the weights after Adam.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlcore.algorithms.policy_gradient
from rlcore import metrics as M
from rlcore.algorithms.config import (
    Aggregation,
    AlgorithmConfig,
    CorrectionConfig,
    CorrectionLevel,
    Family,
    PreferenceConfig,
    PreferenceKind,
)
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.algorithms.value import ValueObjective
from rlcore.data.batching.balance import split
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops.logprobs import token_logprobs_and_entropy
from rlcore.registry import POLICY_LOSSES
from rlcore.types import TrainBatch
from tests.ops.cases import cases  # noqa: F401  for its hypothesis profile

V, TEMPERATURE, TOLERANCE = 11, 0.7, 1e-5
Split = list[list[list[int]]]  # [rank][micro-batch] -> rows
LOSSES = [
    name
    for name in POLICY_LOSSES.names()
    if POLICY_LOSSES.get(name).__module__ == rlcore.algorithms.policy_gradient.__name__
]


class Model(torch.nn.Module):
    """Causal, so that padding on the right changes nothing before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(V, 12)
        self.mix = torch.nn.GRU(12, 16, batch_first=True)
        self.head = torch.nn.Linear(16, V)
        self.value = torch.nn.Linear(16, 1)

    def hidden(self, tokens: Tensor) -> Tensor:
        return self.mix(self.embed(tokens))[0]


def make_batch(seed: int = 0) -> TrainBatch:
    """Ten rows of 4 to 24 tokens: gaps of tool tokens, a lone trained token, two rows without any, uneven lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.array([24, 5, 9, 4, 17, 6, 12, 8, 21, 5], dtype=np.int32)
    shape = (len(lengths), int(lengths.max()))
    columns = np.arange(shape[1])
    real = columns < lengths[:, None]
    mask = real & (columns >= 3)
    mask[0, 8:13] = mask[4, 5:7] = mask[8, 4] = False
    mask[3] = mask[7] = False
    mask[9] = columns == 3
    batch = TrainBatch.from_padded(
        tokens=(rng.integers(1, V, shape) * real).astype(np.int32),
        lengths=lengths,
        loss_mask=mask,
        sample_ids=[str(i) for i in range(len(lengths))],
        scores=rng.normal(size=len(lengths)).astype(np.float32),
        rows_per_unit=2,
        by_opponent=np.array([False, True, True, False, False, True, False, True, True, False]),
    )
    with torch.no_grad():
        near = policy(Model(), TensorBatch.from_train_batch(batch))[0].numpy()
    arrays = {
        name: ((near + 0.3 * rng.normal(size=shape)) * mask).astype(np.float32)
        for name in ("old_logprobs", "rollout_logprobs", "ref_logprobs")
    }
    for name in ("values", "returns"):
        arrays[name] = (rng.normal(size=shape) * mask).astype(np.float32)
    arrays["advantages"] = (rng.normal(size=(shape[0], 1)) * mask).astype(np.float32)
    return batch.with_arrays(**{name: batch.flat(array) for name, array in arrays.items()})


def policy(model: Model, batch: TensorBatch) -> tuple[Tensor, Tensor]:
    return token_logprobs_and_entropy(model.head(model.hidden(batch.tokens)), batch.tokens, TEMPERATURE)


def padding(like: TrainBatch) -> TrainBatch:
    """What a rank with nothing runs, so that it takes part in the gradient's exchange: a row that is not trained on."""
    row = like.select([0])
    row.loss_mask = np.zeros_like(row.loss_mask)
    return row


@dataclass
class Outcome:
    loss: float
    gradient: Tensor
    weights: Tensor
    metrics: dict[str, float]


def step(goal: Any, batch: TrainBatch, ranks: Split) -> Outcome:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-3)
    denominator, loss, parts = goal.denominator(batch), 0.0, []
    total = [torch.zeros_like(p) for p in model.parameters()]
    for micro_batches in ranks:
        model.zero_grad()
        for rows in micro_batches:
            micro = TensorBatch.from_train_batch(batch.select(rows) if rows else padding(batch))
            if isinstance(goal, ValueObjective):
                values = model.value(model.hidden(micro.tokens)).squeeze(-1)
                part, metrics = goal.loss(Outputs(values), micro, denominator)
            else:
                part, metrics = goal.loss(Outputs(*policy(model, micro)), micro, denominator)
            part.backward()
            loss += part.item()
            parts.append(metrics)
        for held, p in zip(total, model.parameters(), strict=True):
            held += torch.zeros_like(p) if p.grad is None else p.grad
    for held, p in zip(total, model.parameters(), strict=True):
        p.grad = held
    gradient = torch.cat([g.flatten() for g in total])
    optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return Outcome(loss, gradient, weights, M.values(M.merge(parts)))


def assert_same(got: Outcome, whole: Outcome) -> None:
    assert got.loss == pytest.approx(whole.loss, rel=TOLERANCE, abs=TOLERANCE / 10)
    norm = whole.gradient.norm()
    assert norm > 1e-3
    assert (got.gradient - whole.gradient).norm() <= TOLERANCE * norm
    torch.testing.assert_close(got.weights, whole.weights, rtol=TOLERANCE, atol=TOLERANCE)
    assert got.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        assert got.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


BATCH = make_batch()
ALL = list(range(len(BATCH)))
WHOLE: Split = [[ALL]]
SPLITS: dict[str, Split] = {
    "row by row": [[[i] for i in ALL]],
    "two micro-batches": [[ALL[:3], ALL[3:]]],
    "reversed": [[ALL[::-1]]],
    "two ranks": [[ALL[:5]], [ALL[5:]]],
    "uneven ranks": [[[0, 1], [2, 3, 4, 5, 6, 7, 8]], [[9], []]],
    "a rank with nothing to train": [[[0, 1, 2], [4, 5, 6, 8, 9]], [[3], [7]]],
    "a rank with nothing": [[ALL[:4], ALL[4:]], [[], []]],
}
SPLITS |= {
    f"balance.split, {ranks} ranks, {limit} tokens": split(BATCH.lengths, ranks, limit)
    for ranks, limit in itertools.product((1, 2), (24, 40, 90))
}


def algorithm(loss: str, aggregation: Aggregation, **settings: Any) -> PolicyGradientObjective:
    """Every term at once: dual clip, KL to the reference, entropy bonus, sampler correction."""
    common: dict[str, Any] = {
        "dual_clip": 1.5,
        "kl_coef": 0.05,
        "entropy_coef": 0.01,
        "step_kl_coef": 0.1,
        "correction": CorrectionConfig(CorrectionLevel.sequence, high=1.5),
    }
    config = AlgorithmConfig(loss=loss, aggregation=aggregation, **common | settings)
    return PolicyGradientObjective(config, TEMPERATURE, max_new_tokens=24)


def test_all_losses_are_here() -> None:
    assert set(LOSSES) >= {"ppo_clip", "gspo", "cispo", "reinforce", "mdloo"}


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("loss", LOSSES)
def test_policy_gradient(loss: str, aggregation: Aggregation) -> None:
    goal = algorithm(loss, aggregation)
    whole = step(goal, BATCH, WHOLE)
    for ranks in SPLITS.values():
        assert sorted(itertools.chain(*itertools.chain(*ranks))) == ALL
        assert_same(step(goal, BATCH, ranks), whole)


@pytest.mark.parametrize("loss", LOSSES)
def test_first_update_without_old_logprobs(loss: str) -> None:
    """The policy's own log-probs stand in, and the sampler's mismatch is then measured against these."""
    batch = make_batch(1)
    batch.old_logprobs = None
    for aggregation in (Aggregation.token_mean, Aggregation.seq_mean_token_mean):
        goal = algorithm(loss, aggregation, correction=CorrectionConfig(CorrectionLevel.token))
        whole = step(goal, batch, WHOLE)
        for name in ("row by row", "uneven ranks", "a rank with nothing"):
            assert_same(step(goal, batch, SPLITS[name]), whole)


@st.composite
def any_split(draw: st.DrawFn) -> Split:
    """Every row to one of up to two ranks and one of up to four micro-batches; some may stay empty."""
    num_ranks, num_micro_batches = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    places = [(rank, m) for rank in range(num_ranks) for m in range(num_micro_batches)]
    ranks: Split = [[[] for _ in range(num_micro_batches)] for _ in range(num_ranks)]
    for row in draw(st.permutations(ALL)):
        rank, m = draw(st.sampled_from(places))
        ranks[rank][m].append(row)
    return ranks


WHOLES: dict[tuple[str, Aggregation], Outcome] = {}


@given(loss=st.sampled_from(LOSSES), aggregation=st.sampled_from(Aggregation), ranks=any_split())
def test_any_split(loss: str, aggregation: Aggregation, ranks: Split) -> None:
    goal = algorithm(loss, aggregation)
    whole = WHOLES.setdefault((loss, aggregation), step(goal, BATCH, WHOLE))
    assert_same(step(goal, BATCH, ranks), whole)


def test_a_denominator_per_micro_batch_would_be_seen() -> None:
    """The comparison has teeth: with the mean of each part, as trainers used to have it, it fails."""

    class Local(PolicyGradientObjective):
        def loss(self, outputs: Outputs, batch: TensorBatch, denominator: float) -> Any:
            return super().loss(outputs, batch, max(1.0, 2 * float(batch.loss_mask.sum())))

    goal = algorithm("ppo_clip", Aggregation.token_mean)
    local = Local(goal.config, TEMPERATURE, 24)
    ranks: Split = [[[0, 4], [1, 2, 3, 5, 6, 7, 8, 9]]]
    with pytest.raises(AssertionError):
        assert_same(step(local, BATCH, ranks), step(goal, BATCH, WHOLE))


def pairs_of(micro_batches: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[row for unit in units for row in (2 * unit, 2 * unit + 1)] for units in micro_batches]


@pytest.mark.parametrize(
    "goal",
    [
        SupervisedObjective(),
        ValueObjective(value_clip=0.2),
        *(
            PreferenceObjective(
                AlgorithmConfig(
                    family=Family.preference, preference=PreferenceConfig(loss=kind, sft_coef=0.1, label_smoothing=0.1)
                ),
                TEMPERATURE,
                max_new_tokens=24,
            )
            for kind in PreferenceKind
        ),
    ],
    ids=lambda goal: f"{type(goal).__name__}-{goal.config.preference.loss.value}" if hasattr(goal, "config") else None,
)
def test_the_other_objectives(goal: Any) -> None:
    """Pairs stay together: the unit of the split is two rows."""
    batch = make_batch(2)
    for row in (3, 7):
        batch.loss_mask[batch.offsets[row] + 3] = True  # no half pair
    whole = step(goal, batch, WHOLE)
    units: list[list[list[int]]] = [[[0], [1], [2], [3], [4]]], [[[0, 1, 2], []], [[4], [3]]], [[[0, 4]], [[3, 2, 1]]]
    for ranks in units:
        assert_same(step(goal, batch, [pairs_of(micro_batches) for micro_batches in ranks]), whole)
