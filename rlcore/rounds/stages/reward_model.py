"""Trains a reward model on pairs or labelled samples, evaluates it on held-out prompts, and saves its normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlcore.algorithms.reward_config import RewardTrainingConfig
from rlcore.algorithms.reward_modeling import RewardObjective, first_labels
from rlcore.data import tables
from rlcore.data.batching.reward import num_tokens, reward_batch_pairs, reward_batch_samples, targets_of
from rlcore.interfaces import RewardModel
from rlcore.loops.config import LearningRateConfig, OfflineTrainConfig, Schedule
from rlcore.loops.offline import Units
from rlcore.metrics import Metrics
from rlcore.ops.reward_losses import smoothed_labels
from rlcore.ops.reward_metrics import attribute_metrics, normalisation, pair_metrics
from rlcore.problems import bounded
from rlcore.rounds.context import StageContext, joined
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.rounds.training import fit
from rlcore.storage.durable import FileSums
from rlcore.types import Float32, Pair, Sample, TrainBatch

SCORED_AT_ONCE = 2048  # rows
LABELS = "labels.npy"  # file next to the model in a checkpoint
Float64 = NDArray[np.float64]


@dataclass
class RewardModelStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # pairs, or for regression samples with attributes
    start: str = "start"  # a model, or a reward model to train further
    held_out: float = bounded(0.1, ge=0, le=0.99)  # share of the prompts held out for evaluation
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    schedule: Schedule = Schedule.constant  # schedule of training.learning_rate; linear and cosine end at a tenth of it
    checkpoint_every: int = bounded(50, ge=0)

    KIND: ClassVar = "reward_model"
    PRODUCES: ClassVar = Made.reward_model
    CONSUMES: ClassVar = {"data": (Made.pairs, Made.samples), "start": (Made.model, Made.reward_model)}
    READS: ClassVar = ("model", "engine")

    def needs_reward_model(self) -> bool:
        return True


def run(context: StageContext) -> Artefact:
    """Trains the model and normalises rewards to mean 0 and standard deviation 1 over the training responses.

    Raises:
        ValueError: no training data, or no labels.
    """
    config: RewardModelStageConfig = context.config
    training, live = config.training, context.live
    model, start = live.world.reward_model, context.one("start")
    if model is None:
        raise RuntimeError("no reward model is running; set cluster.roles.reward.num_workers=1")
    table = joined(context.inputs["data"])
    records: Sequence[Pair | Sample] = (
        tables.to_pairs(table) if tables.kind_of(table) == "pairs" else tables.to_samples(table)
    )
    fitting = [r for r in records if num_tokens(r) <= training.max_tokens]
    labelled = [r for r in fitting if has_label(r, training.outputs)]
    if fitting and not labelled:
        raise ValueError(
            f"stage {context.node.stage}: none of {len(fitting):,} samples has a label of "
            f"{', '.join(training.outputs)}; labels are the parts of a sample's score, by name"
        )
    measured = [r for r in labelled if is_held_out(r.prompt.uid, config.held_out)]
    plan = RewardTrainingPlan(model, training, [r for r in labelled if not is_held_out(r.prompt.uid, config.held_out)])
    live.reward_model_weights = ""
    names = None if start.made is Made.reward_model else training.outputs
    model.initialize(start.path, names)
    model.use(plan.objective.scale)
    report: dict[str, Any] = {"too_long": len(records) - len(fitting), "unlabelled": len(fitting) - len(labelled)}
    report["trained_on"] = len(plan.records)
    report |= _fit(context, plan)
    model.normalize(*normalisation(plan.rewards(plan.records)))
    if measured:
        report["held_out"] = {"records": len(measured), **plan.measure(measured)}
    folder = context.draft.directory / "model"
    model.export(folder)
    made = context.draft.finish_folder(folder, report)
    live.reward_model_weights = made.hash
    return made


def has_label(record: Pair | Sample, outputs: Sequence[str]) -> bool:
    """True for pairs, and for samples with a label of one of the outputs."""
    return isinstance(record, Pair) or not np.isnan(targets_of(record, outputs)).all()


def is_held_out(uid: str, share: float) -> bool:
    """Depends only on the uid: a prompt is held out in every round, or in none."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest()) < share * 2**64


