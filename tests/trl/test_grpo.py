"""GRPO and its kin against TRL's GRPOTrainer: its own batch preparation and its own loss, on the same samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from rlcore.algorithms.config import (
    Aggregation,
    AlgorithmConfig,
    CorrectionConfig,
    CorrectionLevel,
    CorrectionMode,
)
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.metrics import values
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops.advantages import group_advantages
from rlcore.ops.logprobs import token_logprobs
from rlcore.ops.mismatch import importance_weights
from rlcore.types import TrainBatch
from tests.trl import tiny

TEMPERATURE, MAX_NEW_TOKENS, GROUP = 0.8, 6, 4
PROMPTS = ["ab", "cdefg", "h a"]
GROUP_IDS = torch.arange(len(PROMPTS)).repeat_interleave(GROUP)
PLAIN = CorrectionConfig(level=CorrectionLevel.none)
AGGREGATIONS = {
    "grpo": Aggregation.seq_mean_token_mean,
    "dapo": Aggregation.token_mean,
    "bnpo": Aggregation.token_mean,
    "dr_grpo": Aggregation.seq_sum_constant,
    "cispo": Aggregation.token_mean,
}


def samples(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions of one to six tokens, half of them cut off, with gaps of tool tokens and a sampler's log-probs."""
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    tokenizer = tiny.tokenizer()
    prompt_ids = [tokenizer(p)["input_ids"] for p in prompts]
    completions, gaps, logprobs = [], [], []
    for i in range(len(prompts)):
        length = MAX_NEW_TOKENS if i % 2 else int(rng.integers(1, MAX_NEW_TOKENS + 1))
        ids = rng.integers(tiny.FIRST, tiny.VOCABULARY, length).tolist()
        completions.append(ids if i % 2 else [*ids[:-1], tiny.EOS])
        gaps.append([int(not (i % 3 == 0 and 1 <= t <= 2)) for t in range(length)])
        tokens = torch.tensor([prompt_ids[i] + completions[-1]])
        with torch.no_grad():
            exact = token_logprobs(trainer.model(input_ids=tokens).logits, tokens, TEMPERATURE)[0, -length:]
        logprobs.append((exact + 0.4 * torch.randn(length, generator=noise)).tolist())
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": logprobs, "env_mask": gaps}


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Group 0 has a sample without a score, group 1 two values, group 2 several."""
    scores = [1.0, None, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.25, -2.0, 3.0, 0.125]
    assert len(completion_ids) == len(scores)
    return scores  # type: ignore[return-value]


SCORES = torch.tensor([np.nan if s is None else s for s in rewards([[]] * 12)])


@dataclass
class Side:
    trainer: Any
    inputs: dict[str, Tensor]
    batch: TrainBatch  # the same samples; old, reference and rollout log-probs by rlcore

    def theirs(self, accumulation: int = 1, rows: slice = slice(None)) -> Tensor:
        self.trainer.current_gradient_accumulation_steps = accumulation
        inputs = {k: v[rows] if v.dim() else v for k, v in self.inputs.items()}
        return self.trainer.compute_loss(self.trainer.model, inputs)

    def ours(self, batch: TrainBatch | None = None, **settings: Any) -> tuple[Tensor, dict[str, float]]:
        settings = {"correction": PLAIN, "loss": "ppo_clip", "kl_clamp": None} | settings  # TRL has no bound
        goal = PolicyGradientObjective(AlgorithmConfig(**settings), TEMPERATURE, MAX_NEW_TOKENS)
        batch = batch or self.batch
        logprobs, entropy = tiny.forward(self.trainer.model, batch, goal.temperature)
        tensors = TensorBatch.from_train_batch(batch)
        loss, metrics = goal.loss(Outputs(logprobs, entropy), tensors, goal.denominator(batch))
        return loss, values(metrics)

    def assert_equal(self, **settings: Any) -> dict[str, float]:
        theirs, (ours, metrics) = self.theirs(), self.ours(**settings)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
        assert abs(theirs.item()) > 1e-4
        model = self.trainer.model
        tiny.assert_same_gradients(tiny.gradients(model, ours), tiny.gradients(model, theirs))
        return metrics


Make = Callable[..., Side]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def start(correct: bool = False, gaps: bool = True, **settings: Any) -> Side:
        def roll(prompts: list[str], trainer: Any) -> dict[str, Any]:
            found = samples(prompts, trainer)
            return found if gaps else {k: v for k, v in found.items() if k != "env_mask"}

        common: dict[str, Any] = {
            "per_device_train_batch_size": len(SCORES),
            "num_generations": GROUP,
            "max_completion_length": MAX_NEW_TOKENS,
            "temperature": TEMPERATURE,
            "use_bias_correction_kl": False,
            "num_iterations": 2,  # so that it keeps the log-probs before the update
        }
        trainer = tiny.GRPOTrainer(
            model=tiny.build(tmp_path / "model"),
            args=tiny.GRPOConfig(**tiny.quiet(tmp_path, **common | settings)),
            reward_funcs=rewards,
            train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=tiny.tokenizer(),
            rollout_func=roll,
        )
        trainer.model.double().train()
        if trainer.ref_model is not None:
            tiny.perturb(trainer.ref_model.double(), 0.03, seed=2)
        if correct:  # the samples come from `roll`: no engine is needed, only the correction switched on
            trainer.use_vllm, trainer._last_loaded_step = True, trainer.state.global_step
        rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(GROUP)]
        inputs = trainer._generate_and_score_completions(rows)
        side = Side(trainer, inputs, _ours(trainer, inputs))
        tiny.perturb(trainer.model, 0.06, seed=3)
        return side

    return start


@torch.no_grad()
def _ours(trainer: Any, inputs: dict[str, Tensor]) -> TrainBatch:
    width = inputs["completion_ids"].shape[1]
    arrays = {"advantages": inputs["advantages"][:, None].expand(-1, width)}
    batch = tiny.train_batch(inputs, rollout_logprobs=inputs["sampling_per_token_logps"], **arrays)
    found = {"old_logprobs": tiny.forward(trainer.model, batch, TEMPERATURE)[0]}
    theirs = tiny.train_batch(inputs, old_logprobs=inputs["old_per_token_logps"])
    if trainer.ref_model is not None:
        found["ref_logprobs"] = tiny.forward(trainer.ref_model, batch, TEMPERATURE)[0]
        theirs.ref_logprobs = tiny.train_batch(inputs, ref_logprobs=inputs["ref_per_token_logps"]).ref_logprobs
    for name, array in found.items():  # log-probs at a temperature, before anything is made of them
        expected = getattr(theirs, name)[batch.loss_mask]
        np.testing.assert_allclose(batch.flat(array.numpy())[batch.loss_mask], expected, rtol=0, atol=2e-6)
    return batch.with_arrays(**{name: batch.flat(array.float().numpy()) for name, array in found.items()})


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo"])
def test_loss_and_gradient(make: Make, loss_type: str, beta: float) -> None:
    """Asymmetric clip, k3, tool gaps, a temperature: the four normalisations of TRL are four of ours."""
    side = make(loss_type=loss_type, beta=beta, epsilon=0.1, epsilon_high=0.15)
    metrics = side.assert_equal(aggregation=AGGREGATIONS[loss_type], clip_low=0.1, clip_high=0.15, kl_coef=beta)
    assert 0.1 < metrics["actor/pg_clipfrac"] < 0.9  # both branches of the clip were compared
    recorded = {name: found[-1] for name, found in side.trainer._metrics["train"].items()}
    assert metrics["actor/pg_clipfrac"] == pytest.approx(recorded["clip_ratio/region_mean"], abs=1e-6)
    assert metrics["actor/entropy"] == pytest.approx(recorded["entropy"], abs=1e-6)
    if beta and loss_type == "dapo":
        assert metrics["actor/kl_loss"] == pytest.approx(recorded["kl"], abs=1e-6)


def test_corrected_kl_of_trl(make: Make) -> None:
    """TRL's default since DeepSeek-V3.2 (arXiv 2512.02556) is the ratio times k3; our default is GRPO's k3 alone."""
    side = make(loss_type="dapo", beta=0.3, use_bias_correction_kl=True)
    theirs = side.theirs()
    assert abs(side.ours(kl_coef=0.3)[0].item() - theirs.item()) > 1e-3
    side.assert_equal(kl_coef=0.3, kl_weighted=True)


def test_dual_clip_is_delta(make: Make) -> None:
    """TRL holds the ratio at delta, we hold the loss at -c A: the same, as long as delta is above 1 + epsilon."""
    side = make(loss_type="dapo", delta=1.3, epsilon=0.1)
    metrics = side.assert_equal(clip_low=0.1, clip_high=0.1, dual_clip=1.3)
    assert metrics["actor/pg_clipfrac_lower"] > 0.05


def test_gspo(make: Make) -> None:
    side = make(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.05, epsilon_high=0.08)
    metrics = side.assert_equal(loss="gspo", aggregation=Aggregation.seq_mean_token_mean, clip_low=0.05, clip_high=0.08)
    assert 0.1 < metrics["actor/pg_clipfrac"] < 0.9


def test_cispo(make: Make) -> None:
    """A difference of words only: TRL's epsilon_high is the largest weight itself, ours what it may exceed 1 by."""
    side = make(loss_type="cispo", epsilon_high=1.1)
    metrics = side.assert_equal(loss="cispo", clip_high=0.1)
    assert 0.1 < metrics["actor/pg_clipfrac"] < 0.9


