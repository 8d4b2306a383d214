"""Credit: from scored groups to advantages (and returns) of every trained token, for every member of the family."""

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

import rlcore
from rlcore import metrics as M
from rlcore.algorithms.advantages import AdvantageInputs, find_advantage
from rlcore.algorithms.config import AlgorithmConfig, Baseline, Family, KLKind, KLPlace, Scale
from rlcore.algorithms.policy_gradient import PolicyGradientObjective, credit
from rlcore.algorithms.shaping import response_kl
from rlcore.data.batching.collate import collate
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops import policy_losses
from rlcore.registry import ADVANTAGES, RegistryError
from tests.algorithms.cases import group
from tests.algorithms.scenes import LIMIT, Scores, advantages, per_row, scene, trained_steps

# ---- group


def test_group_by_hand() -> None:
    scores = [[1.0, 0.0, None, 0.5], [2.0, 2.0], [None, 3.0]]
    assert per_row(scores, scale=Scale.none) == [0.5, -0.5, 0, 0, 0, 0, 0, 0]
    assert per_row(scores, baseline=Baseline.leave_one_out, scale=Scale.none) == [0.75, -0.75, 0, 0, 0, 0, 0, 0]
    assert per_row(scores) == pytest.approx([1, -1, 0, 0, 0, 0, 0, 0], abs=1e-5)
    assert per_row(scores, baseline=Baseline.none, scale=Scale.none) == [1, 0, 0, 0.5, 2, 2, 0, 3]


@pytest.mark.parametrize(("baseline", "scale"), list(itertools.product(Baseline, Scale)))
def test_every_config_value_is_known_to_the_op(baseline: Baseline, scale: Scale) -> None:
    better, worse = per_row([[1.0, 0.0]], baseline=baseline, scale=scale)
    assert better > worse


def test_the_same_prompt_twice_is_two_groups() -> None:
    groups, _ = scene([[1.0, 0.0], [5.0, 5.0]])
    for index, g in enumerate(groups):
        g.prompt = groups[0].prompt
        for t in g.trajectories:
            t.uid, t.sample_id = "0", f"0#{index}.{t.sample_id[-1]}"
    batch = collate([t for g in groups for t in g.trajectories])
    out, _ = credit(groups, batch, AlgorithmConfig(scale=Scale.none), 0.0, LIMIT)
    assert out.advantages is not None
    assert out.padded("advantages").max(1).tolist() == [0.5, 0, 0, 0]
    assert out.padded("advantages").min(1).tolist() == [0, -0.5, 0, 0]


def test_a_sample_without_a_trained_token_still_belongs_to_its_group() -> None:
    groups, _ = scene([[1.0, 0.0, 0.5]])
    groups[0].trajectories[1].loss_mask[:] = False
    batch = collate(groups[0].trajectories)
    out, _ = credit(groups, batch, AlgorithmConfig(scale=Scale.none, baseline=Baseline.leave_one_out), 0.0, LIMIT)
    assert out.advantages is not None
    assert out.padded("advantages").max(1).tolist() == pytest.approx([0.75, 0, 0])


# ---- the KL in the reward, and length


