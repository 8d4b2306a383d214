"""The two anchors of the ratio: the trainer's policy at batch start, and the sampler."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlcore import metrics as M
from rlcore.algorithms.config import (
    Aggregation,
    AlgorithmConfig,
    Anchor,
    CorrectionConfig,
    CorrectionLevel,
    CorrectionMode,
    KLPlace,
)
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.loops.learning import rows_to_score
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import TrainBatch
from tests.algorithms.cases import policy_logprobs, train_batch

WITH_RATIO = ("ppo_clip", "gspo", "cispo", "mdloo")
NONE, FREE = CorrectionConfig(level=CorrectionLevel.none), CorrectionConfig(high=math.inf)


def evaluate(
    batch: TrainBatch, anchor: Anchor, logprobs: torch.Tensor | None = None, **settings: Any
) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Loss, gradient of the log-probs, metrics."""
    settings = {"correction": NONE if anchor is Anchor.rollout else FREE} | settings
    goal = PolicyGradientObjective(AlgorithmConfig(anchor=anchor, **settings), temperature=1.0, max_new_tokens=8)
    x = (policy_logprobs() if logprobs is None else logprobs).requires_grad_()
    loss, metrics = goal.loss(Outputs(x), TensorBatch.from_train_batch(batch), goal.denominator(batch))
    loss.backward()
    assert x.grad is not None
    return loss.item(), x.grad, M.values(metrics)


def by_hand(old: list[float] | None, rollout: list[float]) -> TrainBatch:
    """One row: a prompt token, then tokens with these probabilities and advantages 1, 1, -1."""
    arrays = {
        name: None if p is None else np.log(np.array([[1.0, *p]], np.float32))
        for name, p in (("old_logprobs", old), ("rollout_logprobs", rollout))
    }
    return TrainBatch.from_padded(
        tokens=np.ones((1, 4), np.int32),
        lengths=np.array([4], np.int32),
        loss_mask=np.array([[False, True, True, True]]),
        sample_ids=["a"],
        advantages=np.array([[0, 1, 1, -1]], np.float32),
        **arrays,
    )


def test_the_first_update_on_stale_samples_by_hand() -> None:
    """The policy has moved since sampling: 0.1 to 0.4, 0.5 to 0.25, 0.5 to 0.5; it has not been updated in this step.

    Against the trainer all ratios are 1 and the weights 4, 1/2, 1 act, truncated to 2; against the sampler the ratios
    are 4, 1/2, 1, and the clip takes away the gradient of the first token.
    """
    now = torch.log(torch.tensor([[1.0, 0.4, 0.25, 0.5]]))
    batch = by_hand(None, [0.1, 0.5, 0.5])
    loss, gradient, metrics = evaluate(batch, Anchor.trainer, now.clone(), correction=CorrectionConfig(high=2.0))
    assert loss == pytest.approx(-(2 + 0.5 - 1) / 3)
    assert gradient[0].tolist() == pytest.approx([0, -2 / 3, -0.5 / 3, 1 / 3])
    assert (metrics["actor/pg_clipfrac"], metrics["actor/ppo_kl"]) == (0, 0)

    loss, gradient, metrics = evaluate(batch, Anchor.rollout, now.clone(), clip_high=0.28)
    assert loss == pytest.approx(-(1.28 + 0.5 - 1) / 3)
    assert gradient[0].tolist() == pytest.approx([0, 0, -0.5 / 3, 1 / 3])
    assert metrics["actor/pg_clipfrac"] == pytest.approx(1 / 3)
    assert metrics["actor/ppo_kl"] == pytest.approx(-math.log(4 * 0.5) / 3)
    assert metrics["rollout/max_ratio"] == pytest.approx(4.0)  # measured, not applied

    masked = CorrectionConfig(CorrectionLevel.token, CorrectionMode.mask, 0.6, 3.0)  # IcePop: both others are outside
    loss, gradient, metrics = evaluate(batch, Anchor.trainer, now.clone(), correction=masked)
    assert loss == pytest.approx(1 / 3)
    assert gradient[0].tolist() == pytest.approx([0, 0, 0, 1 / 3])
    assert metrics["rollout/bounded"] == pytest.approx(2 / 3)


