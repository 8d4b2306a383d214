"""Preference losses and the reward model's loss against TRL's DPO, KTO, CPO (SimPO) and reward trainers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForSequenceClassification

from rlcore.algorithms.config import AlgorithmConfig, Family, PreferenceConfig
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops.logprobs import token_logprobs
from rlcore.ops.masking import masked_mean
from rlcore.ops.preference_losses import kto_reference_point, preference_loss
from rlcore.ops.reward_losses import bradley_terry
from rlcore.types import TrainBatch
from tests.trl import tiny

PAIRS = {
    "prompt": ["ab", "cdefg", "h a", "bb"],
    "chosen": ["cd", "a", "bcdaf", "efg"],
    "rejected": ["hgfe", "ba c", "a", "d"],
}
N = len(PAIRS["prompt"])
BETA = 0.3


def trainer_of(kind: type, arguments: Any, model: torch.nn.Module, data: Mapping[str, Any]) -> Any:
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(dict(data)),
        processing_class=tiny.tokenizer(),
    )
    trainer.model.double().train()
    if (reference := getattr(trainer, "ref_model", None)) is not None:
        tiny.perturb(reference.double(), 0.05, seed=2)
    return trainer


def batch_of(trainer: Any) -> dict[str, Tensor]:
    batch = dict(next(iter(trainer.get_train_dataloader())))
    assert sorted(len(x) for x in batch.values())[-1] in (N, 2 * N)
    return batch


def summed(model: torch.nn.Module, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Summed log-probs of the masked-in tokens by rlcore's op, and how many they are; padding is on the right."""
    logprobs = token_logprobs(model(input_ids=tokens, use_cache=False).logits, tokens)
    return torch.where(mask.bool(), logprobs, 0.0).sum(1), mask.sum(1)