def test_kl_in_the_reward_by_hand() -> None:
    """Two responses of two tokens; the first went 0.5 and -0.25 nats from the reference, the second not at all."""
    groups = [group("a", [1.0, 0.0])]
    for t in groups[0].trajectories:
        t.tokens, t.loss_mask = np.array([1, 2, 3, 4], np.int32), np.array([False, False, True, True])
        t.rollout_logprobs, t.versions = np.zeros(4, np.float32), np.zeros(4, np.int32)
    ref = np.full((2, 4), -1.0, np.float32)
    old = ref + np.array([[9, 9, 0.5, -0.25], [0, 0, 0, 0]], np.float32)
    batch = collate(groups[0].trajectories).with_arrays(old_logprobs=old.ravel(), ref_logprobs=ref.ravel())
    kl = {"kl_coef": 7.0, "kl_in": KLPlace.reward, "kl_kind": KLKind.k1}

    def run(kl_coef: float, **settings: Any) -> tuple[list[list[float]], dict[str, float]]:
        out, metrics = credit(groups, batch, AlgorithmConfig(**kl, **settings), kl_coef, LIMIT)
        assert out.advantages is not None
        return out.padded("advantages")[:, 2:].tolist(), M.values(metrics)

    got, metrics = run(0.2, advantage="returns")  # the controller's coefficient, not the config's
    assert got == [pytest.approx([1 - 0.1 + 0.05, 1 + 0.05]), [0, 0]]
    assert metrics["reward/kl_penalty"] == pytest.approx(0.2 * 0.25 / 2)
    assert run(0.2, advantage="returns", gamma=0.5)[0][0] == pytest.approx([-0.1 + 0.5 * 1.05, 1.05])
    rloo, _ = run(0.2, baseline=Baseline.leave_one_out, scale=Scale.none)
    assert rloo == [pytest.approx([0.95, 0.95]), pytest.approx([-0.95, -0.95])]
    loss, metrics = credit(groups, batch, AlgorithmConfig(kl_coef=0.2, scale=Scale.none), 0.2, LIMIT)
    assert loss.advantages is not None
    assert loss.padded("advantages")[:, 2].tolist() == [0.5, -0.5]  # the term of the loss does not touch the reward
    assert "reward/kl_penalty" not in metrics


@pytest.mark.parametrize("missing", ["old_logprobs", "ref_logprobs"])
def test_kl_in_the_reward_needs_both_log_probs(missing: str) -> None:
    groups, batch = scene([[1.0, 0.0]], without=[missing])
    with pytest.raises(ValueError, match=missing):
        credit(groups, batch, AlgorithmConfig(kl_coef=0.1, kl_in=KLPlace.reward), 0.1, LIMIT)
    credit(groups, batch, AlgorithmConfig(kl_coef=0.1), 0.1, LIMIT)


def test_overlong_responses_are_punished_before_the_baseline() -> None:
    groups = [group("a", [1.0, 1.0, 1.0, None])]
    for t, length in zip(groups[0].trajectories, (4, 6, 8, 8), strict=True):
        t.tokens, t.loss_mask = np.ones(2 + length, np.int32), np.array([False, False] + [True] * length)
        t.rollout_logprobs, t.versions = np.zeros(2 + length, np.float32), np.zeros(2 + length, np.int32)
    batch = collate(groups[0].trajectories)
    config = AlgorithmConfig(scale=Scale.none, overlong_buffer=0.5, overlong_penalty=2.0)
    out, metrics = credit(groups, batch, config, 0.0, LIMIT)  # scores 1, 0, -1: the last 4 of 8 tokens cost 2
    assert out.advantages is not None
    assert out.padded("advantages")[:, 3].tolist() == [1, 0, -1, 0]
    assert M.values(metrics)["reward/overlong"] == pytest.approx(1.0)
    assert "reward/overlong" not in credit(groups, batch, AlgorithmConfig(), 0.0, LIMIT)[1]