def test_entropy_bonus(make: Make) -> None:
    """TRL's bonus is a mean over tokens whatever the loss type; ours follows the loss's aggregation."""
    make(loss_type="dapo", entropy_coef=0.05).assert_equal(entropy_coef=0.05)
    side = make(loss_type="grpo", entropy_coef=0.05)
    plain, (ours, metrics) = (
        side.ours(aggregation=AGGREGATIONS["grpo"])[0],
        side.ours(aggregation=AGGREGATIONS["grpo"], entropy_coef=0.05),
    )
    assert side.theirs().item() == pytest.approx(plain.item() - 0.05 * metrics["actor/entropy"], abs=1e-6)
    assert abs(side.theirs().item() - ours.item()) > 1e-5


@pytest.mark.parametrize("mode", list(CorrectionMode))
@pytest.mark.parametrize("level", [CorrectionLevel.token, CorrectionLevel.sequence])
def test_sampler_correction(make: Make, level: CorrectionLevel, mode: CorrectionMode) -> None:
    settings = {"vllm_importance_sampling_clip_min": 0.5, "vllm_importance_sampling_clip_max": 1.5}
    side = make(
        correct=True,
        loss_type="dapo",
        beta=0.2,
        vllm_importance_sampling_mode=f"{level.value}_{mode.value}",
        **settings,
    )
    metrics = side.assert_equal(kl_coef=0.2, correction=CorrectionConfig(level, mode, 0.5, 1.5))
    assert 0.1 < metrics["rollout/bounded"] < 1.0
    arrays = TensorBatch.from_train_batch(side.batch)
    assert arrays.old_logprobs is not None
    assert arrays.rollout_logprobs is not None
    weights, _ = importance_weights(
        arrays.old_logprobs, arrays.rollout_logprobs, arrays.loss_mask, level.value, mode.value, 0.5, 1.5
    )
    ratio = side.inputs["importance_sampling_ratio"].expand(side.inputs["completion_ids"].shape)
    theirs = tiny.train_batch(side.inputs, values=ratio).values
    assert theirs is not None
    mask = side.batch.loss_mask
    np.testing.assert_allclose(side.batch.flat(weights.numpy())[mask], theirs[mask], rtol=1e-5)


