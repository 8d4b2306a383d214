import dataclasses
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig, Family, Opponent, PreferenceConfig, PreferenceKind
from rlcore.algorithms.preference import PreferenceObjective, select_pairs
from rlcore.data.batching.collate import collate_pairs
from rlcore.objective import Objective, Outputs, TensorBatch
from rlcore.types import Group, Prompt, RewardResult, SampledPair, Status, TrainBatch, Trajectory
from tests.algorithms.cases import train_batch  # with the hypothesis profile of the project

REFERENCE = Opponent.reference


def sample(uid: str, k: int, score: float | None, response: Sequence[int]) -> Trajectory:
    n = len(response)
    return Trajectory(
        uid=uid,
        sample_id=f"{uid}#0.{k}",
        tokens=np.array([1, 2, *response], dtype=np.int32),
        loss_mask=np.array([False, False, *[True] * n]),
        rollout_logprobs=np.array([0.0, 0.0, *[-0.5] * n], dtype=np.float32),
        versions=np.array([-1, -1, *[3] * n], dtype=np.int32),
        num_prompt_tokens=2,
        finish_reason="stop",
        text="",
        reward=RewardResult(math.nan, Status.TIMEOUT) if score is None else RewardResult(score),
    )


def group(uid: str, scores: Sequence[float | None], responses: Sequence[Sequence[int]] | None = None) -> Group:
    """Different responses unless they are given; a score of None is a sample that could not be scored."""
    texts = [[k + 3] for k in range(len(scores))] if responses is None else responses
    rows = [sample(uid, k, score, text) for k, (score, text) in enumerate(zip(scores, texts, strict=True))]
    return Group(Prompt(uid=uid, token_ids=(1, 2), text=uid), rows)


def names(pairs: Sequence[SampledPair]) -> list[tuple[str, str]]:
    return [(chosen.sample_id.split(".")[1], rejected.sample_id.split(".")[1]) for chosen, rejected in pairs]


def only(**counts: int) -> dict[str, int]:
    return dict.fromkeys(["unscorable", "tie", "margin", "unpaired", "identical"], 0) | counts


BY_HAND: list[tuple[list[float | None], dict[str, Any], list[tuple[str, str]], dict[str, int]]] = [
    ([0.2, 0.9, 0.1, 0.5], {}, [("1", "2")], only(unpaired=2)),
    ([0.2, 0.9, 0.1, 0.5], {"pairs_per_prompt": 2}, [("1", "2"), ("3", "0")], only()),
    ([0.2, 0.9, 0.1], {"pairs_per_prompt": 2}, [("1", "2")], only(unpaired=1)),
    # among equals the first sampled ranks highest: the worst is the last sampled of the lowest
    ([1, 0, 1, 0], {"pairs_per_prompt": 9}, [("0", "3"), ("2", "1")], only()),
    ([1, 0, 0, 0], {"pairs_per_prompt": 2}, [("0", "3")], only(tie=2)),
    ([1, 1, 1], {}, [], only(tie=3)),
    ([1, None, 0, None], {}, [("0", "2")], only(unscorable=2)),
    ([None, None], {}, [], only(unscorable=2)),
    ([1], {}, [], only(unpaired=1)),
    ([], {}, [], only()),
    ([0.0, 0.5, 0.25, 1.0], {"min_margin": 0.5, "pairs_per_prompt": 2}, [("3", "0")], only(margin=2)),
    ([0.0, 1.0], {"min_margin": 1.0}, [], only(margin=2)),
    ([0.0, 1.0], {"min_margin": 0.99}, [("1", "0")], only()),
    ([0.0, 0.0, 1.0], {"min_margin": 2.0}, [], only(margin=3)),
    ([-3.0, -1.0], {}, [("1", "0")], only()),
    # the reference's samples are the second half: 0 against 2, 1 against 3
    ([0.3, 0.1, 0.2, 0.9], {"opponent": REFERENCE, "pairs_per_prompt": 2}, [("0", "2"), ("3", "1")], only()),
    ([0.3, 0.1, 0.2, 0.9], {"opponent": REFERENCE}, [("0", "2")], only(unpaired=2)),
    ([0.2, 0.1, 0.2, 0.9], {"opponent": REFERENCE}, [("3", "1")], only(tie=2)),
    ([0.3, 0.1, None, 0.9], {"opponent": REFERENCE}, [("3", "1")], only(unscorable=1, unpaired=1)),
    ([0.3, None, 0.2, None], {"opponent": REFERENCE}, [("0", "2")], only(unscorable=2)),
    ([0.5, 0.1, 0.4, 0.9], {"opponent": REFERENCE, "min_margin": 0.2}, [("3", "1")], only(margin=2)),
]


