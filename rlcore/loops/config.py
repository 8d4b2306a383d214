"""Settings of the training loops: batch words, schedules, stop conditions."""

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
    auto = "auto"  # go on from the newest intact checkpoint of the run folder, if any
    never = "never"  # refuse a run folder that holds checkpoints
    must = "must"  # refuse to start from nothing


@dataclass
class LearningRateConfig:
    peak: float = bounded(1e-6, gt=0)  # the highest learning rate
    schedule: Schedule = Schedule.constant  # after the warm-up
    warmup_steps: int = bounded(0, ge=0)  # steps of linear growth from 0
    final_share: float = bounded(0.1, ge=0, le=1)  # of the peak, at the last step of linear and cosine


@dataclass
class WarmupConfig:
    """Supervised warm-up on the data source's own answers before RL, through the same policy workers. 0 steps: none."""

    steps: int = bounded(0, ge=0)  # at most
    stop_at_accuracy: float | None = bounded(None, ge=0, le=1)  # on the held-out set; None: all `steps`
    check_every: int = bounded(10, ge=1)  # steps between looks at that accuracy
    sequences_per_step: int = bounded(256, ge=1)  # answers in one step
    # of the warm-up
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-3, warmup_steps=10))


@dataclass
class EvalConfig:
    every: int = bounded(20, ge=0)  # steps; 0: only at start and end
    num_samples: int = bounded(1, ge=1)  # responses per prompt
    temperature: float = bounded(0.0, ge=0)  # of sampling; 0: greedy
    max_prompts: int | None = bounded(None, ge=1)  # None: the whole held-out set


@dataclass
class CheckpointConfig:
    every: int = bounded(50, ge=0)  # steps; 0: only at the end and when interrupted
    keep: int = bounded(2, ge=1)  # the newest ones that are kept


@dataclass
class ParityConfig:
    """Rollout against trainer log-probs on freshly sampled sequences."""

    every: int = bounded(10, ge=0)  # steps between checks that may stop the run; 0: only after the first sync
    num_sequences: int = bounded(16, ge=1)  # of a check, where the step needs no old log-probs; else all of those
    # Of the largest difference per token, in nats. In float32 1e-6 is seen on a fresh model and 5e-5 on a trained one
    # (rounding: both sides are that far from float64); a weight that a sync misses shows over 0.1.
    tolerance: float = bounded(1e-3, gt=0, le=math.inf)
    mean_tolerance: float | None = bounded(None, gt=0, le=math.inf)  # of the mean difference; for bfloat16: 0.05
    stop: bool = True  # end the run when a tolerance is exceeded; false: report only


@dataclass
class TrainerConfig:
    steps: int = bounded(100, ge=0)  # of the run; each samples, scores and updates
    prompts_per_step: int = bounded(64, ge=1)  # distinct prompts of one step
    samples_per_prompt: int = bounded(8, ge=1)  # responses to each prompt: the group
    updates_per_step: int = bounded(1, ge=1)  # optimizer steps that share one batch of samples
    epochs_per_step: int = bounded(1, ge=1)  # passes over that batch
    # of one forward and backward pass: lower it if memory runs out
    max_tokens_per_micro_batch: int = bounded(4096, ge=1)
    max_staleness: int = bounded(0, ge=0)  # 0: samples always come from the newest weights
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)  # of the policy
    # of the critic
    critic_learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)  # measuring on held-out prompts
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # saving the state of the run
    parity: ParityConfig = field(default_factory=ParityConfig)


@dataclass
class OfflineTrainConfig:
    """Batch words and schedule of a stage that trains on records."""

    epochs: float = bounded(1.0, gt=0)  # over the stage's data; not used where `steps` is set
    steps: int | None = bounded(None, ge=1)  # of the optimizer
    per_step: int = bounded(64, ge=1)  # sequences, or pairs, of one optimizer step; at most
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    checkpoint_every: int = bounded(50, ge=0)  # steps; 0: none, a stage that is killed starts over
    ignore_tokens: list[str] = field(default_factory=list)  # never trained on, as Llama 3 masks formatting tokens
