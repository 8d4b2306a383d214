"""Config of the training loops: batch sizes, schedules, stop conditions."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from rlcore.problems import bounded


class Schedule(str, enum.Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Resume(str, enum.Enum):
    auto = "auto"  # resume from the latest intact checkpoint of the run folder, if any
    never = "never"  # an error if the run folder has checkpoints
    must = "must"  # an error without a checkpoint


@dataclass
class LearningRateConfig:
    peak: float = bounded(1e-6, gt=0)  # the highest learning rate
    schedule: Schedule = Schedule.constant  # after the warm-up
    warmup_steps: int = bounded(0, ge=0)  # steps of linear growth from 0
    final_share: float = bounded(0.1, ge=0, le=1)  # final rate relative to the peak, for linear and cosine


@dataclass
class WarmupConfig:
    """Supervised warm-up on the answers of the data source before RL, in the same policy workers. 0 steps: none."""

    steps: int = bounded(0, ge=0)  # maximum number of steps
    stop_at_accuracy: float | None = bounded(None, ge=0, le=1)  # stop at this held-out accuracy; None: run all `steps`
    check_every: int = bounded(10, ge=1)  # steps between measurements of the accuracy
    sequences_per_step: int = bounded(256, ge=1)  # answers per step
    # learning rate of the warm-up
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-3, warmup_steps=10))


@dataclass
class EvalConfig:
    every: int = bounded(20, ge=0)  # steps between evaluations; 0: only at start and end
    num_samples: int = bounded(1, ge=1)  # responses per prompt
    temperature: float = bounded(0.0, ge=0)  # sampling temperature; 0: greedy
    max_prompts: int | None = bounded(None, ge=1)  # maximum number of prompts; None: the whole held-out set


@dataclass
class CheckpointConfig:
    every: int = bounded(50, ge=0)  # steps between checkpoints; 0: only at the end and on interruption
    keep: int = bounded(2, ge=1)  # number of checkpoints to keep


@dataclass
class ParityConfig:
    """Comparison of rollout and trainer log-probs on new samples."""

    every: int = bounded(10, ge=0)  # steps between checks that may stop the run; 0: only after the first sync
    num_sequences: int = bounded(16, ge=1)  # sequences per check, if the step needs no old log-probs; otherwise all
    # Of the largest difference per token, in nats. In float32 1e-6 is seen on a fresh model and 5e-5 on a trained one
    # (rounding: both sides are that far from float64); a weight that a sync misses shows over 0.1. null: 1e-3; with
    # model.dtype=bfloat16, where a single token can differ much: 1.0, and 0.05 for the mean.
    tolerance: float | None = bounded(None, gt=0, le=math.inf)
    mean_tolerance: float | None = bounded(None, gt=0, le=math.inf)  # limit on the mean difference
    stop: bool = True  # stop the run if a tolerance is exceeded; false: only report


@dataclass
class TrainerConfig:
    steps: int = bounded(100, ge=0)  # steps of the run; each samples, scores and updates
    prompts_per_step: int = bounded(64, ge=1)  # distinct prompts per step
    samples_per_prompt: int = bounded(8, ge=1)  # responses per prompt (the group)
    updates_per_step: int = bounded(1, ge=1)  # optimizer steps per batch of samples
    epochs_per_step: int = bounded(1, ge=1)  # passes over the batch
    # leave rows whose advantages are all 0 out of the update: they have no gradient. The update is the same up to
    # rounding, and actor/ metrics are of the other rows. Without effect if the loss has an entropy or KL term
    skip_zero_advantages: bool = False
    # limit of one forward and backward pass; lower it if memory runs out
    max_tokens_per_micro_batch: int = bounded(4096, ge=1)
    # K: a step may begin to sample while the K steps before it still train, so that neither engines nor trainer wait;
    # no token is trained more than K steps after its weights. 0: all samples come from the latest weights
    max_staleness: int = bounded(0, ge=0)
    publish_every: int = bounded(1, ge=1)  # steps between transfers of the weights to the engines
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)  # of the policy
    # of the critic
    critic_learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)  # evaluation on held-out prompts
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # checkpoints of the run
    parity: ParityConfig = field(default_factory=ParityConfig)


@dataclass
class OfflineTrainConfig:
    """Batch sizes and schedule of a stage that trains on records."""

    epochs: float = bounded(1.0, gt=0)  # passes over the stage's data; ignored if `steps` is set
    steps: int | None = bounded(None, ge=1)  # optimizer steps
    per_step: int = bounded(64, ge=1)  # maximum sequences, or pairs, per optimizer step
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    checkpoint_every: int = bounded(50, ge=0)  # steps between checkpoints; 0: none, so a killed stage starts over
    ignore_tokens: list[str] = field(default_factory=list)  # never trained, as Llama 3 masks formatting tokens
