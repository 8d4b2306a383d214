"""Optimizer steps of one batch: rows without a gradient may be left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rlcore.algorithms.config import AlgorithmConfig, KLPlace
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.loops import online
from rlcore.loops.learning import rows_with_gradient
from rlcore.objective import Outputs, TensorBatch
from tests.algorithms.cases import train_batch
from tests.loops.test_online import make_run

LOSSES = ("ppo_clip", "gspo", "cispo", "reinforce")


def objective(**changes) -> PolicyGradientObjective:
    return PolicyGradientObjective(AlgorithmConfig(**changes), temperature=1.0, max_new_tokens=8)


def with_zeros(rows):
    """The batch of the other tests of losses, with no advantage in `rows`."""
    batch = train_batch()
    advantages = batch.advantages.copy()
    for row in rows:
        advantages[batch.offsets[row] : batch.offsets[row + 1]] = 0
    return batch.with_arrays(advantages=advantages)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("zero", [[], [0, 3], [0, 1, 2, 3]])
def test_rows_that_are_left_out_have_no_gradient(loss, zero):
    goal, batch, all_rows = objective(loss=loss), with_zeros(zero), np.array([3, 0, 2, 1, 4])
    kept = rows_with_gradient(goal, batch, all_rows)
    logprobs = torch.tensor(batch.padded("old_logprobs") - 0.1, requires_grad=True)
    tensors = TensorBatch.from_train_batch(batch)
    total, _ = goal.loss(Outputs(logprobs, torch.zeros_like(logprobs)), tensors, goal.denominator(batch))
    total.backward()
    moved = (logprobs.grad != 0).any(1).numpy()
    assert moved[kept].any() or not moved.any()
    assert not moved[np.setdiff1d(all_rows, kept)].any()
    assert not set(zero) & set(kept.tolist()) or len(kept) == 1


@pytest.mark.parametrize(
    "changes", [{"entropy_coef": 0.01}, {"kl_coef": 0.1, "kl_in": KLPlace.loss}, {"loss": "mdloo"}, {"loss": "my_own"}]
)
def test_a_loss_with_other_terms_computes_all_rows(changes):
    rows = np.array([0, 1, 2, 3, 4])
    assert rows_with_gradient(objective(**changes), with_zeros([0, 1]), rows).tolist() == rows.tolist()


def test_without_any_gradient_the_step_is_still_taken():
    rows = np.array([4, 1])
    assert rows_with_gradient(objective(), with_zeros([0, 1, 2, 3, 4]), rows).tolist() == [4]


@pytest.mark.parametrize("updates", [1, 2])
def test_training_is_the_same_with_and_without_them(tmp_path, updates):
    tables, left_out = [], 0.0
    for skip in (False, True):
        changes = {"skip_zero_advantages": skip, "updates_per_step": updates}
        run = make_run(tmp_path / f"{skip}", steps=8, trainer=changes)
        run = dataclasses.replace(run, algorithm=dataclasses.replace(run.algorithm, clip_low=0.2))
        online.train(run)
        tables.append(run.world.policy.table.detach().clone())
        left_out += sum(row.get("batch/rows_without_gradient", 0) for row in run.world.tracker.rows.values())
    assert left_out > 0
    torch.testing.assert_close(*tables, rtol=1e-5, atol=1e-5)
    assert tables[0].abs().max() > 0.1