def test_accumulation_of_equal_micro_batches(make: Make) -> None:
    """With as many rows in each micro-batch, TRL's means of means are the mean: only bnpo's are not.

    bnpo divides each micro-batch by its own tokens; our token_mean divides all by those of the whole batch, as dapo.
    """
    halves = (slice(0, 6), slice(6, 12))
    for loss_type in ("grpo", "dr_grpo", "bnpo"):
        side = make(loss_type=loss_type)
        whole, _ = side.ours(aggregation=AGGREGATIONS[loss_type])
        parts = sum(side.theirs(2, half) for half in halves)
        if loss_type != "bnpo":
            assert parts.item() == pytest.approx(whole.item(), abs=1e-6)
            continue
        ours = [side.ours(side.batch.select(range(h.start, h.stop)))[0].item() for h in halves]
        assert parts.item() == pytest.approx(sum(ours) / 2, abs=1e-6)
        assert abs(parts.item() - whole.item()) > 1e-4


def test_uneven_micro_batches_move_the_loss_of_trl(make: Make) -> None:
    """A mean over micro-batches of 8 and 4 rows gives a row of the second twice the weight; ours is the same always."""
    side = make(loss_type="grpo")
    pieces = (slice(0, 8), slice(8, 12))
    theirs = sum(side.theirs(2, piece).item() for piece in pieces)
    settings: dict[str, Any] = {"aggregation": Aggregation.seq_mean_token_mean}
    ours = [side.ours(side.batch.select(range(p.start, p.stop)), **settings)[0].item() for p in pieces]
    whole = side.ours(**settings)[0].item()
    assert theirs == pytest.approx(sum(ours) / 2, abs=1e-6)
    assert whole == pytest.approx((8 * ours[0] + 4 * ours[1]) / 12, abs=1e-6)
    assert abs(theirs - whole) > 1e-4


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_rows_without_a_trained_token(make: Make, loss_type: str) -> None:
    """TRL divides by all rows, we by those that train: masking truncated samples does not shrink the others' step."""
    side = make(loss_type=loss_type, mask_truncated_completions=True, gaps=False)
    trained = int((side.batch.loss_counts > 0).sum())
    assert 0 < trained < len(side.batch)
    ours, _ = side.ours(aggregation=AGGREGATIONS[loss_type])
    assert side.theirs().item() == pytest.approx(ours.item() * trained / len(side.batch), abs=1e-6)
    dapo = make(loss_type="dapo", mask_truncated_completions=True, gaps=False)
    dapo.assert_equal()  # no rows in this denominator: nothing to differ in


