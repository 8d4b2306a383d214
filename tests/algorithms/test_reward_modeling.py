"""The reward model's objective, its settings, and the scale that makes one reward of its outputs."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcore import metrics as M
from rlcore.algorithms.reward_config import (
    NEMOTRON4_WEIGHTS,
    Margin,
    RewardLoss,
    RewardTrainingConfig,
    Weighting,
)
from rlcore.algorithms.reward_modeling import Counts, RewardObjective, first_labels, margins
from rlcore.objective import Outputs, TensorBatch
from rlcore.problems import check_settings, setting_problems
from rlcore.types import RewardScale, TrainBatch

NAN = float("nan")
GRADED = ["reward", "truth", "brevity"]


def batch(pairs: int = 4, seed: int = 0, outputs: int = 1, padding: bool = False, **arrays: Any) -> TrainBatch:
    """Pairs of one prompt token and two response tokens; the last pair may be padding."""
    rows = 2 * pairs
    mask = np.tile(np.array([False, True, True]), (rows, 1))
    if padding:
        mask[-2:] = False
    made: dict[str, Any] = {"targets": None}
    if outputs > 1:
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 5, (rows, outputs)).astype(np.float32)
        targets[rng.random(targets.shape) < 0.3] = NAN
        made["targets"] = targets
    return TrainBatch.from_padded(
        tokens=np.ones((rows, 3), np.int32), lengths=np.full(rows, 3, np.int32), loss_mask=mask,
        sample_ids=[f"s{i}" for i in range(rows)], rows_per_unit=2, **(made | arrays),
    )  # fmt: skip


def per_row(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.repeat(np.array(values, dtype=np.float32), 2)


def scores_of(rows: int, outputs: int = 1, seed: int = 5) -> torch.Tensor:
    return torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def loss_of(config: RewardTrainingConfig, scores: torch.Tensor, train: TrainBatch) -> tuple[torch.Tensor, M.Metrics]:
    objective = RewardObjective(config)
    return objective.loss(Outputs(scores), TensorBatch.from_train_batch(train), objective.denominator(train))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bradley_terry_by_hand_with_prompts_of_different_numbers_of_pairs() -> None:
    """Gaps 1 and -1 of one prompt, 2 of another: InstructGPT's mean over prompts of means over pairs."""
    scores = torch.tensor([[1.0], [0.0], [0.0], [1.0], [2.0], [0.0]], requires_grad=True)
    train = batch(3, weights=per_row(0.5, 0.5, 1.0))
    loss, metrics = loss_of(RewardTrainingConfig(), scores, train)
    wanted = ((softplus(-1) + softplus(1)) / 2 + softplus(-2)) / 2
    got = M.values(metrics)
    assert loss.item() == pytest.approx(wanted)
    assert got["reward_model/pair_loss"] == pytest.approx(wanted)
    assert got["reward_model/accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert got["reward_model/margin"] == pytest.approx((0 + 2) / 2)
    loss.backward()
    assert scores.grad is not None
    first = -0.25 / (1 + math.e)  # 1/2 (prompts) * 1/2 (pairs) * -sigmoid(-1)
    assert scores.grad[0].item() == pytest.approx(first)


def test_margins_of_llama_2_by_hand() -> None:
    """Strengths 3 (significantly better), 1 (slightly), none told; gap 1. Table 27: small 1 and 1/3, large 3 and 1."""
    scores = torch.tensor([[1.0], [0.0]] * 3)
    train = batch(3, strengths=per_row(3.0, 1.0, NAN))
    for margin, (high, low) in {
        Margin.small: (1.0, 1 / 3),
        Margin.large: (3.0, 1.0),
        Margin.linear: (6.0, 2.0),
    }.items():
        config = RewardTrainingConfig(loss=RewardLoss.margin, margin=margin, margin_scale=2.0)
        wanted = (softplus(high - 1) + softplus(low - 1) + softplus(-1)) / 3
        assert loss_of(config, scores, train)[0].item() == pytest.approx(wanted, rel=1e-5)
    table = RewardTrainingConfig(
        loss=RewardLoss.margin, margin=Margin.table, margin_table=[0.5, 1.5], strength_levels=[-1.0, 1.0]
    )
    assert margins([-5.0, -1.0, 0.0, 1.0, 5.0, NAN], table).tolist() == [0.5, 0.5, 1.0, 1.5, 1.5, 0.0]


def test_soft_labels_of_apple_by_hand() -> None:
    scores = torch.tensor([[1.0], [0.0]] * 5)
    strengths = [3.0, 2.0, 1.0, 0.0, NAN]
    config = RewardTrainingConfig(loss=RewardLoss.soft_label)
    chances = [0.95, 0.85, 0.75, 0.65, 1.0]
    assert first_labels(strengths, config).tolist() == pytest.approx(chances)
    wanted = sum(p * softplus(-1) + (1 - p) * softplus(1) for p in chances) / 5
    assert loss_of(config, scores, batch(5, strengths=per_row(*strengths)))[0].item() == pytest.approx(wanted)


def test_smoothed_labels_take_the_place_of_the_first_ones() -> None:
    scores = torch.tensor([[1.0], [0.0]] * 2)
    labels = np.array([0.9, 0.1, 0.4, 0.6], dtype=np.float32)
    wanted = sum(p * softplus(-1) + (1 - p) * softplus(1) for p in (0.9, 0.4)) / 2
    for kind in (RewardLoss.bradley_terry, RewardLoss.soft_label):
        config = RewardTrainingConfig(loss=kind, smoothing_beta=0.1)
        train = batch(2, labels=labels, strengths=per_row(0.0, 0.0))
        assert loss_of(config, scores, train)[0].item() == pytest.approx(wanted)
    assert first_labels(np.zeros(3), RewardTrainingConfig()).tolist() == [1.0] * 3


def test_regression_by_a_loop_in_float64() -> None:
    config = RewardTrainingConfig(loss=RewardLoss.regression, attributes=GRADED, weighting=Weighting.equal)
    train, scores = batch(3, outputs=3, padding=True), scores_of(6, 3)
    assert train.targets is not None
    errors = [
        (scores[i, k].item() - float(train.targets[i, k])) ** 2
        for i in range(4)
        for k in range(3)
        if not math.isnan(train.targets[i, k])
    ]
    loss, metrics = loss_of(config, scores, train)
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert M.values(metrics) == {"reward_model/grade_loss": pytest.approx(sum(errors) / len(errors), rel=1e-5)}
    loss.backward()
    assert scores.grad is not None
    assert not scores.grad[4:].any()  # padding
    assert not scores.grad[np.isnan(train.targets)].any()


def test_grades_beside_pairs_by_hand() -> None:
    """Squared errors of what stands behind the reward, and Apple's cross-entropy over classes."""
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    numbers = RewardTrainingConfig(attributes=GRADED, grade_coef=0.5)
    train = batch(1, targets=np.array([[9.0, 1.0, NAN], [NAN, 3.0, NAN]], np.float32))
    assert loss_of(numbers, scores, train)[0].item() == pytest.approx(softplus(-1) + 0.5 * (1 + 9) / 2)

    classes = RewardTrainingConfig(attributes=["reward", "truth"], grade_coef=0.5, grade_classes=2)
    assert classes.outputs == ("reward", "truth=0", "truth=1")
    train = batch(1, targets=np.array([[NAN, 1.0, 0.0], [NAN, NAN, NAN]], np.float32))
    assert RewardObjective(classes).denominator(train).labels == 1.0
    loss, metrics = loss_of(classes, scores, train)
    assert loss.item() == pytest.approx(softplus(-1) + 0.5 * softplus(-2), rel=1e-5)
    assert M.values(metrics)["reward_model/grade_loss"] == pytest.approx(softplus(-2), rel=1e-5)


CONFIGS = {
    "bradley_terry": RewardTrainingConfig(),
    "margin": RewardTrainingConfig(loss=RewardLoss.margin, margin=Margin.large),
    "soft_label": RewardTrainingConfig(loss=RewardLoss.soft_label, attributes=GRADED, grade_coef=0.3),
    "classes": RewardTrainingConfig(attributes=["reward", "truth"], grade_coef=0.3, grade_classes=2),
    "regression": RewardTrainingConfig(
        loss=RewardLoss.regression, attributes=GRADED, weighting=Weighting.given, attribute_weights={"truth": 2.0}
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("parts", [[[4, 5, 0, 1], [2, 3, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]])
def test_any_split_gives_the_same_loss_gradient_and_metrics(name: str, parts: list[list[int]]) -> None:
    config = CONFIGS[name]
    k = len(config.outputs)
    train = batch(4, outputs=k, strengths=per_row(0.0, 1.5, NAN, 3.0), weights=per_row(1.0, 0.5, 0.5, 1.0))
    if config.grade_classes:
        one_hot = np.eye(2, dtype=np.float32)[np.arange(8) % 2]
        one_hot[2] = NAN
        train.targets = np.concatenate([np.full((8, 1), NAN, np.float32), one_hot], 1)
    objective = RewardObjective(config)
    counts, seen = objective.denominator(train), []
    for rows in ([list(range(8))], parts):
        scores = scores_of(8, k)
        tensors = [TensorBatch.from_train_batch(train.select(p)) for p in rows]
        outs = [objective.loss(Outputs(scores[p]), x, counts) for p, x in zip(rows, tensors, strict=True)]
        loss = sum(out[0] for out in outs)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        seen.append((loss.item(), scores.grad, M.values(M.merge(out[1] for out in outs))))
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-5)
    torch.testing.assert_close(seen[0][1], seen[1][1])
    assert seen[0][2] == pytest.approx(seen[1][2], rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_gives_zero_with_a_gradient_path_and_no_metrics(name: str) -> None:
    config = CONFIGS[name]
    k = len(config.outputs)
    train = TensorBatch.from_train_batch(batch(1, padding=True))
    scores = torch.full((2, k), torch.nan, requires_grad=True)
    loss, metrics = RewardObjective(config).loss(Outputs(scores), train, Counts(pairs=1.0, labels=3.0))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()
    assert metrics == {}


def test_select_carries_what_belongs_to_rows() -> None:
    train = batch(2, outputs=2, strengths=per_row(1.0, 2.0), weights=per_row(0.5, 1.0), labels=per_row(0.1, 0.2))
    part = train.select([2, 3])
    assert train.targets is not None
    for name in ("targets", "strengths", "weights", "labels"):
        np.testing.assert_array_equal(getattr(part, name), getattr(train, name)[2:])
    assert part.rows_per_unit == 2


def test_what_cannot_be_trained_on_is_named() -> None:
    odd = batch(2).select([0, 1, 2])
    with pytest.raises(ValueError, match="half a pair"):
        RewardObjective(RewardTrainingConfig()).denominator(odd)
    regression = RewardObjective(CONFIGS["regression"])
    with pytest.raises(ValueError, match="no row has a label of reward, truth, brevity"):
        regression.denominator(batch(1))
    with pytest.raises(ValueError, match=r"targets have shape \(2, 2\), the model has 3"):
        regression.denominator(batch(1, outputs=2))


def test_weights_of_the_outputs() -> None:
    five = list(NEMOTRON4_WEIGHTS)
    nemotron = RewardTrainingConfig(loss=RewardLoss.regression, attributes=five, weighting=Weighting.nemotron4)
    assert nemotron.weights == (0.3, 0.74, 0.46, 0.47, -0.33)
    assert not list(setting_problems(nemotron))
    assert RewardTrainingConfig(attributes=GRADED).weights == (1.0, 0.0, 0.0)
    assert RewardTrainingConfig(attributes=GRADED, weighting=Weighting.equal).weights == pytest.approx([1 / 3] * 3)
    assert CONFIGS["regression"].weights == (0.0, 2.0, 0.0)
    scale = RewardObjective(nemotron).scale
    assert scale.rewards(np.array([[4, 4, 4, 2, 1]], np.float32))[0] == pytest.approx(4 * 1.5 + 2 * 0.47 - 0.33)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": RewardLoss.margin, "margin": Margin.table}, "0 margins for 4 strength_levels"),
        ({"loss": RewardLoss.soft_label, "soft_labels": [0.9]}, "there are 4 strength_levels"),
        ({"loss": RewardLoss.soft_label, "soft_labels": [0.5, 0.6, 0.7, 1.2]}, r"soft_labels\.3=1\.2"),
        ({"strength_levels": [1.0, 0.0]}, "must ascend"),
        ({"loss": RewardLoss.regression, "smoothing_beta": 0.1}, "no labels to smooth"),
        ({"smoothing_beta": 1.5}, "smoothing_beta=1.5"),
        ({"attributes": []}, r"attributes=\[\]"),
        ({"attributes": ["a", "a"]}, "give different names"),
        ({"attribute_weights": {"b": 1.0}}, "b is no attribute"),
        ({"weighting": Weighting.given}, "weighting=given"),
        ({"grade_coef": 0.1}, "names no grade"),
        ({"grade_classes": 3, "loss": RewardLoss.regression, "attributes": GRADED}, "grade_classes=3"),
        ({"grade_classes": 3, "weighting": Weighting.equal, "attributes": GRADED}, "needs weighting=first"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    assert len(list(setting_problems(RewardTrainingConfig(**settings)))) == 1
    with pytest.raises(ValueError, match=message):
        check_settings(RewardTrainingConfig(**settings), "training")


def test_the_defaults_and_the_losses_are_fine() -> None:
    assert not list(setting_problems(RewardTrainingConfig()))
    assert [name for name, config in CONFIGS.items() if list(setting_problems(config))] == []


def test_the_scale_lies_beside_the_model(tmp_path: Path) -> None:
    scale = dataclasses.replace(RewardObjective(CONFIGS["regression"]).scale, mean=1.5, std=0.5)
    scale.write(tmp_path)
    assert RewardScale.read(tmp_path) == scale
    assert json.loads((tmp_path / RewardScale.FILE).read_text())["trained_with"]["loss"] == "regression"
    assert scale.rewards(np.array([[7.0, 2.0, 9.0]], np.float32)).tolist() == [5.0]
    assert RewardScale.read(tmp_path / "nowhere") is None
    (tmp_path / RewardScale.FILE).write_text('{"attributes": ["a"]}')
    with pytest.raises(ValueError, match=r"reward_model\.json does not describe"):
        RewardScale.read(tmp_path)
    for wrong in ({"std": 0.0}, {"mean": NAN}, {"weights": (1.0, 2.0)}):
        with pytest.raises(ValueError, match="must be"):
            RewardScale(**({"attributes": ("a",), "weights": (1.0,)} | wrong))


def test_outputs_get_other_names() -> None:
    scale = RewardScale(("LABEL_0", "LABEL_1"), (1.0, 0.0))
    assert scale.named(("good", "long")).attributes == ("good", "long")
    assert scale.named(None) is scale
    with pytest.raises(ValueError, match=r"2 outputs .*, attributes are good: name as many"):
        scale.named(("good",))


def test_travels_to_a_worker() -> None:
    for config in CONFIGS.values():
        assert pickle.loads(pickle.dumps(RewardObjective(config))) == RewardObjective(config)