@pytest.mark.parametrize(("scores", "settings", "expected", "counts"), BY_HAND)
def test_pairs_by_hand(
    scores: list[float | None], settings: dict[str, Any], expected: list[tuple[str, str]], counts: dict[str, int]
) -> None:
    pairs, got = select_pairs([group("a", scores)], PreferenceConfig(**settings))
    assert names(pairs) == expected
    assert got == counts
    for pair in pairs:
        k, j = int(names([pair])[0][0]), int(names([pair])[0][1])
        assert tuple(t.reward.score for t in pair if t.reward) == (scores[k], scores[j])


def test_equal_responses_make_no_pair_and_the_next_candidates_still_may() -> None:
    noisy = group("a", [1.0, 0.8, 0.2, 0.1], [[5, 6], [7], [8], [5, 6]])
    assert names(select_pairs([noisy], PreferenceConfig())[0]) == []
    pairs, counts = select_pairs([noisy], PreferenceConfig(pairs_per_prompt=2))
    assert names(pairs) == [("1", "2")]
    assert counts == only(identical=2)
    across = group("a", [1.0, 0.8, 0.2, 0.1], [[5], [7], [5], [8]])
    pairs, counts = select_pairs([across], PreferenceConfig(opponent=REFERENCE))
    assert names(pairs) == [("1", "3")]
    assert counts == only(identical=2)
    longer = group("a", [1.0, 0.0], [[5], [5, 6]])  # one is the start of the other: they differ
    assert names(select_pairs([longer], PreferenceConfig())[0]) == [("0", "1")]


def test_counts_add_up_over_prompts_and_pairs_keep_the_order_of_the_groups() -> None:
    groups = [group("a", [0, 1, 1]), group("b", [1, 1]), group("c", [None, 0, 2])]
    pairs, counts = select_pairs(groups, PreferenceConfig())
    assert [chosen.uid for chosen, _ in pairs] == ["a", "c"]
    assert counts == only(unpaired=1, tie=2, unscorable=1)
    assert select_pairs(groups, PreferenceConfig()) == (pairs, counts)


def test_a_sample_without_a_trained_token_or_a_reward_is_unscorable() -> None:
    rows = group("a", [1.0, 0.0, 0.5])
    rows.trajectories[0].loss_mask[:] = False
    rows.trajectories[1].reward = None
    assert select_pairs([rows], PreferenceConfig()) == ([], only(unscorable=2, unpaired=1))


def test_what_select_pairs_refuses() -> None:
    with pytest.raises(ValueError, match="prompt a has 3 samples"):
        select_pairs([group("a", [1, 0, 1])], PreferenceConfig(opponent=REFERENCE))
    for score in (math.nan, math.inf):
        for opponent in Opponent:
            with pytest.raises(ValueError, match=r"sample a#0\.1: its score is"):
                select_pairs([group("a", [1.0, score])], PreferenceConfig(opponent=opponent))


def test_the_references_samples_are_marked_on_copies() -> None:
    rows = group("a", [0, 1, 1, 0])
    pairs, _ = select_pairs([rows], PreferenceConfig(opponent=REFERENCE, pairs_per_prompt=2))
    assert names(pairs) == [("2", "0"), ("1", "3")]
    assert [tuple(t.oldest_version for t in pair) for pair in pairs] == [(-1, 3), (3, -1)]
    assert [t.oldest_version for t in rows.trajectories] == [3] * 4
    policy, _ = select_pairs([rows], PreferenceConfig())
    assert [t.oldest_version for t in policy[0]] == [3, 3]


GRID = st.sampled_from([None, -1.0, 0.0, 0.25, 0.5, 1.0])
WORDS = st.sampled_from([(5,), (6,), (5, 6), (5, 5)])
SAMPLES = st.lists(st.tuples(GRID, WORDS), max_size=9)


