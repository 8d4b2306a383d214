import itertools
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlcore
from rlcore import metrics as M
from rlcore.algorithms.config import (
    Aggregation,
    AlgorithmConfig,
    Anchor,
    CorrectionConfig,
    CorrectionLevel,
    CorrectionMode,
    KLKind,
    KLPlace,
)
from rlcore.algorithms.policy_gradient import LossInputs, PolicyGradientObjective, find_loss
from rlcore.objective import Objective, Outputs, TensorBatch
from rlcore.registry import POLICY_LOSSES, RegistryError
from rlcore.types import TrainBatch
from tests.algorithms.cases import MASK, grid, policy_logprobs, train_batch

MAX_NEW_TOKENS = 8
PLAIN = CorrectionConfig(level=CorrectionLevel.none)


def objective(**settings: Any) -> PolicyGradientObjective:
    return PolicyGradientObjective(AlgorithmConfig(**settings), temperature=0.7, max_new_tokens=MAX_NEW_TOKENS)


def run(
    goal: PolicyGradientObjective, batch: TrainBatch, parts: list[list[int]]
) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, gradient of log-probs and entropy stacked, metrics: summed and merged over micro-batches."""
    logprobs, entropy = policy_logprobs().requires_grad_(), policy_logprobs(5).neg().requires_grad_()
    denominator = goal.denominator(batch)
    outs = []
    for rows in parts:
        tensors = TensorBatch.from_train_batch(batch.select(rows))
        width = tensors.tokens.shape[1]
        outs.append(goal.loss(Outputs(logprobs[rows, :width], entropy[rows, :width]), tensors, denominator))
    total = sum(loss for loss, _ in outs)
    total.backward()
    gradient = torch.stack([torch.zeros_like(x) if x.grad is None else x.grad for x in (logprobs, entropy)])
    return total.item(), gradient, M.values(M.merge(m for _, m in outs))


WHOLE = [[0, 1, 2, 3, 4]]
LOSSES = ("ppo_clip", "gspo", "cispo", "reinforce", "mdloo")
SETTINGS = list(itertools.product(LOSSES, Aggregation))


def slow_loss(config: AlgorithmConfig, batch: TrainBatch, x: Tensor, entropy: Tensor) -> Tensor:
    """The objective written over single tokens, in float64."""
    padded = vars(grid(batch))
    arrays = {n: None if padded[n] is None else torch.tensor(padded[n]).double() for n in TrainBatch.ARRAYS}
    old, adv = arrays["old_logprobs"], arrays["advantages"]
    assert adv is not None
    old = x.detach() if old is None else old
    at_sampler = config.anchor is Anchor.rollout
    anchor = arrays["rollout_logprobs"] if at_sampler else old
    rows = [[t for t in range(MASK.shape[1]) if MASK[b, t]] for b in range(len(MASK))]
    num_rows, num_tokens = sum(bool(r) for r in rows), sum(len(r) for r in rows)
    total = torch.zeros((), dtype=torch.float64)
    for b, steps in enumerate(rows):
        if not steps:
            continue
        mean_log = sum(x[b, t] - anchor[b, t] for t in steps) / len(steps)
        whole = torch.exp(sum(x[b, t] - anchor[b, t] for t in steps))
        correction = config.correction
        product = math.exp(sum(old[b, t] - arrays["rollout_logprobs"][b, t] for t in steps))
        for t in steps:
            w = torch.exp(x[b, t] - anchor[b, t])
            if config.loss == "gspo":
                w = torch.exp(mean_log).detach() * torch.exp(x[b, t] - x[b, t].detach())
            held = torch.minimum(
                torch.maximum(w, w.new_tensor(1 - config.clip_low)), w.new_tensor(1 + config.clip_high)
            )
            loss = {
                "ppo_clip": -torch.minimum(w * adv[b, t], held * adv[b, t]),
                "gspo": -torch.minimum(w * adv[b, t], held * adv[b, t]),
                "cispo": -min(w.item(), 1 + config.clip_high) * adv[b, t] * x[b, t],
                "reinforce": -adv[b, t] * x[b, t],
                "mdloo": (-whole * adv[b, steps[0]] + config.step_kl_coef * (whole * torch.log(whole) - whole + 1))
                / len(steps),
            }[config.loss]
            if correction.level is not CorrectionLevel.none and not at_sampler:
                c = product
                if correction.level is CorrectionLevel.token:
                    c = math.exp(old[b, t] - arrays["rollout_logprobs"][b, t])
                if correction.mode is CorrectionMode.truncate:
                    c = min(max(c, correction.low), correction.high)
                elif not correction.low <= c <= correction.high:
                    c = 0.0
                loss = c * loss
            if config.kl_coef and config.kl_in is KLPlace.loss:
                bound = config.kl_clamp
                d = (x[b, t] - arrays["ref_logprobs"][b, t]).clamp(-bound, bound)
                kl = {"k1": d, "k2": d * d / 2, "k3": torch.exp(-d) - 1 + d}[config.kl_estimator].clamp(-bound, bound)
                if config.kl_weighted:
                    kl = torch.exp(x[b, t] - anchor[b, t]) * kl
                loss = loss + config.kl_coef * kl
            loss = loss - config.entropy_coef * entropy[b, t]
            total = (
                total
                + {
                    Aggregation.token_mean: loss / num_tokens,
                    Aggregation.seq_mean_token_mean: loss / len(steps) / num_rows,
                    Aggregation.seq_mean_token_sum: loss / num_rows,
                    Aggregation.seq_sum_constant: loss / (num_rows * MAX_NEW_TOKENS),
                }[config.aggregation]
            )
    return total


@pytest.mark.parametrize(("loss", "aggregation"), SETTINGS)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KLKind),
    kl_coef=st.sampled_from([0.0, 0.3]),
    kl_in=st.sampled_from(KLPlace),
    kl_weighted=st.booleans(),
    step_kl_coef=st.sampled_from([0.0, 0.2]),
    entropy_coef=st.sampled_from([0.0, 0.1]),
    level=st.sampled_from(CorrectionLevel),
    mode=st.sampled_from(CorrectionMode),
    anchor=st.sampled_from(Anchor),
    without_old=st.booleans(),
)
def test_twin(loss: str, aggregation: Aggregation, seed: int, without_old: bool, **given_: Any) -> None:
    correction = CorrectionConfig(given_.pop("level"), given_.pop("mode"), low=0.4, high=1.5)
    goal = objective(
        loss=loss,
        aggregation=aggregation,
        clip_high=0.3,
        correction=correction,
        kl_kind=given_.pop("kind"),
        **given_,
    )
    batch = train_batch(seed, without=["old_logprobs"] if without_old else [])
    got, gradient, _ = run(goal, batch, WHOLE)
    x, entropy = policy_logprobs().double().requires_grad_(), policy_logprobs(5).neg().double().requires_grad_()
    expected = slow_loss(goal.config, batch, x, entropy)
    expected.backward()
    assert got == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    slow_gradient = torch.stack([torch.zeros_like(y) if y.grad is None else y.grad for y in (x, entropy)])
    torch.testing.assert_close(gradient.double(), slow_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loss", "aggregation"), SETTINGS)
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3], [4]], [[4, 2], [3], [0, 1]], [[3], [0, 1, 2, 4]]])
def test_any_split_gives_the_same(loss: str, aggregation: Aggregation, parts: list[list[int]]) -> None:
    extras = {"kl_coef": 0.1, "entropy_coef": 0.01, "dual_clip": 3.0, "step_kl_coef": 0.2}
    goal = objective(loss=loss, aggregation=aggregation, **extras)
    whole, split = (run(goal, train_batch(), p) for p in (WHOLE, parts))
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(split[1], whole[1])
    assert split[2].keys() == whole[2].keys()
    for name in whole[2]:
        assert split[2][name] == pytest.approx(whole[2][name], rel=1e-5, abs=1e-7), name
    assert whole[2]["actor/pg_loss"] + 0.1 * whole[2]["actor/kl_loss"] - whole[0] == pytest.approx(
        0.01 * entropy_term(aggregation), rel=1e-3
    )


def entropy_term(aggregation: Aggregation) -> float:
    h, mask = policy_logprobs(5).neg().double().numpy(), MASK
    rows = int(mask.any(1).sum())
    return {
        Aggregation.token_mean: h[mask].mean(),
        Aggregation.seq_mean_token_mean: sum(h[b][mask[b]].mean() for b in range(5) if mask[b].any()) / rows,
        Aggregation.seq_mean_token_sum: h[mask].sum() / rows,
        Aggregation.seq_sum_constant: h[mask].sum() / rows / MAX_NEW_TOKENS,
    }[aggregation]


def test_metrics_by_hand() -> None:
    """Four tokens with ratios 1.5, 0.5, 1, 2, advantage 1, no clip that matters but the upper one."""
    mask = np.array([[False, True, True], [False, True, True]])
    old = np.log(np.array([[1, 0.2, 0.4], [1, 0.5, 0.2]], dtype=np.float32))
    batch = TrainBatch.from_padded(
        tokens=np.ones((2, 3), np.int32),
        lengths=np.array([3, 3], np.int32),
        loss_mask=mask,
        sample_ids=["a", "b"],
        old_logprobs=old,
        rollout_logprobs=old - np.float32(math.log(2)) * np.array([[0, 1, 0], [0, 0, 0]], np.float32),
        ref_logprobs=old,
        advantages=mask.astype(np.float32),
    )
    goal = objective(kl_coef=1.0, kl_kind=KLKind.k1, clip_high=0.2, correction=CorrectionConfig(high=1.5))
    new = torch.log(torch.tensor([[1.0, 0.3, 0.2], [1.0, 0.5, 0.4]]))
    entropy = torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 4.0]])
    loss, metrics = goal.loss(Outputs(new, entropy), TensorBatch.from_train_batch(batch), goal.denominator(batch))
    log = math.log(1.5 * 0.5 * 1 * 2) / 4
    pg = -(1.5 * 1.2 + 0.5 + 1 + 1.2) / 4  # the first token's weight 2 is truncated to 1.5
    assert loss.item() == pytest.approx(pg + log)
    got = M.values(metrics)
    assert got == pytest.approx(
        {
            "actor/pg_loss": pg,
            "actor/kl_loss": log,
            "actor/ppo_kl": -log,
            "actor/pg_clipfrac": 0.5,
            "actor/entropy": 2.5,
            "rollout/kl": -math.log(2) / 4,
            "rollout/k3": (2 - 1 - math.log(2)) / 4,
            "rollout/ess": 5**2 / (4 * 7),
            "rollout/weight": 4.5 / 4,
            "rollout/bounded": 0.25,
            "rollout/max_ratio": 2.0,
        }
    )
    assert metrics["actor/entropy"] == M.Mean(10.0, 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_micro_batch_without_loss_tokens(loss: str) -> None:
    goal = objective(loss=loss, kl_coef=0.1, entropy_coef=0.1)
    empty = TensorBatch.from_train_batch(train_batch().select([3, 0]))
    empty.loss_mask[:] = False
    logprobs = torch.full(empty.tokens.shape, -math.inf, requires_grad=True)
    value, metrics = goal.loss(Outputs(logprobs), empty, 7.0)
    value.backward()
    assert value.item() == 0.0
    assert metrics == {}
    assert logprobs.grad is not None
    assert not logprobs.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_rubbish_outside_the_loss_mask_does_no_harm(loss: str) -> None:
    """A prompt token that the temperature or a mask made impossible has log-prob -inf; it is not trained on."""
    goal = objective(loss=loss, kl_coef=0.1, entropy_coef=0.1)
    tensors = TensorBatch.from_train_batch(train_batch())
    outside = ~tensors.loss_mask
    clean, rubbish = policy_logprobs(), policy_logprobs()
    entropy = torch.ones_like(clean)
    rubbish[outside] = -math.inf
    expected, _ = goal.loss(Outputs(clean, entropy), tensors, 10.0)
    for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs", "advantages"):
        getattr(tensors, name)[outside] = math.nan
    rubbish.requires_grad_()
    got, metrics = goal.loss(Outputs(rubbish, entropy), tensors, 10.0)
    got.backward()
    assert got.item() == expected.item()
    assert rubbish.grad is not None
    assert torch.isfinite(rubbish.grad).all()
    assert all(math.isfinite(v) for v in M.values(metrics).values())


def test_what_the_config_needs_must_be_there() -> None:
    def call(missing: str, entropy: bool = True, **settings: Any) -> None:
        tensors = TensorBatch.from_train_batch(train_batch(without=[missing]))
        objective(**settings).loss(Outputs(policy_logprobs(), policy_logprobs() if entropy else None), tensors, 1.0)

    with pytest.raises(ValueError, match="advantages"):
        call("advantages")
    with pytest.raises(ValueError, match="rollout_logprobs"):
        call("rollout_logprobs")
    with pytest.raises(ValueError, match="ref_logprobs"):
        call("ref_logprobs", kl_coef=0.1)
    with pytest.raises(ValueError, match="entropy"):
        call("values", entropy=False, entropy_coef=0.1)
    call("rollout_logprobs", correction=PLAIN)
    call("ref_logprobs", entropy=False)
    call("ref_logprobs", kl_coef=0.1, kl_in=KLPlace.reward)


def test_no_correction_still_measures_the_mismatch() -> None:
    plain, corrected = (run(objective(correction=c), train_batch(), WHOLE) for c in (PLAIN, CorrectionConfig()))
    assert plain[2]["rollout/kl"] == corrected[2]["rollout/kl"] != 0
    assert plain[0] != corrected[0]


def test_mirror_descent_by_hand() -> None:
    """One response of two tokens that became 1.5 * 0.5 times as likely, advantage 2, and an untouched one."""
    mask = torch.tensor([[False, True, True], [False, True, False]])
    batch = TensorBatch(
        tokens=torch.ones(2, 3, dtype=torch.int64),
        lengths=torch.full((len(mask),), mask.shape[1]),
        loss_mask=mask,
        old_logprobs=torch.zeros(2, 3),
        advantages=torch.tensor([[9.0, 2.0, 2.0], [9.0, -1.0, 9.0]]),
    )
    goal = objective(loss="mdloo", step_kl_coef=0.5, aggregation=Aggregation.seq_mean_token_sum, correction=PLAIN)
    new = torch.log(torch.tensor([[1.0, 1.5, 0.5], [1.0, 1.0, 1.0]]))
    loss, metrics = goal.loss(Outputs(new), batch, 2.0)
    kl = 0.75 * math.log(0.75) - 0.75 + 1
    assert loss.item() == pytest.approx((-0.75 * 2 + 0.5 * kl + 1) / 2)
    got = M.values(metrics)
    assert got["actor/step_kl"] == pytest.approx(2 * kl / 3)
    assert got["actor/ppo_kl"] == pytest.approx(-math.log(0.75) / 3)


@pytest.fixture
def own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(POLICY_LOSSES, "_held", dict(POLICY_LOSSES._held))
    monkeypatch.setattr("sys.path", list(sys.path))


USER_FILE = """
import torch
import rlcore
from rlcore.ops.masking import keep


