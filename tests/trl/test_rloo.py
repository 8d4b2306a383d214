"""RLOO against TRL's RLOOTrainer: advantages from its own rollout, its loss on the same samples."""

from __future__ import annotations

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
    Baseline,
    CorrectionConfig,
    CorrectionLevel,
    KLKind,
    KLPlace,
    Scale,
)
from rlcore.algorithms.policy_gradient import PolicyGradientObjective, credit
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops.advantages import group_advantages
from rlcore.ops.aggregate import aggregate
from rlcore.ops.masking import masked_whiten
from rlcore.ops.policy_losses import log_ratio, ppo_clip
from rlcore.types import Group, Prompt, RewardResult, Status, TrainBatch, Trajectory
from tests.trl import tiny

TEMPERATURE, GROUP = 0.9, 4
PROMPTS = ["ab", "cdefg", "h a"]
GROUP_IDS = torch.arange(len(PROMPTS)).repeat_interleave(GROUP)
SCORES = torch.tensor([1.0, np.nan, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.25, -2.0, 3.0, 0.125])
VALID = torch.isfinite(SCORES)


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    assert len(completion_ids) == len(SCORES)
    return [None if np.isnan(s) else s for s in SCORES.tolist()]


@dataclass
class Side:
    trainer: Any
    inputs: dict[str, Tensor]
    batch: TrainBatch

    @property
    def tensors(self) -> TensorBatch:
        return TensorBatch.from_train_batch(self.batch)

    def theirs(self) -> Tensor:
        return self.trainer.compute_loss(self.trainer.model, self.inputs)

    def logprobs(self) -> Tensor:
        return tiny.forward(self.trainer.model, self.batch, TEMPERATURE)[0]

    def sequence_ratio(self) -> tuple[Tensor, Tensor]:
        """[b, 1]: the summed log-probs of each response now and before."""
        x = self.tensors
        assert x.old_logprobs is not None
        new, old = (torch.where(x.loss_mask, y, 0.0).sum(1, keepdim=True) for y in (self.logprobs(), x.old_logprobs))
        return new, old


def make(tmp_path: Path, **settings: Any) -> Side:
    common: dict[str, Any] = {"num_generations": GROUP, "max_completion_length": 6, "temperature": TEMPERATURE}
    trainer = tiny.RLOOTrainer(
        model=tiny.build(tmp_path / "model"),
        args=tiny.RLOOConfig(**tiny.quiet(tmp_path, per_device_train_batch_size=len(SCORES), **common | settings)),
        reward_funcs=rewards,
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny.tokenizer(),
    )
    trainer.model.double().train()
    if trainer.ref_model is not None:
        tiny.perturb(trainer.ref_model.double(), 0.05, seed=2)
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(GROUP)])
    width = inputs["completion_ids"].shape[1]
    batch = tiny.train_batch(inputs, advantages=inputs["advantages"][:, None].expand(-1, width))
    with torch.no_grad():
        arrays = {"old_logprobs": batch.flat(tiny.forward(trainer.model, batch, TEMPERATURE)[0].float().numpy())}
        if trainer.ref_model is not None:
            ref = tiny.forward(trainer.ref_model, batch, TEMPERATURE)[0].float()
            arrays["ref_logprobs"] = batch.flat(ref.numpy())
    return Side(trainer, inputs, batch.with_arrays(**arrays))


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_advantages(tmp_path: Path, beta: float) -> None:
    """Leave-one-out over scored samples; the KL of the whole response (k1) is subtracted from its reward first."""
    side = make(tmp_path, beta=beta)
    x = side.tensors
    scores = SCORES
    if beta:
        assert x.old_logprobs is not None
        assert x.ref_logprobs is not None
        kl = log_ratio(x.old_logprobs, x.ref_logprobs, x.loss_mask).sum(1)
        assert kl.abs().max() > 0.1
        scores = SCORES - beta * kl
    ours = group_advantages(scores, GROUP_IDS, "leave_one_out", "none", valid=VALID)
    torch.testing.assert_close(ours, side.inputs["advantages"], rtol=1e-6, atol=2e-6)
    assert ours[1] == 0


