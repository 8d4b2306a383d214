"""Reward-aware preference optimization (2406.11704 section 3.3.2) finds how much better a response is, DPO only that.

A softmax policy over a handful of responses, a uniform reference, rewards that are known: the objective's own optimum
is seen, without a model's limits.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor

from rlcore.ops.preference_losses import preference_loss

REWARDS = torch.tensor([0.0, 0.2, 1.0, 4.0], dtype=torch.float64)
BETA, ETA, STEPS, RATE = 0.5, 1.0, 2000, 2.0
RPO = ["rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl"]
REFERENCE = torch.full_like(REWARDS, 1 / len(REWARDS)).log()


@functools.cache
def trained(kind: str, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Log-probs of the responses after plain gradient descent on all pairs at once."""
    chosen, rejected = (list(side) for side in zip(*pairs, strict=True))
    logits = torch.zeros(len(REWARDS), dtype=torch.float64, requires_grad=True)
    for _ in range(STEPS):
        policy = logits.log_softmax(0)
        loss = preference_loss(
            kind,
            policy[chosen],
            policy[rejected],
            REFERENCE[chosen],
            REFERENCE[rejected],
            BETA,
            eta=ETA,
            chosen_rewards=REWARDS[chosen],
            rejected_rewards=REWARDS[rejected],
        ).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= RATE * gradient
    return logits.detach().log_softmax(0)


def gap(policy: Tensor, chosen: int, rejected: int) -> float:
    rewards = BETA * (policy - REFERENCE)
    return float(rewards[chosen] - rewards[rejected])


@pytest.mark.parametrize("kind", RPO)
def test_rpo_recovers_a_small_and_a_large_gap_where_dpo_finds_them_equal(kind: str) -> None:
    """True gaps 0.2 and 3. RPO finds both to 1e-3. DPO finds 6.90 for both, 35 and 2.3 times as much, and goes on."""
    pairs = ((1, 0), (3, 2))
    rpo = trained(kind, pairs)
    assert gap(rpo, 1, 0) == pytest.approx(0.2, abs=1e-3)
    assert gap(rpo, 3, 2) == pytest.approx(3.0, abs=1e-3)
    dpo = trained("dpo", pairs)
    assert gap(dpo, 1, 0) == pytest.approx(6.90, abs=0.01)
    assert gap(dpo, 3, 2) == pytest.approx(6.90, abs=0.01)


def test_rpo_ends_at_the_policy_of_the_reward_and_dpo_goes_beyond() -> None:
    """With all six pairs the optimum of the regularised reward is pi ~ ref exp(eta r / beta)."""
    pairs = tuple((j, i) for i, j in itertools.combinations(range(4), 2))
    wanted = (REFERENCE + ETA * REWARDS / BETA).log_softmax(0)
    for kind in RPO:
        torch.testing.assert_close(trained(kind, pairs), wanted, rtol=0, atol=1e-3)
    dpo = trained("dpo", pairs)
    # a gap of 0.2 in reward: odds of 1.5 to 1 become 13,000 to 1
    assert (wanted[1] - wanted[0]).item() == pytest.approx(0.4)
    assert (dpo[1] - dpo[0]).item() == pytest.approx(9.49, abs=0.01)