def test_samples_without_a_score_leave_our_denominators(make: Make) -> None:
    """TRL trains on them with advantage 0, and divides by them; here they are filtered out before the batch is made."""
    side = make(loss_type="grpo")
    scored = torch.isfinite(SCORES).nonzero().squeeze(1).tolist()
    kept, _ = side.ours(side.batch.select(scored), aggregation=Aggregation.seq_mean_token_mean)
    assert side.theirs().item() == pytest.approx(kept.item() * len(scored) / len(SCORES), abs=1e-6)
    assert len(scored) == len(SCORES) - 1


@pytest.mark.parametrize(("scale_rewards", "scale"), [("group", "std"), ("batch", "batch_std"), ("none", "none")])
def test_advantages(make: Make, scale_rewards: str, scale: str) -> None:
    """The same statistics over scored samples; TRL adds 1e-4 to the deviation, we 1e-6 unless told otherwise."""
    theirs = make(scale_rewards=scale_rewards).inputs["advantages"]
    valid = torch.isfinite(SCORES)
    ours = group_advantages(SCORES, GROUP_IDS, "mean", scale, eps=1e-4, valid=valid)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert ours[1] == 0  # the one without a score
    default = group_advantages(SCORES, GROUP_IDS, "mean", scale, valid=valid).double()
    deviation = {
        "std": torch.tensor([SCORES[(g == GROUP_IDS) & valid].double().std() for g in range(3)])[GROUP_IDS],
        "batch_std": SCORES[valid].double().std().expand(len(SCORES)),
        "none": torch.ones(len(SCORES)),
    }[scale]
    added = 0.0 if scale == "none" else 1.0
    expected = theirs.double() * (deviation + added * 1e-4) / (deviation + added * 1e-6)
    torch.testing.assert_close(default, expected, rtol=1e-6, atol=1e-6)


def test_equal_scores_are_exactly_zero_in_ours(make: Make) -> None:
    """Three times 0.9 has a float32 mean that is not 0.9: TRL's advantages keep the rounding, ours do not."""
    scores = [0.9, 0.9, 0.9, None]

    def equal(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return scores * 3

    side = make()
    side.trainer.reward_funcs = [equal]
    theirs = side.trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(GROUP)])
    reward = torch.tensor([0.9, 0.9, 0.9, np.nan] * 3)
    ours = group_advantages(reward, GROUP_IDS, "mean", "std", eps=1e-4, valid=torch.isfinite(reward))
    assert not ours.any()
    assert theirs["advantages"].abs().max() < 1e-3
    assert theirs["advantages"].any()
    torch.testing.assert_close(ours, theirs["advantages"], rtol=0, atol=1e-3)


def test_dr_grpo_from_rewards_to_gradient(make: Make) -> None:
    """Nothing taken from TRL but the samples and their scores."""
    side = make(loss_type="dr_grpo", scale_rewards="none")
    advantages = group_advantages(SCORES, GROUP_IDS, "mean", "none", valid=torch.isfinite(SCORES)).numpy()
    per_token = np.repeat(advantages, side.batch.lengths) * side.batch.loss_mask
    side.batch = side.batch.with_arrays(advantages=per_token.astype(np.float32))
    side.assert_equal(aggregation=Aggregation.seq_sum_constant)
