import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlcore.ops.preference_losses import KINDS, kto_reference_point, preference_loss
from tests.ops.cases import assert_twins

PAIRED = sorted(set(KINDS) - {"kto"})


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + torch.exp(-x))


def test_by_hand() -> None:
    """a = 1, b = -1, h = 2; lengths 2 and 4; rewards 3 and 1; beta 1/2, so that beta h = 1 and 1 / (2 beta) = 1."""
    p = 1 / (1 + math.exp(-1))  # s(beta h)
    q = 1 / (1 + math.exp(-0.5))  # s(eta (R_c - R_r)) at eta = 1/4
    coin = lambda u, v: u * math.log(u / v) + (1 - u) * math.log((1 - u) / (1 - v))  # noqa: E731
    expected = {
        "dpo": -math.log(p),
        "dpo_norm": -math.log(1 / (1 + math.exp(-0.5 * (1 / 2 + 1 / 4)))),
        "cdpo": -0.9 * math.log(p) - 0.1 * math.log(1 - p),
        "robust": (-0.9 * math.log(p) + 0.1 * math.log(1 - p)) / 0.8,
        "ipo": (1 / 2 + 1 / 4 - 1) ** 2,
        "ipo_sum": 1.0,
        "hinge": 0.0,
        "simpo": -math.log(1 / (1 + math.exp(-(0.5 * (-4 / 2 + 6 / 4) - 0.3)))),
        "rpo_bwd_kl": coin(q, p),
        "rpo_fwd_kl": coin(p, q),
        "rpo_sq": 0.25,
        "sppo": 0.0,
    }
    assert set(expected) == set(PAIRED)
    for kind, value in expected.items():
        loss = preference_loss(
            kind,
            *(tensor(x) for x in (-4.0, -6.0, -5.0, -5.0)),
            0.5,
            label_smoothing=0.1,
            gamma=0.3,
            eta=0.25,
            chosen_lengths=torch.tensor([2]),
            rejected_lengths=torch.tensor([4]),
            chosen_rewards=tensor(3.0),
            rejected_rewards=tensor(1.0),
        )
        assert loss.tolist() == pytest.approx([value]), kind


def slow(kind: str, pc: Any, pr: Any, rc: Any, rr: Any, lc: Any, lr: Any, xc: Any, xr: Any, **k: float) -> Tensor:
    beta, e, eta, gamma = k["beta"], k["label_smoothing"], k["eta"], k["gamma"]
    win, lose = sigmoid(beta * ((pc - rc) - (pr - rr))), sigmoid(beta * ((pr - rr) - (pc - rc)))
    target = sigmoid(eta * (xc - xr))
    return {
        "dpo": lambda: -torch.log(win),
        "dpo_norm": lambda: -torch.log(sigmoid(beta / lc * (pc - rc) - beta / lr * (pr - rr))),
        "cdpo": lambda: -(1 - e) * torch.log(win) - e * torch.log(lose),
        "robust": lambda: ((1 - e) * -torch.log(win) - e * -torch.log(lose)) / (1 - 2 * e),
        "ipo": lambda: ((pc / lc - pr / lr) - (rc / lc - rr / lr) - 1 / (2 * beta)) ** 2,
        "ipo_sum": lambda: ((pc - pr) - (rc - rr) - 0.5 / beta) ** 2,
        "hinge": lambda: torch.maximum(1 - beta * ((pc - rc) - (pr - rr)), torch.zeros_like(pc)),
        "simpo": lambda: -torch.log(sigmoid(beta / lc * pc - beta / lr * pr - gamma)),
        "rpo_bwd_kl": lambda: target * torch.log(target / win) + (1 - target) * torch.log((1 - target) / lose),
        "rpo_fwd_kl": lambda: win * torch.log(win / target) + lose * torch.log(lose / (1 - target)),
        "rpo_sq": lambda: (beta * ((pc - pr) - (rc - rr)) - eta * (xc - xr)) ** 2,
        "sppo": lambda: ((pc - rc) - (1 - 0.5) / beta) ** 2 + ((pr - rr) - (0 - 0.5) / beta) ** 2,
    }[kind]()