@dataclass
class RewardTrainingPlan:
    """The records as units, with the labels that iterative data smoothing changes between epochs."""

    model: RewardModel
    config: RewardTrainingConfig
    records: Sequence[Any]  # all pairs, or all samples
    labels: Float64 | None = None
    labels_epoch: int = 0  # number of epochs that smoothed the labels
    groups: list[list[int]] = field(init=False)  # records of each unit: the pairs of a prompt, or a single sample
    objective: RewardObjective = field(init=False)

    def __post_init__(self) -> None:
        self.objective = RewardObjective(self.config)
        by_prompt: dict[str, list[int]] = {}
        for i, record in enumerate(self.records):
            by_prompt.setdefault(record.prompt.uid if self.on_pairs else str(i), []).append(i)
        self.groups = list(by_prompt.values())
        if self.on_pairs and self.config.smoothing_beta:
            strengths = [np.nan if r.strength is None else r.strength for r in self.records]
            self.labels = first_labels(strengths, self.config)

    @property
    def on_pairs(self) -> bool:
        return bool(self.records) and isinstance(self.records[0], Pair)

    def batch(self, units: Units) -> TrainBatch:
        rows = [i for unit in units for i in self.groups[unit]]
        return self.collate([self.records[i] for i in rows], None if self.labels is None else self.labels[rows])

    def update(self, units: Units, rate: float) -> Metrics:
        return self.model.update(self.batch(units), rate, self.objective)

    def collate(self, records: Sequence[Any], labels: Float64 | None = None) -> TrainBatch:
        names = self.model.attributes
        if isinstance(records[0], Sample):
            return reward_batch_samples(records, names)
        targets = names if self.config.grade_coef else ()
        return reward_batch_pairs(records, targets, labels, self.config.per_prompt)

    def after_epoch(self, epoch: int) -> None:
        """Smooths the labels once per epoch; a resumed run has already loaded its labels."""
        if self.labels is not None and epoch > self.labels_epoch:
            chosen, rejected = self.raw(self.records).reshape(-1, 2).T
            self.labels = smoothed_labels(self.labels, chosen, rejected, self.config.smoothing_beta)
            self.labels_epoch = epoch

    def write(self, directory: Path) -> FileSums | None:
        written = self.model.save(directory)
        if self.labels is not None:
            np.save(directory / LABELS, np.append(self.labels, self.labels_epoch))
        return written

    def read(self, directory: Path) -> None:
        self.model.load(directory)
        if self.labels is not None:
            stored = np.load(directory / LABELS)
            self.labels, self.labels_epoch = stored[:-1], int(stored[-1])

    def _all(self, records: Sequence[Any], of: Callable[[TrainBatch], Float32]) -> Float32:
        parts = [of(self.collate(records[i : i + SCORED_AT_ONCE])) for i in range(0, len(records), SCORED_AT_ONCE)]
        return np.concatenate(parts)

    def rewards(self, records: Sequence[Any]) -> Float32:
        """[rows], with chosen and rejected alternating for pairs."""
        return self._all(records, self.model.rewards)

    def raw(self, records: Sequence[Any]) -> Float64:
        """The weighted sum of the outputs before normalisation, on the scale of the losses."""
        weights = np.asarray(self.config.weights, dtype=np.float64)
        return np.asarray(self._all(records, self.model.scores).astype(np.float64) @ weights)

    def measure(self, records: Sequence[Any]) -> dict[str, float]:
        if isinstance(records[0], Sample):
            targets = np.array([targets_of(r, self.model.attributes) for r in records])
            return attribute_metrics(self._all(records, self.model.scores), targets, self.model.attributes)
        chosen, rejected = self.raw(records).reshape(-1, 2).T
        strengths = [np.nan if r.strength is None else r.strength for r in records]
        return pair_metrics(chosen, rejected, None if np.isnan(strengths).all() else strengths)


def _fit(context: StageContext, plan: RewardTrainingPlan) -> dict[str, float]:
    training = plan.config
    per_unit = len(plan.records) / max(1, len(plan.groups))
    config = OfflineTrainConfig(
        epochs=training.epochs,
        per_step=max(1, round(training.pairs_per_step / max(1.0, per_unit))),
        learning_rate=LearningRateConfig(training.learning_rate, context.config.schedule, training.warmup_steps),
        checkpoint_every=context.config.checkpoint_every,
    )
    return fit(
        context, len(plan.groups), plan.update, config, write=plan.write, read=plan.read, after_epoch=plan.after_epoch
    )