@given(
    prompts=st.lists(SAMPLES, max_size=4),
    limit=st.integers(1, 4),
    margin=st.sampled_from([0.0, 0.25, 0.3, 1.0]),
    opponent=st.sampled_from(Opponent),
)
def test_samples_in_are_pairs_and_counts_and_no_pair_is_of_equals(
    prompts: list[list[tuple[float | None, tuple[int, ...]]]], limit: int, margin: float, opponent: Opponent
) -> None:
    if opponent is REFERENCE:
        prompts = [rows[: len(rows) // 2 * 2] for rows in prompts]
    groups = [group(str(i), [s for s, _ in rows], [w for _, w in rows]) for i, rows in enumerate(prompts)]
    config = PreferenceConfig(pairs_per_prompt=limit, min_margin=margin, opponent=opponent)
    pairs, counts = select_pairs(groups, config)
    assert sum(len(rows) for rows in prompts) == 2 * len(pairs) + sum(counts.values())
    assert min(counts.values()) >= 0
    assert counts["unscorable"] == sum(score is None for rows in prompts for score, _ in rows)
    used = [t.sample_id for pair in pairs for t in pair]
    assert len(used) == len(set(used))
    for rows in groups:
        own = [pair for pair in pairs if pair[0].uid == rows.prompt.uid]
        assert len(own) <= limit
        scores = [t.reward.score for t in rows.trajectories if t.reward is not None and t.reward.ok]
        if opponent is Opponent.policy and own and not counts["identical"]:
            assert tuple(t.reward.score for t in own[0] if t.reward) == (max(scores), min(scores))
    for chosen, rejected in pairs:
        assert chosen.reward is not None
        assert rejected.reward is not None
        assert chosen.reward.score - rejected.reward.score > margin
        assert chosen.uid == rejected.uid
        assert not np.array_equal(chosen.tokens, rejected.tokens)
        if opponent is REFERENCE:
            half = len(groups[int(chosen.uid)].trajectories) // 2
            places = sorted(int(x) for x in names([(chosen, rejected)])[0])
            assert places[1] == places[0] + half
    if pairs:
        collate_pairs(pairs)  # accepts whatever comes out


# ---- the objective


def pair_batch(seed: int = 0, without: Sequence[str] = ()) -> TrainBatch:
    """Three pairs and a pair of padding; in pairs 0 and 2 the reference sampled the rejected, in 1 the chosen."""
    mask = np.array(
        [
            [0, 0, 1, 1, 1, 0],
            [0, 0, 1, 1, 1, 1],
            [0, 1, 1, 0, 0, 1],  # a gap of tool tokens
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 0],
            [0, 1, 1, 0, 0, 0],
        ],
        dtype=bool,
    )
    rng = np.random.default_rng(seed)
    rows = len(mask)
    base = -rng.uniform(0.1, 2.0, mask.shape)
    arrays: dict[str, Any] = {
        name: (base + 0.5 * rng.normal(size=mask.shape)).astype(np.float32) * mask
        for name in ("rollout_logprobs", "old_logprobs", "ref_logprobs")
    }
    arrays["by_opponent"] = np.array([0, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    arrays["scores"] = rng.normal(size=rows).astype(np.float32)
    batch = TrainBatch.from_padded(
        tokens=rng.integers(1, 9, mask.shape).astype(np.int32),
        lengths=np.array([5, 6, 6, 2, 1, 1, 5, 3], dtype=np.int32),
        loss_mask=mask,
        sample_ids=["a", "b", "c", "d", "", "", "e", "f"],
        rows_per_unit=2,
        **{name: None if name in without else array for name, array in arrays.items()},
    )
    for name in ("tokens", "offsets", "loss_mask", "scores", "by_opponent", *TrainBatch.ARRAYS):
        if (array := getattr(batch, name)) is not None:
            array.setflags(write=False)
    return batch


def policy_logprobs(seed: int = 1) -> Tensor:
    mask = torch.tensor(pair_batch().padded("loss_mask"))
    return -2 * torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) * mask


def objective(**settings: Any) -> PreferenceObjective:
    given: dict[str, Any] = {"label_smoothing": 0.1, "gamma": 0.3, "eta": 0.7, "explore_coef": 0.05} | settings
    config = AlgorithmConfig(family=Family.preference, preference=PreferenceConfig(**given))
    return PreferenceObjective(config, temperature=0.7, max_new_tokens=8)


WHOLE = [list(range(8))]


def run(goal: PreferenceObjective, batch: TrainBatch, parts: list[list[int]]) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, gradient of the log-probs, metrics: summed and merged over micro-batches."""
    logprobs = policy_logprobs().requires_grad_()
    denominator = goal.denominator(batch)
    outs = []
    for rows in parts:
        tensors = TensorBatch.from_train_batch(batch.select(rows))
        width = tensors.tokens.shape[1]
        outputs = Outputs(logprobs[rows, :width], policy_logprobs(5)[rows, :width].neg())
        outs.append(goal.loss(outputs, tensors, denominator))
    total = sum((loss for loss, _ in outs), torch.zeros(()))
    total.backward()
    assert logprobs.grad is not None
    return total.item(), logprobs.grad, M.values(M.merge(m for _, m in outs))


def slow_loss(config: PreferenceConfig, batch: TrainBatch, x: Tensor) -> Tensor:
    """The objective written pair by pair and token by token, in float64."""
    ref, mask = batch.padded("ref_logprobs").astype(np.float64), batch.padded("loss_mask")
    assert batch.scores is not None
    assert batch.by_opponent is not None
    beta, e = config.beta, config.label_smoothing
    losses = []
    for c in range(0, len(batch), 2):
        steps = [np.flatnonzero(mask[row]).tolist() for row in (c, c + 1)]
        if not steps[0]:
            continue
        p = [sum(x[c + i, t] for t in steps[i]) for i in (0, 1)]
        a, b = (p[i] - sum(ref[c + i, t] for t in steps[i]) for i in (0, 1))
        nc, nr = len(steps[0]), len(steps[1])
        win = 1 / (1 + torch.exp(-beta * (a - b)))
        gap = config.eta * (float(batch.scores[c]) - float(batch.scores[c + 1]))
        target = 1 / (1 + math.exp(-gap))
        loss = {
            "dpo": lambda win: -torch.log(win),
            "dpo_norm": lambda win, a=a, b=b, nc=nc, nr=nr: torch.log(1 + torch.exp(-beta * (a / nc - b / nr))),
            "xpo": lambda win: -torch.log(win),
            "cdpo": lambda win: -(1 - e) * torch.log(win) - e * torch.log(1 - win),
            "robust": lambda win: (-(1 - e) * torch.log(win) + e * torch.log(1 - win)) / (1 - 2 * e),
            "ipo": lambda win, a=a, b=b, nc=nc, nr=nr: (a / nc - b / nr - 1 / (2 * beta)) ** 2,
            "ipo_sum": lambda win, a=a, b=b: (a - b - 1 / (2 * beta)) ** 2,
            "hinge": lambda win, a=a, b=b: (1 - beta * (a - b)).clamp(min=0),
            "simpo": lambda win, p=p, nc=nc, nr=nr: torch.log(
                1 + torch.exp(-(beta * p[0] / nc - beta * p[1] / nr - config.gamma))
            ),
            "rpo_sq": lambda win, a=a, b=b, gap=gap: (beta * (a - b) - gap) ** 2,
            "rpo_bwd_kl": lambda win, q=target: q * torch.log(q / win) + (1 - q) * torch.log((1 - q) / (1 - win)),
            "rpo_fwd_kl": lambda win, q=target: win * torch.log(win / q) + (1 - win) * torch.log((1 - win) / (1 - q)),
            "sppo": lambda win, a=a, b=b: (a - 1 / (2 * beta)) ** 2 + (b + 1 / (2 * beta)) ** 2,
        }[config.loss.value](win)
        loss = loss + config.sft_coef * -p[0] / nc
        if config.loss is PreferenceKind.xpo:
            said_by_reference = 0 if batch.by_opponent[c] else 1
            loss = loss + config.explore_coef * p[said_by_reference]
        losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", PreferenceKind)
@given(seed=st.integers(0, 10_000), beta=st.floats(0.05, 2.0), sft_coef=st.sampled_from([0.0, 0.2]))
def test_twin(kind: PreferenceKind, seed: int, beta: float, sft_coef: float) -> None:
    batch = pair_batch(seed)
    goal = objective(loss=kind, beta=beta, sft_coef=sft_coef)
    got, gradient, _ = run(goal, batch, WHOLE)
    x = policy_logprobs().double().requires_grad_()
    expected = slow_loss(goal.config.preference, batch, x)
    expected.backward()
    assert x.grad is not None
    assert got == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(gradient.double(), x.grad, rtol=1e-4, atol=1e-5)


def test_twin_in_float64_is_exact() -> None:
    for kind in PreferenceKind:
        goal, batch = objective(loss=kind, sft_coef=0.2), pair_batch()
        x, y = (policy_logprobs().double().requires_grad_() for _ in range(2))
        tensors = TensorBatch.from_train_batch(batch)
        for name in ("ref_logprobs", "scores"):
            setattr(tensors, name, getattr(tensors, name).double())
        got, _ = goal.loss(Outputs(x), tensors, goal.denominator(batch))
        expected = slow_loss(goal.config.preference, batch, y)
        gradients = torch.autograd.grad(got, x), torch.autograd.grad(expected, y)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


SPLITS = [
    [[0, 1], [2, 3], [4, 5], [6, 7]],
    [[6, 7, 0, 1], [4], [2, 3]],  # a row of padding alone, as a worker's
    [[4, 5, 2, 3], [6, 7, 0, 1]],
    [[0, 1, 2, 3, 6, 7, 4]],  # padding left over at the end
]


@pytest.mark.parametrize("kind", PreferenceKind)
@pytest.mark.parametrize("parts", SPLITS)
def test_any_split_into_whole_pairs_gives_the_same(kind: PreferenceKind, parts: list[list[int]]) -> None:
    goal = objective(loss=kind, sft_coef=0.2)
    whole, split = (run(goal, pair_batch(), p) for p in (WHOLE, parts))
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(split[1], whole[1])
    assert split[2].keys() == whole[2].keys()
    for name in whole[2]:
        assert split[2][name] == pytest.approx(whole[2][name], rel=1e-5, abs=1e-6), name


def test_metrics_by_hand() -> None:
    """Pair 1: a = 1, b = -1; pair 2: a = 0, b = 3 (the wrong way round). beta 1/2; the reference said rows 1 and 2."""
    mask = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=bool)
    policy = np.array([[0, -1, -2], [0, -4, 0], [0, -2, 0], [0, -1, 0]], dtype=np.float32)
    ref = np.array([[0, -2, -2], [0, -3, 0], [0, -2, 0], [0, -4, 0]], dtype=np.float32)
    batch = TrainBatch.from_padded(
        tokens=np.ones((4, 3), np.int32),
        lengths=np.array([3, 2, 2, 2], np.int32),
        loss_mask=mask,
        sample_ids=list("abcd"),
        rollout_logprobs=(
            policy - math.log(2) * np.array([[0, 1, 0], [0, 9, 0], [0, 9, 0], [0, 0, 0]])
        ).astype(np.float32),
        ref_logprobs=ref,
        by_opponent=np.array([False, True, True, False]),
        scores=np.array([1, 0, 1, 0], np.float32),
        rows_per_unit=2,
    )
    goal = objective(loss=PreferenceKind.xpo, beta=0.5, explore_coef=0.1, sft_coef=0.2)
    entropy = torch.tensor([[9.0, 1, 2], [9, 3, 9], [9, 4, 9], [9, 5, 9]])
    assert goal.denominator(batch) == 2
    loss, metrics = goal.loss(Outputs(torch.tensor(policy), entropy), TensorBatch.from_train_batch(batch), 2.0)
    dpo = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1.5))) / 2
    assert loss.item() == pytest.approx(dpo + 0.2 * (1.5 + 2) / 2 + 0.1 * (-4 - 2) / 2)
    assert M.values(metrics) == pytest.approx(
        {
            "actor/pref_loss": dpo,
            "actor/sft_loss": 1.75,
            "actor/opponent_logps": -3.0,
            "actor/pref_accuracy": 0.5,
            "actor/pref_margin": (1 - 1.5) / 2,
            "actor/chosen_reward": 0.25,
            "actor/rejected_reward": 0.5,
            "actor/chosen_logps": -2.5,
            "actor/rejected_logps": -2.5,
            "actor/entropy": 3.0,
            # of the policy's own three tokens: one ratio of 2, two of 1
            "rollout/kl": -math.log(2) / 3,
            "rollout/k3": (2 - 1 - math.log(2)) / 3,
            "rollout/ess": 4**2 / (3 * 6),
            "rollout/weight": 4 / 3,
            "rollout/bounded": 0.0,
            "rollout/max_ratio": 2.0,
        },
        rel=1e-5,
    )
    assert metrics["actor/pref_accuracy"] == M.Mean(1.0, 2)
    assert metrics["actor/entropy"] == M.Mean(15.0, 5)


def test_implicit_rewards_are_those_that_the_loss_compares() -> None:
    batch, x = pair_batch(), policy_logprobs().double()
    ref = torch.tensor(batch.padded("ref_logprobs")).double()
    rows, lengths = [0, 2, 6], torch.tensor(batch.loss_counts)
    expected = {
        PreferenceKind.dpo: (x - ref).sum(1)[rows],
        PreferenceKind.ipo_sum: (x - ref).sum(1)[rows],
        PreferenceKind.ipo: ((x - ref).sum(1) / lengths)[rows],
        PreferenceKind.simpo: (x.sum(1) / lengths)[rows],
    }
    for kind, ratio in expected.items():
        _, _, metrics = run(objective(loss=kind, beta=0.3), batch, WHOLE)
        assert metrics["actor/chosen_reward"] == pytest.approx(0.3 * ratio.mean().item(), rel=1e-5), kind


def test_the_bonus_lowers_what_the_reference_says_and_leaves_the_rest() -> None:
    """The gradient is DPO's, plus alpha / pairs on the reference's tokens, chosen or rejected."""
    batch = pair_batch()
    xpo, dpo = (run(objective(loss=PreferenceKind(kind)), batch, WHOLE)[1] for kind in ("xpo", "dpo"))
    assert batch.by_opponent is not None
    of_reference = batch.padded("loss_mask") & batch.by_opponent[:, None]
    torch.testing.assert_close(xpo - dpo, torch.tensor(of_reference).float() * 0.05 / 3)
    assert of_reference[2].any()
    assert of_reference[7].any()


def test_from_samples_to_the_loss() -> None:
    groups = [group("a", [0, 1, 1, 0], [[5], [6, 7], [8], [9]]), group("b", [1, 1]), group("c", [0.5, 1])]
    config = PreferenceConfig(loss=PreferenceKind.xpo, opponent=REFERENCE, pairs_per_prompt=2)
    pairs, counts = select_pairs(groups, config)
    assert counts == only(tie=2)
    batch = collate_pairs(pairs)
    np.testing.assert_array_equal(batch.by_opponent, [True, False, False, True, True, False])
    goal = PreferenceObjective(AlgorithmConfig(family=Family.preference, preference=config), 1.0, 4)
    assert isinstance(goal.denominator(batch), float)
    assert goal.denominator(batch) == 3
    zeros = np.zeros(batch.tokens.shape, np.float32)
    tensors = TensorBatch.from_train_batch(batch.with_arrays(ref_logprobs=zeros))
    loss, metrics = goal.loss(Outputs(torch.zeros(tensors.tokens.shape)), tensors, 3.0)
    assert loss.item() == pytest.approx(math.log(2))  # policy and reference agree
    assert M.values(metrics)["actor/pref_accuracy"] == 0  # a draw is no win


@pytest.mark.parametrize("kind", PreferenceKind)
def test_a_micro_batch_without_loss_tokens(kind: PreferenceKind) -> None:
    goal = objective(loss=kind, sft_coef=0.1)
    for rows in ([4], [4, 5]):
        empty = TensorBatch.from_train_batch(pair_batch().select(rows))
        logprobs = torch.full(empty.tokens.shape, -math.inf, requires_grad=True)
        value, metrics = goal.loss(Outputs(logprobs), empty, 7.0)
        value.backward()
        assert value.item() == 0.0
        assert metrics == {}
        assert logprobs.grad is not None
        assert not logprobs.grad.any()
    assert goal.denominator(pair_batch().select([4, 5])) == 0
    assert goal.denominator(pair_batch().select([])) == 0


@pytest.mark.parametrize("kind", PreferenceKind)
def test_rubbish_outside_the_loss_mask_does_no_harm(kind: PreferenceKind) -> None:
    goal = objective(loss=kind, sft_coef=0.1)
    tensors = TensorBatch.from_train_batch(pair_batch())
    outside = ~tensors.loss_mask
    clean, rubbish = policy_logprobs(), policy_logprobs()
    expected, _ = goal.loss(Outputs(clean), tensors, 3.0)
    rubbish[outside] = -math.inf
    for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs"):
        getattr(tensors, name)[outside] = math.nan
    assert tensors.scores is not None
    tensors.scores[4:6] = math.nan  # rewards of padding
    rubbish.requires_grad_()
    got, metrics = goal.loss(Outputs(rubbish, torch.where(outside, math.nan, 1.0)), tensors, 3.0)
    got.backward()
    assert got.item() == expected.item()
    assert rubbish.grad is not None
    assert torch.isfinite(rubbish.grad).all()
    assert not rubbish.grad[outside].any()
    assert all(math.isfinite(v) for v in M.values(metrics).values())


def test_a_batch_without_the_samplers_logprobs_has_no_mismatch() -> None:
    _, _, metrics = run(objective(), pair_batch(without=["rollout_logprobs"]), WHOLE)
    assert not [name for name in metrics if name.startswith("rollout/")]
    _, _, metrics = run(objective(), pair_batch(without=["by_opponent"]), WHOLE)  # all are the policy's
    old, rollout = (torch.tensor(getattr(pair_batch(), name)) for name in ("old_logprobs", "rollout_logprobs"))
    mask = torch.tensor(pair_batch().loss_mask)
    assert metrics["rollout/kl"] == pytest.approx((rollout - old)[mask].mean().item(), rel=1e-4)


def test_what_the_config_needs_must_be_there() -> None:
    def call(missing: str, kind: PreferenceKind) -> None:
        tensors = TensorBatch.from_train_batch(pair_batch(without=[missing]))
        objective(loss=kind).loss(Outputs(policy_logprobs()), tensors, 3.0)

    for kind in set(PreferenceKind) - {PreferenceKind.simpo}:
        with pytest.raises(ValueError, match="needs ref_logprobs"):
            call("ref_logprobs", kind)
    for kind in (PreferenceKind.rpo_sq, PreferenceKind.rpo_fwd_kl, PreferenceKind.rpo_bwd_kl):
        with pytest.raises(ValueError, match="needs scores"):
            call("scores", kind)
    with pytest.raises(ValueError, match="needs by_opponent"):
        call("by_opponent", PreferenceKind.xpo)
    call("ref_logprobs", PreferenceKind.simpo)
    call("scores", PreferenceKind.dpo)
    call("by_opponent", PreferenceKind.dpo)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [0, 2, 4, 1], [1, 4]])
def test_half_a_pair_is_refused(rows: list[int]) -> None:
    micro = pair_batch().select(rows)
    if rows == [0, 2, 4, 1]:  # two chosen ones look like a pair; padding beside a response does not
        assert objective().denominator(micro.select([0, 1])) == 1
    with pytest.raises(ValueError, match="half a pair"):
        objective().denominator(micro)
    outputs = Outputs(policy_logprobs()[rows, : micro.lengths.max()])
    with pytest.raises(ValueError, match="half a pair"):
        objective().loss(outputs, TensorBatch.from_train_batch(micro), 1.0)


def test_it_is_an_objective_and_travels() -> None:
    goal: Objective = objective(loss=PreferenceKind.ipo)
    assert pickle.loads(pickle.dumps(goal)) == goal
    assert goal.temperature == 0.7
    assert goal.needs_entropy
    with pytest.raises(dataclasses.FrozenInstanceError):
        goal.temperature = 1.0  # type: ignore[misc]
    assert goal.denominator(train_batch().select([3])) == 0