@pytest.mark.parametrize("kind", PAIRED)
@given(pairs=st.integers(1, 4), seed=st.integers(0, 2**31), beta=st.floats(0.05, 2.0))
def test_twins(kind: str, pairs: int, seed: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(6, pairs, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 20, (2, pairs), generator=generator)
    scalars = {"label_smoothing": 0.2, "gamma": 0.7, "eta": 0.6}

    def fast(policy: Tensor) -> Tensor:
        given = {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
        given |= {"chosen_rewards": x[4], "rejected_rewards": x[5]}
        return preference_loss(kind, policy[0], policy[1], x[2], x[3], beta, **given, **scalars)

    def loop(policy: Tensor) -> Tensor:
        return torch.stack(
            [
                slow(kind, *policy[:, i], *x[2:4, i], *lengths[:, i].double(), *x[4:, i], beta=beta, **scalars)
                for i in range(pairs)
            ]
        )

    assert_twins(fast, loop, x[:2])


@given(n=st.integers(0, 3), m=st.integers(0, 3), seed=st.integers(0, 2**31), z=st.floats(0, 2))
def test_kto_twin(n: int, m: int, seed: int, z: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy, ref = (torch.randn(n + m, generator=generator, dtype=torch.float64) for _ in range(2))

    def fast(p: Tensor) -> Tensor:
        weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
        return preference_loss("kto", p[:n], p[n:], ref[:n], ref[n:], 0.3, kl=tensor(z).squeeze(), **weights)

    def loop(p: Tensor) -> Tensor:
        out = torch.zeros(n + m, dtype=torch.float64)
        for i in range(n + m):
            r = p[i] - ref[i]
            out[i] = 1.5 - 1.5 * sigmoid(0.3 * (r - z)) if i < n else 0.5 - 0.5 * sigmoid(0.3 * (z - r))
        return out

    assert_twins(fast, loop, policy)


def test_kto_reference_point() -> None:
    policy = tensor(1.0, 2.0).requires_grad_()
    assert kto_reference_point(policy, tensor(0.0, 1.0)).item() == 1.0
    assert kto_reference_point(policy, tensor(5.0, 5.0)).item() == 0.0
    assert not kto_reference_point(policy, tensor(0.0, 0.0)).requires_grad
    with pytest.raises(ValueError, match="at least one"):
        kto_reference_point(tensor(), tensor())


def test_identities() -> None:
    args = (tensor(-4.0, -2.0), tensor(-6.0, 3.0), tensor(-5.0, 0.0), tensor(-5.0, 1.0))
    swapped = (args[1], args[0], args[3], args[2])
    dpo = preference_loss("dpo", *args, 0.5)
    for kind in ("cdpo", "robust"):  # no noise is DPO
        torch.testing.assert_close(preference_loss(kind, *args, 0.5), dpo)
    # robust DPO is unbiased: averaged over flips with chance e it is DPO on the true labels
    right, wrong = (preference_loss("robust", *a, 0.5, label_smoothing=0.2) for a in (args, swapped))
    torch.testing.assert_close(0.8 * right + 0.2 * wrong, dpo)
    # the policy at the reference: every DPO loss is log 2
    same = (args[0], args[1], args[0], args[1])
    assert preference_loss("dpo", *same, 0.5).tolist() == pytest.approx([math.log(2)] * 2)
    # reward-aware: no loss where the implicit margin equals the given one
    margin = 0.5 * ((args[0] - args[2]) - (args[1] - args[3]))
    for kind in ("rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl"):
        rewards = {"chosen_rewards": margin / 0.1, "rejected_rewards": torch.zeros_like(margin)}
        got = preference_loss(kind, *args, 0.5, eta=0.1, **rewards)
        torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=1e-12)


def slope(kind: str, p: float, h: float, beta: float, of_chosen: bool = False, **settings: Any) -> float:
    """d/dh of the loss expected when the first response, ahead by h, is labelled the better one with probability p.

    With `of_chosen` the first response alone moves; then h is its log-ratio, and the other's is 0.
    """
    zero, x = tensor(0.0), tensor(h).requires_grad_()
    ahead, behind = (x, zero) if of_chosen else (x / 2, -x / 2)
    gap = settings.pop("gap", 0.0)
    rewards = [{"chosen_rewards": tensor(g), "rejected_rewards": zero} for g in (gap, -gap)]
    lengths = {"chosen_lengths": torch.tensor([1]), "rejected_lengths": torch.tensor([1])}
    won = preference_loss(kind, ahead, behind, zero, zero, beta, **rewards[0], **lengths, **settings)
    lost = preference_loss(kind, behind, ahead, zero, zero, beta, **rewards[1], **lengths, **settings)
    (gradient,) = torch.autograd.grad((p * won + (1 - p) * lost).sum(), x)
    return float(gradient)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@given(p=st.floats(0.05, 0.95), beta=st.floats(0.1, 2.0))
def test_each_kind_is_smallest_where_its_paper_says(p: float, beta: float) -> None:
    """Where the expected loss over labels with P(first is better) = p is stationary: the papers' own optima."""
    noise, true = 0.2, (p - 0.2) / 0.6  # p = (1 - e) true + e (1 - true)
    cases = [
        ("dpo", logit(p) / beta, {}),  # Bradley-Terry: beta h is the difference of the rewards
        ("dpo_norm", logit(p) / beta, {}),  # at length 1
        ("ipo_sum", (p - 0.5) / beta, {}),  # h = (p(c > mu) - p(r > mu)) / tau of two responses
        ("ipo", (p - 0.5) / beta, {}),  # at length 1
        ("cdpo", logit((1 - noise) * p + noise * (1 - p)) / beta, {"label_smoothing": noise}),
        ("rpo_sq", 0.7 * logit(p) / beta, {"gap": logit(p), "eta": 0.7}),  # the rewards' difference, whatever the label
        ("rpo_fwd_kl", 0.7 * logit(p) / beta, {"gap": logit(p), "eta": 0.7}),
        ("rpo_bwd_kl", 0.7 * logit(p) / beta, {"gap": logit(p), "eta": 0.7}),
    ]
    if 0.01 < true < 0.99:  # labels flipped with chance e: the optimum of the true ones
        cases.append(("robust", logit(true) / beta, {"label_smoothing": noise}))
    for kind, h, settings in cases:
        assert slope(kind, p, h, beta, **settings) == pytest.approx(0, abs=1e-9), kind
        assert slope(kind, p, h + 0.1, beta, **settings) > 1e-7, kind
        assert slope(kind, p, h - 0.1, beta, **settings) < -1e-7, kind
    # each response by itself: log(pi / pi_t) = eta (P(y > pi_t) - 1/2), with eta = 1 / beta
    h = (p - 0.5) / beta
    assert slope("sppo", p, h, beta, of_chosen=True) == pytest.approx(0, abs=1e-9)
    assert slope("sppo", p, h + 0.1, beta, of_chosen=True) == pytest.approx(0.2)


@given(gap=st.floats(-3, 3), h=st.floats(-4, 4))
def test_a_soft_label_is_smoothing(gap: float, h: float) -> None:
    """KL to a soft label is cDPO with e = 1 - label, less the label's entropy; a sure label is DPO."""
    e = 1 / (1 + math.exp(abs(gap)))
    args = (tensor(h), tensor(0.0), tensor(0.0), tensor(0.0), 0.5)
    rewards = {"chosen_rewards": tensor(abs(gap)), "rejected_rewards": tensor(0.0)}
    entropy = -e * math.log(e) - (1 - e) * math.log(1 - e)
    soft = preference_loss("rpo_bwd_kl", *args, **rewards).item() + entropy
    if e < 0.5:
        assert soft == pytest.approx(preference_loss("cdpo", *args, label_smoothing=e).item())
    sure = {"chosen_rewards": tensor(60.0), "rejected_rewards": tensor(0.0)}
    assert preference_loss("rpo_bwd_kl", *args, **sure).item() == pytest.approx(preference_loss("dpo", *args).item())


@pytest.mark.parametrize("kind", ["dpo", "cdpo", "robust", "simpo", "rpo_bwd_kl", "rpo_fwd_kl"])
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_extreme_margins_stay_finite(kind: str, gap: float) -> None:
    chosen = torch.tensor([gap], requires_grad=True)
    zero, one = torch.zeros(1), torch.ones(1)
    extra = {"chosen_lengths": one, "rejected_lengths": one, "chosen_rewards": one, "rejected_rewards": zero}
    loss = preference_loss(kind, chosen, zero, zero, zero, 1.0, label_smoothing=0.1, **extra)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()


def test_wrong_inputs_are_refused() -> None:
    x = tensor(0.0, 1.0)
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
        ("dpoo", (x, x, x, x, 0.1), {}, "kind must be one of"),
        ("dpo", (x, x, None, x, 0.1), {}, "needs ref_chosen"),
        ("simpo", (x, x, None, None, 0.1), {}, "needs chosen_lengths"),
        ("rpo_sq", (x, x, x, x, 0.1), {"chosen_rewards": x}, "needs rejected_rewards"),
        ("kto", (x, x, x, x, 0.1), {}, "needs kl"),
        ("dpo", (x, x[:1], x, x, 0.1), {}, "shapes differ"),
        ("dpo", (x, x, x, x, 0.0), {}, "beta"),
        ("robust", (x, x, x, x, 0.1), {"label_smoothing": 0.5}, "label_smoothing"),
    ]
    for kind, args, kwargs, match in cases:
        with pytest.raises(ValueError, match=match):
            preference_loss(kind, *args, **kwargs)