def test_advantages_by_the_algorithm(tmp_path: Path) -> None:
    """The same through `credit`: scores, statuses and the KL in the reward as a run of the rloo preset has them."""
    side = make(tmp_path, beta=0.2)
    config = AlgorithmConfig(
        baseline=Baseline.leave_one_out, scale=Scale.none, kl_coef=0.2, kl_kind=KLKind.k1, kl_in=KLPlace.reward
    )
    batch, _ = credit(groups_of(side.batch), side.batch, config, kl_coef=0.2, max_new_tokens=6)
    assert batch.advantages is not None
    theirs = np.repeat(side.inputs["advantages"].numpy(), batch.lengths) * batch.loss_mask
    np.testing.assert_allclose(batch.advantages, theirs, rtol=1e-6, atol=2e-6)


def groups_of(batch: TrainBatch) -> list[Group]:
    rows = []
    for i, (first, length) in enumerate(zip(batch.offsets, batch.lengths, strict=False)):
        mask = batch.loss_mask[first : first + length]
        score = float(SCORES[i])
        reward = RewardResult(score) if VALID[i] else RewardResult(0.0, Status.TIMEOUT)
        tokens, nothing = batch.tokens[first : first + length], np.zeros(length, np.float32)
        start = int(mask.argmax())
        versions = np.where(mask, 0, -1).astype(np.int32)
        uid, sample_id = str(i // GROUP), batch.sample_ids[i]
        rows.append(Trajectory(uid, sample_id, tokens, mask, nothing, versions, start, "stop", "", reward))
    prompts = [Prompt(uid=str(g), token_ids=(2,), text=text) for g, text in enumerate(PROMPTS)]
    return [Group(prompt, rows[g * GROUP : (g + 1) * GROUP]) for g, prompt in enumerate(prompts)]


def test_normalised_advantages(tmp_path: Path) -> None:
    """TRL: the unbiased deviation over samples, plus 1e-4. Ours: the biased variance plus eps, under the root."""
    theirs = make(tmp_path, normalize_advantages=True, beta=0.0).inputs["advantages"].double()
    plain = group_advantages(SCORES, GROUP_IDS, "leave_one_out", "none", valid=VALID).double()
    ours = masked_whiten(plain, VALID, eps=0.0)
    n, deviation = int(VALID.sum()), plain[VALID].std()
    expected = ours * ((n - 1) / n) ** 0.5 * deviation / (deviation + 1e-4)
    torch.testing.assert_close(expected, theirs, rtol=1e-5, atol=1e-6)


def test_gradient_on_policy(tmp_path: Path) -> None:
    """Where the samples come from the policy itself, TRL's clipped ratio of sequences has the gradient of REINFORCE.

    The values differ by design: TRL's is minus the mean advantage there, ours minus the mean of A log pi.
    """
    side = make(tmp_path, beta=0.0)
    config = AlgorithmConfig(
        loss="reinforce",
        aggregation=Aggregation.seq_mean_token_sum,
        correction=CorrectionConfig(level=CorrectionLevel.none),
    )
    goal = PolicyGradientObjective(config, TEMPERATURE, 6)
    ours, _ = goal.loss(Outputs(side.logprobs()), side.tensors, goal.denominator(side.batch))
    theirs, model = side.theirs(), side.trainer.model
    tiny.assert_same_gradients(tiny.gradients(model, ours), tiny.gradients(model, theirs))
    assert theirs.item() == pytest.approx(-side.inputs["advantages"].mean().item(), abs=1e-5)
    new, _ = side.sequence_ratio()
    assert ours.item() == pytest.approx(-(side.inputs["advantages"] * new[:, 0]).mean().item(), rel=1e-5)


def test_loss_off_policy(tmp_path: Path) -> None:
    """TRL clips the ratio of whole responses, which is our `ppo_clip` on rows of one entry; our preset has no ratio."""
    side = make(tmp_path, beta=0.0, epsilon=0.2, epsilon_high=0.3)
    tiny.perturb(side.trainer.model, 0.04, seed=3)
    new, old = side.sequence_ratio()
    mask = torch.ones_like(new, dtype=torch.bool)
    per_row, metrics = ppo_clip(new, old, side.inputs["advantages"][:, None], mask, 0.2, 0.3)
    assert 0.0 < metrics["clipfrac"] < 1.0
    ours, theirs = aggregate(per_row, mask, "seq_mean_token_sum"), side.theirs()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    model = side.trainer.model
    tiny.assert_same_gradients(tiny.gradients(model, ours), tiny.gradients(model, theirs))
    recorded = side.trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert metrics["clipfrac"].item() == pytest.approx(recorded, abs=1e-6)