def assert_equal(trainer: Any, ours: Tensor, theirs: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    assert abs(theirs.item()) > 1e-2
    model = trainer.model
    tiny.assert_same_gradients(tiny.gradients(model, ours), tiny.gradients(model, theirs))


@pytest.mark.parametrize(
    ("loss_type", "kind", "settings"),
    [
        ("sigmoid", "dpo", {}),
        ("hinge", "hinge", {}),
        ("ipo", "ipo", {}),
        ("sigmoid_norm", "dpo_norm", {}),
        ("sppo_hard", "sppo", {}),
        ("robust", "robust", {"label_smoothing": 0.2}),
    ],
)
def test_dpo_trainer(tmp_path: Path, loss_type: str, kind: str, settings: dict[str, float]) -> None:
    """IPO on means per token, as TRL has it after asking its authors; the paper's sums are `ipo_sum`."""
    arguments = tiny.quiet(tmp_path, per_device_train_batch_size=N, beta=BETA, loss_type=[loss_type], **settings)
    trainer = trainer_of(tiny.DPOTrainer, tiny.DPOConfig(**arguments), tiny.build(tmp_path / "model"), PAIRS)
    batch = batch_of(trainer)
    tokens, mask = batch["input_ids"], batch["completion_mask"]
    policy, lengths = summed(trainer.model, tokens, mask)
    with torch.no_grad():
        ref, _ = summed(trainer.ref_model, tokens, mask)
    sides = (*policy.chunk(2), *ref.chunk(2))
    chosen_lengths, rejected_lengths = lengths.chunk(2)
    lengths_of = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    ours = preference_loss(kind, *sides, BETA, **lengths_of, **settings).mean()
    assert_equal(trainer, ours, trainer.compute_loss(trainer.model, batch))
    rewards = (BETA * (policy - ref)).detach().chunk(2)
    recorded = trainer._metrics["train"]
    for name, reward in zip(("chosen", "rejected"), rewards, strict=True):
        assert reward.mean().item() == pytest.approx(recorded[f"rewards/{name}"][-1], abs=1e-6)
    if kind == "ipo":
        assert chosen_lengths.tolist() != rejected_lengths.tolist()
        on_sums = preference_loss("ipo_sum", *sides, BETA).mean()
        assert abs(on_sums.item() - ours.item()) > 1e-2


def rows_of(model: Any, ref_model: Any, batch: Mapping[str, Tensor]) -> tuple[TrainBatch, Tensor]:
    """TRL's chosen rows above its rejected ones as our alternating rows, and their log-probs under the policy."""
    order = torch.arange(2 * N).view(2, N).T.flatten()
    tokens, attention = batch["input_ids"][order], batch["attention_mask"][order]
    with torch.no_grad():
        ref = token_logprobs(ref_model(input_ids=tokens, use_cache=False).logits, tokens)
    rows = TrainBatch.from_padded(
        tokens=tokens.numpy().astype(np.int32),
        lengths=attention.sum(1).numpy().astype(np.int32),
        loss_mask=batch["completion_mask"][order].bool().numpy(),
        sample_ids=[str(i) for i in order.tolist()],
        ref_logprobs=ref.float().numpy(),
        rows_per_unit=2,
    )
    return rows, token_logprobs(model(input_ids=tokens, use_cache=False).logits, tokens)


@pytest.mark.parametrize("sft_coef", [0.0, 0.3])
def test_dpo_objective(tmp_path: Path, sft_coef: float) -> None:
    """The objective on pairs is TRL's trainer; only the mean of the SFT term is another.

    TRL takes it over the tokens of all chosen responses, we over responses, each by its own length: a long response
    does not count for more than the pair it belongs to.
    """
    settings = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_coef]}
    arguments = tiny.quiet(tmp_path, per_device_train_batch_size=N, beta=BETA, **settings)
    trainer = trainer_of(tiny.DPOTrainer, tiny.DPOConfig(**arguments), tiny.build(tmp_path / "model"), PAIRS)
    batch = batch_of(trainer)
    rows, logprobs = rows_of(trainer.model, trainer.ref_model, batch)
    config = AlgorithmConfig(family=Family.preference, preference=PreferenceConfig(beta=BETA, sft_coef=sft_coef))
    goal = PreferenceObjective(config, temperature=1.0, max_new_tokens=8)
    ours, _ = goal.loss(Outputs(logprobs), TensorBatch.from_train_batch(rows), goal.denominator(rows))
    theirs = trainer.compute_loss(trainer.model, batch)
    if sft_coef:
        mask = torch.tensor(rows.padded("loss_mask"))[::2]
        over_tokens = -masked_mean(logprobs[::2], mask)
        over_responses = -masked_mean(logprobs[::2], mask, 1).mean()
        assert abs(over_tokens.item() - over_responses.item()) > 1e-3
        ours = ours + sft_coef * (over_tokens - over_responses)
    assert_equal(trainer, ours, theirs)


def test_sft_trainer(tmp_path: Path) -> None:
    data = {"prompt": PAIRS["prompt"], "completion": PAIRS["chosen"]}
    arguments = tiny.SFTConfig(**tiny.quiet(tmp_path, per_device_train_batch_size=N, max_length=32))
    trainer = trainer_of(tiny.SFTTrainer, arguments, tiny.build(tmp_path / "model"), data)
    batch = dict(next(iter(trainer.get_train_dataloader())))
    tokens, mask = batch["input_ids"], batch["labels"] != -100
    rows = TrainBatch.from_padded(
        tokens=tokens.numpy().astype(np.int32),
        lengths=batch["attention_mask"].sum(1).numpy().astype(np.int32),
        loss_mask=mask.numpy(),
        sample_ids=[str(i) for i in range(N)],
    )
    assert mask.sum() == sum(len(text) + 1 for text in PAIRS["chosen"])  # the end token is trained on
    logprobs = token_logprobs(trainer.model(input_ids=tokens, use_cache=False).logits, tokens)
    goal = SupervisedObjective()
    ours, _ = goal.loss(Outputs(logprobs), TensorBatch.from_train_batch(rows), goal.denominator(rows))
    assert_equal(trainer, ours, trainer.compute_loss(trainer.model, batch))