def test_a_later_update_by_hand() -> None:
    """Sampled with 0.2, at batch start 0.4, now 0.5 (all three tokens): r = 1.25 of the trainer, 2.5 of the sampler."""
    now, batch = torch.log(torch.tensor([[1.0, 0.5, 0.5, 0.5]])), by_hand([0.4] * 3, [0.2] * 3)
    loss, gradient, _ = evaluate(batch, Anchor.trainer, now.clone(), clip_high=0.2)
    assert loss == pytest.approx(2 * -(1.2 + 1.2 - 1.25) / 3)  # weight 2 times the surrogate clipped at 1.2
    assert gradient[0].tolist() == pytest.approx([0, 0, 0, 2.5 / 3])
    loss, gradient, _ = evaluate(batch, Anchor.rollout, now.clone(), clip_high=0.2)
    assert loss == pytest.approx(-(1.2 + 1.2 - 2.5) / 3)
    assert gradient[0].tolist() == pytest.approx([0, 0, 0, 2.5 / 3])


@pytest.mark.parametrize("loss", WITH_RATIO)
@pytest.mark.parametrize("aggregation", Aggregation)
def test_the_anchors_agree_where_the_sampler_is_the_policy_at_batch_start(loss: str, aggregation: Aggregation) -> None:
    batch = train_batch()
    batch = replace(batch, rollout_logprobs=batch.old_logprobs)
    shared = {"loss": loss, "aggregation": aggregation, "step_kl_coef": 0.2, "kl_coef": 0.1, "kl_weighted": True}
    trainer, rollout = (evaluate(batch, anchor, **shared) for anchor in Anchor)
    assert trainer[0] == rollout[0]
    assert torch.equal(trainer[1], rollout[1])
    assert trainer[2] == rollout[2]
    assert trainer[1].any()


def test_without_bounds_the_anchors_have_equal_gradients_on_any_samples() -> None:
    """(pi_old / mu) (pi / pi_old) = pi / mu, and with the clip they differ."""
    free = {"clip_low": 1.0, "clip_high": math.inf}
    trainer, rollout = (evaluate(train_batch(), anchor, **free) for anchor in Anchor)
    assert trainer[0] == pytest.approx(rollout[0], rel=1e-5)
    torch.testing.assert_close(trainer[1], rollout[1])
    trainer, rollout = (evaluate(train_batch(), anchor) for anchor in Anchor)
    assert not torch.allclose(trainer[1], rollout[1], rtol=0.1)


@pytest.mark.parametrize("loss", WITH_RATIO)
def test_the_weight_never_counts_twice(loss: str) -> None:
    plain, weighted = (evaluate(train_batch(), Anchor.rollout, loss=loss, correction=c) for c in (NONE, FREE))
    assert plain[0] == weighted[0]
    assert torch.equal(plain[1], weighted[1])
    assert plain[2]["rollout/kl"] == weighted[2]["rollout/kl"] != 0


def test_the_sampler_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"rollout_logprobs \(algorithm.anchor is rollout\)"):
        evaluate(train_batch(without=["rollout_logprobs"]), Anchor.rollout)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, [2, 3]),
        ({"anchor": Anchor.rollout}, []),
        ({"anchor": Anchor.rollout, "kl_coef": 0.1}, []),
        ({"anchor": Anchor.rollout, "kl_coef": 0.1, "kl_in": KLPlace.reward}, [0, 1, 2, 3]),
        ({"anchor": Anchor.rollout, "advantage": "mine"}, [0, 1, 2, 3]),
    ],
)
def test_the_rows_that_need_old_logprobs(settings: dict[str, Any], rows: list[int]) -> None:
    steps = [np.array([1, 0]), np.array([3, 2])]
    assert rows_to_score(AlgorithmConfig(**settings), steps).tolist() == rows
    assert rows_to_score(AlgorithmConfig(**settings), []).tolist() == []
