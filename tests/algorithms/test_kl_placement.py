"""Expected gradients of the KL term, by enumeration of all one-token responses, and its bound.

With responses of one token the KL of responses is that of tokens, so the exact gradients are known in closed form.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlcore.algorithms.config import AlgorithmConfig, CorrectionConfig, CorrectionLevel, KLKind, KLPlace
from rlcore.algorithms.policy_gradient import PolicyGradientObjective, credit
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import Group, Prompt, RewardResult, TrainBatch, Trajectory

V = 5
PLAIN = CorrectionConfig(level=CorrectionLevel.none)


def log_softmaxes() -> tuple[Tensor, Tensor, Tensor]:
    """theta (leaf), log pi_old, log pi_ref: [V], float64, all different."""
    generator = torch.Generator().manual_seed(3)
    theta, old, ref = (torch.randn(V, generator=generator, dtype=torch.float64) for _ in range(3))
    return theta.requires_grad_(), old.log_softmax(0), ref.log_softmax(0)


def column(values: Tensor) -> np.ndarray:
    """[V, 2]: index 0 is the prompt's token, index 1 the response."""
    return np.stack([np.zeros(V), values.detach().numpy()], 1).astype(np.float32)


def all_responses(old: Tensor, ref: Tensor) -> TrainBatch:
    return TrainBatch.from_padded(
        tokens=np.stack([np.zeros(V), np.arange(V)], 1).astype(np.int32),
        lengths=np.full(V, 2, np.int32),
        loss_mask=np.array([[False, True]] * V),
        sample_ids=[f"p#0.{k}" for k in range(V)],
        old_logprobs=column(old),
        ref_logprobs=column(ref),
        advantages=np.zeros((V, 2), np.float32),
    )


def expected_gradient(goal: PolicyGradientObjective, batch: TrainBatch, theta: Tensor, old: Tensor) -> Tensor:
    """Of the loss, over responses drawn from pi_old."""
    total = torch.zeros(())
    logprobs = torch.stack([torch.zeros(V, dtype=torch.float64), theta.log_softmax(0)], 1)
    for y in range(V):
        loss, _ = goal.loss(Outputs(logprobs[[y]]), TensorBatch.from_train_batch(batch.select([y])), 1.0)
        total = total + old[y].exp() * loss
    (gradient,) = torch.autograd.grad(total, theta, retain_graph=True)
    return gradient


def objective(**settings: object) -> PolicyGradientObjective:
    return PolicyGradientObjective(AlgorithmConfig(kl_coef=1.0, correction=PLAIN, **settings), 1.0, 1)  # type: ignore[arg-type]


def kl_gradient(theta: Tensor, ref: Tensor, reverse: bool = False) -> Tensor:
    """Of KL(pi || ref), or of KL(ref || pi) when `reverse`."""
    pi = theta.log_softmax(0)
    kl = (ref.exp() * (ref - pi)).sum() if reverse else (pi.exp() * (pi - ref)).sum()
    return torch.autograd.grad(kl, theta, retain_graph=True)[0]


@pytest.mark.parametrize(
    ("kind", "weighted", "off_policy", "wanted"),
    [
        (KLKind.k1, False, False, None),
        (KLKind.k2, False, False, "forward"),
        (KLKind.k3, False, False, "reverse"),
        (KLKind.auto, False, False, "reverse"),
        (KLKind.k3, True, False, "forward"),
        (KLKind.k3, True, True, "forward"),
        (KLKind.auto, True, True, "forward"),
    ],
)
def test_gradient_of_the_kl_in_the_loss(kind: KLKind, weighted: bool, off_policy: bool, wanted: str | None) -> None:
    theta, old, ref = log_softmaxes()
    if not off_policy:
        old = theta.detach().log_softmax(0)
    goal = objective(kl_kind=kind, kl_weighted=weighted)
    got = expected_gradient(goal, all_responses(old, ref), theta, old)
    exact = {"forward": kl_gradient(theta, ref), "reverse": kl_gradient(theta, ref, True), None: torch.zeros(V)}
    torch.testing.assert_close(got, exact[wanted].double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "exact"), [(KLKind.k1, True), (KLKind.auto, True), (KLKind.k2, False), (KLKind.k3, False)]
)
def test_gradient_of_the_kl_in_the_reward(kind: KLKind, exact: bool) -> None:
    """Equal rewards, so the KL alone moves the policy. Only k1 moves it down the gradient of KL(pi || pi_ref)."""
    theta, _, ref = log_softmaxes()
    old = theta.detach().log_softmax(0)
    prompt = Prompt(uid="p", token_ids=(0,), text="p")
    rows = [
        Trajectory(
            sample_id=f"p#0.{k}", uid="p", tokens=np.array([0, k], np.int32), loss_mask=np.array([False, True]),
            rollout_logprobs=column(old)[k], versions=np.zeros(2, np.int32), num_prompt_tokens=1,
            finish_reason="stop", text="", reward=RewardResult(0.0),
        )
        for k in range(V)
    ]  # fmt: skip
    goal = objective(advantage="returns", loss="reinforce", kl_in=KLPlace.reward, kl_kind=kind)
    batch, _ = credit([Group(prompt, rows)], all_responses(old, ref), goal.config, 1.0, 1)
    got = expected_gradient(goal, batch, theta, old)
    close = torch.allclose(got, kl_gradient(theta, ref), rtol=1e-5, atol=1e-6)
    assert close == exact


def test_one_token_does_not_take_the_whole_gradient() -> None:
    """A token 12 nats below the reference: k3 has a gradient of e^12 there without a bound."""
    d = torch.linspace(-0.5, 0.5, 99)
    for clamp, share in ((None, 0.9), (10.0, 0.0)):
        logprobs = torch.cat([d, torch.tensor([-12.0])])[None].requires_grad_()
        size = logprobs.shape[1]
        batch = TrainBatch.from_padded(
            tokens=np.ones((1, size), np.int32), lengths=np.array([size], np.int32),
            loss_mask=np.array([[False] + [True] * (size - 1)]), sample_ids=["p#0.0"],
            ref_logprobs=np.zeros((1, size), np.float32), advantages=np.ones((1, size), np.float32),
        )  # fmt: skip
        tensors = TensorBatch.from_train_batch(batch)
        loss, _ = objective(kl_clamp=clamp).loss(Outputs(logprobs), tensors, float(size - 1))
        loss.backward()
        assert logprobs.grad is not None
        kl_part = logprobs.grad + 1 / (size - 1)  # without the policy's own gradient, -A / n
        taken = float(kl_part[0, -1].square() / kl_part.square().sum())
        assert taken == pytest.approx(share, abs=0.1)
        assert bool(torch.isfinite(loss))


@pytest.mark.parametrize("distance", [-90.0, -1e4, float("-inf")])
def test_a_token_far_from_the_reference_keeps_the_loss_finite(distance: float) -> None:
    theta, _, ref = log_softmaxes()
    batch = all_responses(theta.detach().log_softmax(0), ref)
    logprobs = torch.tensor([[0.0, distance]] * V).requires_grad_()
    loss, _ = objective().loss(Outputs(logprobs), TensorBatch.from_train_batch(batch), float(V))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert logprobs.grad is not None
    assert bool(torch.isfinite(logprobs.grad).all())