def test_the_mdloo_preset_is_the_op() -> None:
    """Advantages and loss by name against `ops.policy_losses.mdloo`, which makes both itself."""
    groups, batch = scene([[1.0, 0.0, 0.25], [0.5, None, 0.1]])
    config = AlgorithmConfig(
        loss="mdloo", baseline=Baseline.leave_one_out, scale=Scale.none, kl_coef=0.3, kl_in=KLPlace.reward,
        kl_kind=KLKind.k1, step_kl_coef=0.2,
    )  # fmt: skip
    credited, _ = credit(groups, batch, config, config.kl_coef, LIMIT)
    t = TensorBatch.from_train_batch(credited)
    assert t.old_logprobs is not None
    assert t.ref_logprobs is not None
    assert t.advantages is not None
    valid = torch.tensor([True, True, True, True, False, True])
    new = t.old_logprobs + 0.1 * torch.randn(t.tokens.shape, generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([1.0, 0.0, 0.25, 0.5, math.nan, 0.1])
    ids = torch.tensor([0, 0, 0, 1, 1, 1])
    expected, _ = policy_losses.mdloo(new, t.old_logprobs, t.ref_logprobs, rewards, ids, t.loss_mask, 0.3, 0.2, valid)
    t.loss_mask &= valid[:, None]  # where the op has no reward, it has no loss
    adv = (t.advantages * t.loss_mask).sum(1) / t.loss_mask.sum(1).clamp(min=1)
    got, _ = policy_losses.mirror_descent(new, t.old_logprobs, adv, t.loss_mask, 0.2)
    torch.testing.assert_close(got, expected)


# ---- gae and returns


def test_gae_by_hand() -> None:
    """Two tokens, values 0.5 and 0.25, score 1, gamma 0.9, lambda 0.5."""
    groups = [group("a", [1.0])]
    t = groups[0].trajectories[0]
    t.tokens, t.loss_mask = np.array([1, 2, 3, 4], np.int32), np.array([False, False, True, True])
    t.rollout_logprobs, t.versions = np.zeros(4, np.float32), np.zeros(4, np.int32)
    batch = collate([t]).with_arrays(values=np.array([9, 9, 0.5, 0.25], np.float32))
    out, metrics = credit(groups, batch, AlgorithmConfig(advantage="gae", gamma=0.9, lam=0.5), 0.0, LIMIT)
    assert out.advantages is not None
    assert out.returns is not None
    last, first = 0.75, 0.9 * 0.25 - 0.5 + 0.45 * 0.75
    assert out.advantages.tolist() == pytest.approx([0, 0, first, last])
    assert out.returns.tolist() == pytest.approx([0, 0, first + 0.5, 1.0])
    assert M.values(metrics) == pytest.approx(
        {
            "critic/advantages/mean": (first + last) / 2,
            "critic/advantages/min": first,
            "critic/advantages/max": last,
            "critic/returns/mean": (first + 1.5) / 2,
        }
    )


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 1), lam=st.floats(0, 1), kl_coef=st.sampled_from([0.0, 0.2]))
def test_gae_and_returns_twin(seed: int, gamma: float, lam: float, kl_coef: float) -> None:
    """One row at a time in float64: the reward of every token, then the sums of the papers, over action tokens."""
    scores: Scores = [[0.5, 1.0], [0.0, 0.25, None]]
    kl = {"kl_coef": kl_coef, "kl_in": KLPlace.reward, "kl_kind": KLKind.k3, "gamma": gamma}
    got_gae, batch = advantages(scores, seed, advantage="gae", lam=lam, **kl)
    got_returns, _ = advantages(scores, seed, advantage="returns", **kl)
    old, ref, values = (batch.padded(n).astype(np.float64) for n in ("old_logprobs", "ref_logprobs", "values"))
    for b, (steps, score) in enumerate(zip(trained_steps(batch), itertools.chain(*scores), strict=True)):
        if score is None:
            assert not got_gae[b].any()
            assert not got_returns[b].any()
            continue
        d = [old[b, t] - ref[b, t] for t in steps]
        rewards = [-kl_coef * (math.exp(-x) - 1 + x) for x in d]
        rewards[-1] += score
        v = [values[b, t] for t in steps] + [0.0]
        delta = [rewards[i] + gamma * v[i + 1] - v[i] for i in range(len(steps))]
        n = len(steps)
        slow_gae = [sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, n)) for i in range(n)]
        slow_returns = [sum(gamma ** (j - i) * rewards[j] for j in range(i, n)) for i in range(n)]
        assert got_gae[b, steps].tolist() == pytest.approx(slow_gae, abs=1e-6)
        assert got_returns[b, steps].tolist() == pytest.approx(slow_returns, abs=1e-6)
        assert batch.returns is not None
        targets = [a + x for a, x in zip(slow_gae, v[:-1], strict=True)]
        assert batch.padded("returns")[b, steps].tolist() == pytest.approx(targets, abs=1e-6)


def test_the_critic_learns_nothing_of_an_unscorable_sample() -> None:
    _, out = advantages([[None, 1.0]], advantage="gae")
    assert out.returns is not None
    assert out.values is not None
    mask, row = out.loss_mask, np.repeat([0, 1], out.lengths)
    first, second = mask & (row == 0), mask & (row == 1)
    np.testing.assert_array_equal(out.returns[first], out.values[first])
    assert (out.returns[second] != out.values[second]).all()
    assert not out.returns[~mask].any()


def test_gae_needs_values() -> None:
    groups, batch = scene([[1.0]], without=["values"])
    with pytest.raises(ValueError, match="advantage=gae needs values"):
        credit(groups, batch, AlgorithmConfig(advantage="gae"), 0.0, LIMIT)
    assert credit(groups, batch, AlgorithmConfig(advantage="returns"), 0.0, LIMIT)[0].returns is None