@pytest.mark.parametrize("swap", [False, True])
def test_kto_trainer(tmp_path: Path, swap: bool) -> None:
    """The KL estimate from responses shifted by one within the batch, positive one way and held at 0 the other.

    TRL fixes the mismatched pairs when the data are read, and the batch of a run may hold others: here it is one batch.
    """
    data = {"prompt": PAIRS["prompt"], "completion": PAIRS["chosen"], "label": [True, False, True, True]}
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    arguments = tiny.quiet(tmp_path, per_device_train_batch_size=N, beta=BETA, **weights)
    trainer = trainer_of(tiny.KTOTrainer, tiny.KTOConfig(**arguments), tiny.build(tmp_path / "model"), data)
    if swap:
        model, ref = ({k: v.clone() for k, v in m.state_dict().items()} for m in (trainer.model, trainer.ref_model))
        trainer.model.load_state_dict(ref)
        trainer.ref_model.load_state_dict(model)
    batch = batch_of(trainer)
    tokens, mask = batch["input_ids"], batch["completion_mask"]
    policy, _ = summed(trainer.model, tokens, mask)
    with torch.no_grad():
        ref, _ = summed(trainer.ref_model, tokens, mask)
        mismatched = [
            summed(m, batch["KL_input_ids"], batch["KL_completion_mask"])[0] for m in (trainer.model, trainer.ref_model)
        ]
    z = kto_reference_point(*mismatched)
    good = batch["label"].bool()
    sides = (policy[good], policy[~good], ref[good], ref[~good])
    ours = preference_loss("kto", *sides, BETA, kl=z, **weights).mean()
    assert_equal(trainer, ours, trainer.compute_loss(trainer.model, batch))
    assert z.item() == pytest.approx(trainer._metrics["train"]["kl"][-1], abs=1e-6)
    assert (z.item() > 0) is swap  # the other way round the mean is negative, and held at 0
    assert (mismatched[0] - mismatched[1]).mean().abs() > 0.01


@pytest.mark.parametrize(
    ("loss_type", "kind", "settings"),
    [("simpo", "simpo", {"gamma": 0.4}), ("sigmoid", "cdpo", {"label_smoothing": 0.2}), ("hinge", "hinge", {})],
)
def test_cpo_trainer(tmp_path: Path, loss_type: str, kind: str, settings: dict[str, float]) -> None:
    """SimPO; and the losses that CPO shares with DPO, where the reference counts nothing: log-probs of 0."""
    renamed = {"simpo_gamma" if name == "gamma" else name: value for name, value in settings.items()}
    arguments = tiny.quiet(
        tmp_path, per_device_train_batch_size=N, beta=2.0, loss_type=loss_type, cpo_alpha=0.0, max_length=32, **renamed
    )
    trainer = trainer_of(tiny.CPOTrainer, tiny.CPOConfig(**arguments), tiny.build(tmp_path / "model"), PAIRS)
    batch = next(iter(trainer.get_train_dataloader()))
    sums, lengths = [], []
    for side in ("chosen", "rejected"):
        found = summed(trainer.model, batch[f"{side}_input_ids"], batch[f"{side}_labels"] != -100)
        sums.append(found[0])
        lengths.append(found[1])
    zeros = torch.zeros_like(sums[0])
    reference = (None, None) if kind == "simpo" else (zeros, zeros)
    given = {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
    ours = preference_loss(kind, *sums, *reference, 2.0, **given, **settings).mean()
    assert_equal(trainer, ours, trainer.get_batch_loss_metrics(trainer.model, batch)[0])


def test_reward_trainer(tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "model", Qwen2ForSequenceClassification, num_labels=1)
    data = {**PAIRS, "margin": [0.0, 0.5, 1.0, 2.0]}
    arguments = tiny.RewardConfig(**tiny.quiet(tmp_path, per_device_train_batch_size=N))
    trainer = trainer_of(tiny.RewardTrainer, arguments, model, data)
    batch = dict(next(iter(trainer.get_train_dataloader())))
    scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    chosen, rejected = scores.chunk(2)
    assert batch["margin"].sum() > 0
    ours = bradley_terry(chosen, rejected, batch["margin"]).mean()
    assert_equal(trainer, ours, trainer.compute_loss(trainer.model, batch))
