import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.shaping import KLController, kl_per_token, overlong_penalty, response_kl
from tests.algorithms.cases import train_batch


def test_overlong_by_hand() -> None:
    """A limit of 100 tokens, a buffer of 20: half of the way in costs half of the penalty."""
    lengths = torch.tensor([0, 80, 81, 90, 100, 105])
    got = overlong_penalty(lengths, 100, 20, 2.0)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx([0, 0, 0.1, 1.0, 2.0, 2.0])
    assert overlong_penalty(lengths, 100, 0, 2.0).tolist() == [0] * 6
    assert overlong_penalty(torch.tensor([50]), 100, 100, 1.0).tolist() == [0.5]


@pytest.mark.parametrize("buffer", [-1, 100.5])
def test_a_buffer_that_does_not_fit(buffer: float) -> None:
    with pytest.raises(ValueError, match="from 0 to max_new_tokens=100"):
        overlong_penalty(torch.tensor([1]), 100, buffer, 1.0)


@given(st.integers(1, 60), st.floats(0.01, 1.0), st.lists(st.integers(0, 80), min_size=1, max_size=8))
def test_overlong_is_the_negative_of_the_papers_reward(limit: int, share: float, lengths: list[int]) -> None:
    cache = share * limit

    def paper(length: int) -> float:  # DAPO, equation 13
        if length <= limit - cache:
            return 0.0
        return ((limit - cache) - length) / cache if length <= limit else -1.0

    got = overlong_penalty(torch.tensor(lengths), limit, cache, 1.0)
    assert got.tolist() == pytest.approx([-paper(n) for n in lengths], abs=1e-9)


def test_kl_per_token_by_hand() -> None:
    mask = torch.tensor([[False, True, True]])
    new, ref = torch.tensor([[-math.inf, -1.0, -0.5]]), torch.tensor([[math.nan, -1.5, -0.25]])
    assert kl_per_token(new, ref, mask, "k1").tolist() == [[0.0, 0.5, -0.25]]
    assert kl_per_token(new, ref, mask, "k2").tolist() == [[0.0, 0.125, 0.03125]]
    k3 = [math.exp(-0.5) - 1 + 0.5, math.exp(0.25) - 1 - 0.25]
    assert kl_per_token(new, ref, mask, "k3").tolist() == [[0.0, *map(pytest.approx, k3)]]


def test_response_kl_counts_responses_and_prefers_the_trainer() -> None:
    batch = train_batch()
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    assert batch.rollout_logprobs is not None
    ref = batch.ref_logprobs.astype(np.float64)
    mask = batch.loss_mask

    def by_hand(sampled: Any) -> float:
        return float((sampled.astype(np.float64) - ref)[mask].sum() / 4)  # of five rows one is padding

    assert response_kl(batch) == pytest.approx(by_hand(batch.old_logprobs))
    assert response_kl(train_batch(without=["old_logprobs"])) == pytest.approx(by_hand(batch.rollout_logprobs))
    assert response_kl(train_batch(without=["ref_logprobs"])) is None
    assert response_kl(batch.select([3])) is None
    assert KLController(AlgorithmConfig(kl_target=1.0)).observe(batch.select([3])) == {}


def test_controller_by_hand() -> None:
    controller = KLController(AlgorithmConfig(kl_coef=0.1, kl_target=6.0, kl_horizon=1000))
    assert controller.update(kl=6.0, num_samples=500) == 0.1
    assert controller.update(kl=6.6, num_samples=500) == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    assert controller.update(kl=600.0, num_samples=500) == pytest.approx(0.105 * (1 + 0.2 * 0.5))
    assert controller.update(kl=-1.0, num_samples=250) == pytest.approx(0.1155 * (1 - 0.2 * 0.25))
    with pytest.raises(ValueError, match="nan"):
        controller.update(math.nan, 1)


@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 10**6)), max_size=20))
def test_the_coefficient_stays_above_zero(steps: list[tuple[float, int]]) -> None:
    controller = KLController(AlgorithmConfig(kl_coef=0.1, kl_target=3.0))
    for kl, num_samples in steps:
        before = controller.coef
        after = controller.update(kl, num_samples)
        assert 0.8 * before <= after * (1 + 1e-12)
        assert after <= 1.2 * before * (1 + 1e-12)
        assert (after - before) * (kl - 3.0) >= 0


def test_it_holds_a_response_to_its_target() -> None:
    """A policy whose KL is 1 / coef settles where that is the target."""
    controller = KLController(AlgorithmConfig(kl_coef=10.0, kl_target=4.0, kl_horizon=1000))
    for _ in range(600):
        controller.update(kl=1 / controller.coef, num_samples=100)
    assert 1 / controller.coef == pytest.approx(4.0, rel=0.01)


def test_observe_measures_and_tells_the_coefficient_that_was_used() -> None:
    batch = train_batch()
    config = AlgorithmConfig(kl_coef=0.1, kl_target=1e-3, kl_horizon=100)
    controller, fixed = KLController(config), KLController(AlgorithmConfig(kl_coef=0.1))
    kl = response_kl(batch)
    assert kl is not None
    got = controller.observe(batch)
    assert M.values(got) == {"reward/kl": pytest.approx(kl), "reward/kl_coef": 0.1}
    assert got["reward/kl"].count == 4
    assert controller.coef == pytest.approx(0.1 * (1 + math.copysign(0.2, kl - 1e-3) * 0.04))
    assert M.values(fixed.observe(batch)) == M.values(got)
    assert fixed.coef == 0.1


def test_state_survives_and_a_fixed_coefficient_is_the_configs() -> None:
    config = AlgorithmConfig(kl_coef=0.1, kl_target=6.0)
    controller = KLController(config)
    controller.update(12.0, 5000)
    again = KLController(config, controller.state_dict())
    assert again.coef == controller.coef != 0.1
    assert KLController(config, {}).coef == 0.1
    assert KLController(AlgorithmConfig(kl_coef=0.5), controller.state_dict()).coef == 0.5