# ---- what all share


@pytest.mark.parametrize("name", ["group", "gae", "returns", "nash_md"])
def test_whitening_is_over_the_trained_tokens_of_scored_samples(name: str) -> None:
    scores: Scores = [[1.0, 0.0, None], [0.2, 0.5]]
    raw, batch = advantages(scores, advantage=name, scale=Scale.none)
    got, _ = advantages(scores, advantage=name, scale=Scale.none, whiten=True)
    trained = batch.padded("loss_mask")
    trained[2] = False
    x = raw[trained].astype(np.float64)
    np.testing.assert_allclose(got[trained], (x - x.mean()) / math.sqrt(x.var() + 1e-8), rtol=1e-5, atol=1e-6)
    assert not got[~trained].any()


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.sampled_from(["group", "gae", "returns", "nash_md"]),
    st.sampled_from(KLPlace),
)
def test_groups_may_come_in_any_order(scores: Scores, seed: int, name: str, place: KLPlace) -> None:
    groups, batch = scene(scores, seed)
    config = AlgorithmConfig(advantage=name, kl_coef=0.1, kl_in=place, whiten=True, overlong_buffer=0.5)
    starts = np.cumsum([0, *(len(g.trajectories) for g in groups)])
    order = [b for i in reversed(range(len(groups))) for b in range(starts[i], starts[i + 1])]
    one, _ = credit(groups, batch, config, 0.1, LIMIT)
    other, _ = credit(groups[::-1], batch.select(order), config, 0.1, LIMIT)
    assert one.advantages is not None
    assert other.advantages is not None
    np.testing.assert_allclose(other.advantages, one.select(order).advantages, atol=1e-5)
    assert np.isfinite(one.advantages).all()


def test_metrics_by_hand() -> None:
    groups, batch = scene([[1.0, 0.0, None]])
    _, metrics = credit(groups, batch, AlgorithmConfig(scale=Scale.none), 0.0, LIMIT)
    good, bad = (int(n) for n in batch.loss_counts[:2])
    assert M.values(metrics) == pytest.approx(
        {
            "critic/advantages/mean": 0.5 * (good - bad) / (good + bad),
            "critic/advantages/min": -0.5,
            "critic/advantages/max": 0.5,
        }
    )


def test_rows_and_groups_must_agree() -> None:
    groups, batch = scene([[1.0, 0.0], [0.5]])
    for wrong in (groups[:1], groups[::-1]):
        with pytest.raises(ValueError, match="are not the 3 rows of the batch"):
            credit(wrong, batch, AlgorithmConfig(), 0.0, LIMIT)


@pytest.fixture
def own_advantages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(ADVANTAGES, "_held", dict(ADVANTAGES._held))
    monkeypatch.setattr("sys.path", list(sys.path))


@pytest.mark.usefixtures("own_advantages")
def test_an_advantage_of_the_users_own(tmp_path: Path) -> None:
    code = "import rlcore\n@rlcore.advantage('the_score')\ndef the_score(x):\n    "
    code += "return x.spread(x.scores * x.config.kl_coef)\n"
    (tmp_path / "mine.py").write_text(code)
    settings = {"advantage": "the_score", "files": [str(tmp_path / "mine.py")]}
    assert per_row([[1.0, None, 0.5]], kl_coef=2.0, **settings) == [2.0, 0.0, 1.0]
    assert find_advantage(AlgorithmConfig(advantage=f"{tmp_path}/mine.py:the_score")) is ADVANTAGES.get("the_score")


def test_an_unknown_advantage() -> None:
    with pytest.raises(RegistryError, match=r"'groups' \(did you mean 'group'\?\); registered: group, gae, returns"):
        advantages([[1.0]], advantage="groups")


