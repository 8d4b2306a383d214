"""KTO as the policy's workers train it: rows to a loss, whichever micro-batches they come in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore import metrics as M
from rlcore.algorithms.kto import KtoObjective
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import TrainBatch
from tests.algorithms.cases import MASK, policy_logprobs, train_batch

GOOD = np.array([1, 0, 1, 0, 0], dtype=np.float32)  # row 3 is padding


def kto_batch(seed=0, good=GOOD):
    return replace(train_batch(seed), scores=good)


def loss_of(objective, policy, batch, denominator=None):
    total = objective.denominator(batch) if denominator is None else denominator
    return objective.loss(Outputs(policy), TensorBatch.from_train_batch(batch), total)


def told(metrics):
    return M.values(metrics)


def row(*logps):
    """A batch of one-token responses behind one token of prompt, the reference at 0; and the policy's log-probs."""
    policy = torch.tensor([[0.0, x] for x in logps])
    mask = np.array([[False, True]] * len(logps))
    zeros = np.zeros(mask.shape, np.float32)
    return policy, TrainBatch.from_padded(zeros.astype(np.int32), [2] * len(logps), mask, logps, ref_logprobs=zeros)


def test_by_hand():
    """Sigmoids of log odds: s(ln 3) = 3/4, s(-ln 3) = 1/4, s(ln 4) = 4/5. z = ln 2, beta = 1.

    desirable    a = ln 6: 1 - s(ln 3)  = 1/4      a = ln 2/3: 1 - s(-ln 3) = 3/4
    undesirable  b = ln 1/2: 1 - s(ln 4) = 1/5
    """
    policy, batch = row(math.log(6), math.log(2 / 3), math.log(1 / 2))
    batch = replace(batch, scores=np.array([1, 1, 0], np.float32))
    objective = KtoObjective(beta=1.0, desirable_weight=4.0, undesirable_weight=10.0, kl=math.log(2))
    loss, metrics = loss_of(objective, policy, batch)
    assert loss.item() == pytest.approx((4 / 4 + 4 * 3 / 4 + 10 / 5) / 3)
    assert told(metrics) == pytest.approx({
        "actor/pref_loss": 2.0,
        "actor/pref_accuracy": 2 / 3,  # a above z, a below z, b below z
        "actor/chosen_reward": (math.log(6) + math.log(2 / 3)) / 2,
        "actor/rejected_reward": -math.log(2),
    })  # fmt: skip


def test_where_the_policy_is_the_reference_every_row_costs_half_its_weight():
    batch = kto_batch()
    policy = torch.tensor(batch.padded("ref_logprobs"))
    loss, metrics = loss_of(KtoObjective(0.3, desirable_weight=1.0, undesirable_weight=3.0), policy, batch)
    assert loss.item() == pytest.approx((0.5 * 2 + 1.5 * 2) / 4)
    assert told(metrics)["actor/pref_accuracy"] == 0.0  # at z itself nobody is on the right side


@given(seed=st.integers(0, 10**6), beta=st.floats(0.01, 3), z=st.floats(0, 4), good=st.integers(0, 31))
def test_against_a_loop_in_float64(seed, beta, z, good):
    batch = kto_batch(seed, np.array([(good >> i) & 1 for i in range(5)], dtype=np.float32))
    policy = policy_logprobs(seed).requires_grad_()
    objective = KtoObjective(beta, 1.5, 0.7, kl=z)
    loss, _ = loss_of(objective, policy, batch)
    loss.backward()
    wanted, slopes, ref = 0.0, np.zeros(MASK.shape), batch.padded("ref_logprobs")
    for i in (0, 1, 2, 4):
        ratio = sum(float(policy.detach()[i, t]) - float(ref[i, t]) for t in range(6) if MASK[i, t])
        weight, sign = (1.5, 1) if batch.scores[i] else (0.7, -1)
        right = 1 / (1 + math.exp(-sign * beta * (ratio - z)))
        wanted += weight * (1 - right) / 4
        slopes[i, MASK[i]] = -sign * weight * beta * right * (1 - right) / 4
    assert loss.item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(policy.grad.numpy(), slopes, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("cuts", [([0], [1, 2, 3, 4]), ([0, 1], [2], [3], [4]), ([4, 0], [3, 1], [2])])
def test_however_it_is_split_it_is_one_loss(cuts):
    """Micro-batches of padding alone and of one kind alone among them; metrics are means over rows of the whole."""
    batch, objective = kto_batch(), KtoObjective(0.5, 1.2, 0.8, kl=0.3)
    policy = policy_logprobs().requires_grad_()
    whole, metrics = loss_of(objective, policy, batch)
    (gradient,) = torch.autograd.grad(whole, policy)
    parts, found = torch.zeros(()), []
    for rows in cuts:
        part = batch.select(rows)
        loss, some = loss_of(objective, policy[rows][:, : part.lengths.max()], part, objective.denominator(batch))
        parts = parts + loss
        found.append(some)
    (summed,) = torch.autograd.grad(parts, policy)
    assert parts.item() == pytest.approx(whole.item())
    torch.testing.assert_close(summed, gradient)
    assert told(M.merge(found)) == pytest.approx(told(metrics))


def test_padding_alone_costs_nothing_and_has_a_gradient():
    batch = kto_batch().select([3])
    policy = policy_logprobs()[[3], :1].requires_grad_()
    assert KtoObjective().denominator(batch) == 0
    loss, metrics = loss_of(KtoObjective(), policy, batch, 4.0)
    loss.backward()
    assert loss.item() == 0
    assert not policy.grad.any()
    assert not metrics


@pytest.mark.parametrize(("rows", "missing"), [([0, 2], "rejected"), ([1, 4], "chosen")])
def test_of_one_kind_alone_the_others_reward_is_not_told(rows, missing):
    batch = kto_batch().select(rows)
    _, metrics = loss_of(KtoObjective(), policy_logprobs()[rows][:, : batch.lengths.max()], batch)
    names = {"actor/pref_loss", "actor/pref_accuracy", "actor/chosen_reward", "actor/rejected_reward"}
    assert set(metrics) == names - {f"actor/{missing}_reward"}


def test_a_step_lifts_the_desirable_and_lowers_the_others():
    batch, policy = kto_batch(), policy_logprobs().requires_grad_()
    loss, _ = loss_of(KtoObjective(), policy, batch)
    loss.backward()
    slopes = (policy.grad * torch.tensor(MASK)).sum(1)
    assert [int(torch.sign(-x)) for x in slopes] == [1, -1, 1, 0, -1]
    assert not policy.grad[torch.tensor(~MASK)].any()


@pytest.mark.parametrize("name", ["ref_logprobs", "scores"])
def test_what_the_batch_must_hold(name):
    batch = replace(kto_batch(), **{name: None})
    with pytest.raises(ValueError, match=f"the objective needs {name}, the batch has none"):
        loss_of(KtoObjective(), policy_logprobs(), batch)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_cannot_be(beta):
    with pytest.raises(ValueError, match="beta must be above 0"):
        loss_of(KtoObjective(beta), policy_logprobs(), kto_batch())