@rlcore.policy_loss("{name}")
def mine(inputs):
    loss = -keep(inputs.advantages * inputs.logprobs, inputs.mask) * inputs.config.clip_high
    return loss, {{"my_share": 0.25, "kl": torch.tensor(0.5)}}


def narrow(inputs):
    return inputs.logprobs[:, 1:], {{}}
"""


@pytest.mark.usefixtures("own_losses")
def test_a_loss_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses.py").write_text(USER_FILE.format(name="users_own"))
    monkeypatch.chdir(tmp_path)
    by_name = objective(loss="users_own", files=["losses.py"], clip_high=2.0)
    by_path = objective(loss="losses.py:mine", clip_high=2.0)
    plain = run(objective(loss="reinforce"), train_batch(), WHOLE)
    monkeypatch.chdir("/")  # a worker is not where the driver was
    for goal in (by_name, by_path):
        value, _, metrics = run(pickle.loads(pickle.dumps(goal)), train_batch(), [[0, 4], [2, 1], [3]])
        assert value == pytest.approx(2 * plain[0])
        assert (metrics["actor/my_share"], metrics["actor/step_kl"]) == (0.25, 0.5)
    assert find_loss(by_name.config) is find_loss(by_path.config)  # the file was imported once
    with pytest.raises(ValueError, match=r"narrow \(.*losses.py:\d+\) has shape \(5, 5\), .* \(5, 6\)"):
        run(objective(loss=f"{tmp_path}/losses.py:narrow"), train_batch(), WHOLE)


def test_an_unknown_loss() -> None:
    with pytest.raises(RegistryError, match=r"no policy loss is named 'ppo_clap' \(did you mean 'ppo_clip'\?\)"):
        run(objective(loss="ppo_clap"), train_batch(), WHOLE)


@pytest.mark.usefixtures("own_losses")
def test_losses_see_the_reference() -> None:
    seen = []

    @rlcore.policy_loss("looks")
    def look(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(inputs.ref_logprobs)
        return -inputs.logprobs, {}

    run(objective(loss="looks"), train_batch(), WHOLE)
    run(objective(loss="looks"), train_batch(without=["ref_logprobs"]), WHOLE)
    assert [ref is None for ref in seen] == [False, True]


def test_it_is_an_objective_and_travels() -> None:
    goal: Objective = objective()
    copy = pickle.loads(pickle.dumps(goal))
    assert copy == goal
    assert copy.needs_entropy
    assert copy.temperature == 0.7
    assert set(LOSSES) <= set(POLICY_LOSSES.names())


def test_denominators_by_hand() -> None:
    batch = train_batch()
    found = {a: objective(aggregation=a).denominator(batch) for a in Aggregation}
    assert list(found.values()) == [12.0, 4.0, 4.0, 4.0 * MAX_NEW_TOKENS]
    constant = objective(aggregation=Aggregation.seq_sum_constant, aggregation_constant=10.0)
    assert constant.denominator(batch) == 40.0