@pytest.mark.usefixtures("own_advantages")
def test_what_an_advantage_may_return() -> None:
    """A number for every token or one for every row, and the helpers for both."""

    @rlcore.advantage("of_rows")
    def of_rows(inputs: AdvantageInputs) -> Tensor:
        return inputs.row_sums(inputs.token_rewards)

    @rlcore.advantage("of_tokens")
    def of_tokens(inputs: AdvantageInputs) -> Tensor:
        return inputs.spread(inputs.row_sums(inputs.discounted_sums(inputs.token_rewards, 0.0)))

    scores: Scores = [[1.0, 0.5], [0.25, None]]
    assert per_row(scores, advantage="of_rows") == per_row(scores, advantage="of_tokens") == [1.0, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("place", KLPlace)
@pytest.mark.parametrize("name", ["group", "gae", "returns", "nash_md"])
def test_long_samples_are_credited_a_few_rows_at_a_time(
    name: str, place: KLPlace, whiten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, batch = scene([[1.0, 0.0, None, 0.3], [0.5, 0.7], [0.1]])
    config = AlgorithmConfig(advantage=name, kl_coef=0.1, kl_in=place, whiten=whiten)
    whole, expected = credit(groups, batch, config, 0.1, LIMIT)
    kl = response_kl(batch)
    monkeypatch.setattr("rlcore.ragged.CHUNK", 9)
    assert len(list(batch.chunks())) > 3
    parts, metrics = credit(groups, batch, config, 0.1, LIMIT)
    for found, wanted in ((parts.advantages, whole.advantages), (parts.returns, whole.returns)):
        assert (found is None) == (wanted is None)
        if found is not None:
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
    assert M.values(metrics) == pytest.approx(M.values(expected), rel=1e-12, abs=1e-12)
    assert response_kl(batch) == pytest.approx(kl, rel=1e-12)


@pytest.mark.usefixtures("own_advantages")
def test_what_an_advantage_may_not_return() -> None:
    @rlcore.advantage("narrow")
    def narrow(inputs: AdvantageInputs) -> Tensor:
        return inputs.scores[1:]

    @rlcore.advantage("infinite")
    def infinite(inputs: AdvantageInputs) -> Tensor:
        return 1 / (inputs.token_rewards * 0)

    @rlcore.advantage("rubbish_outside")
    def rubbish_outside(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
        rubbish = torch.where(inputs.mask, 1.0, math.nan)
        return rubbish, rubbish

    shape = r"have shape \(1,\), the batch has 2 rows of \d+ tokens"
    with pytest.raises(ValueError, match=rf"narrow \(.*test_advantages.py:\d+\) {shape}"):
        advantages([[1.0, 0.0]], advantage="narrow")
    with pytest.raises(ValueError, match=r"infinite \(.*test_advantages.py:\d+\) are not finite in row 0"):
        advantages([[1.0, 0.0]], advantage="infinite")
    got, out = advantages([[1.0, 0.0]], advantage="rubbish_outside")
    assert out.returns is not None
    assert set(got[out.padded("loss_mask")].tolist()) == set(out.returns[out.loss_mask].tolist()) == {1.0}


def presets() -> list[AlgorithmConfig]:
    schema = OmegaConf.structured(AlgorithmConfig)
    files = sorted(Path(__file__).parents[2].glob("conf/algorithm/*.yaml"))
    configs: list[Any] = [OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(path))) for path in files]
    return [config for config in configs if config.family is Family.policy_gradient]


@pytest.mark.parametrize("config", presets(), ids=lambda config: config.name)
def test_every_preset_of_the_family_credits_and_trains(config: AlgorithmConfig) -> None:
    groups, batch = scene([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    out, _ = credit(groups, batch, config, config.kl_coef, LIMIT)
    assert (out.returns is not None) == config.needs_critic
    goal = PolicyGradientObjective(config, 1.0, LIMIT)
    tensors = TensorBatch.from_train_batch(out)
    assert tensors.old_logprobs is not None
    x = tensors.old_logprobs.clone().requires_grad_()
    loss, metrics = goal.loss(Outputs(x, torch.ones_like(x)), tensors, goal.denominator(out))
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~tensors.loss_mask].any()
    # on policy, without a KL term in the loss, a better response becomes likelier
    if not (config.kl_coef and config.kl_in is KLPlace.loss):
        assert out.advantages is not None
        assert (-x.grad[tensors.loss_mask] * tensors.advantages[tensors.loss_mask] >= 0).all()
    assert ("actor/kl_loss" in metrics) == (config.kl_coef > 0 and config.kl_in is KLPlace.loss)
