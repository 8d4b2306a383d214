"""Settings of the training loops: batch words, schedules, stop conditions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


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
    peak: float = 1e-6
    schedule: Schedule = Schedule.constant
    warmup_steps: int = 0
    final_share: float = 0.1  # of the peak, at the last step of linear and cosine


@dataclass
class WarmupConfig:
    """Supervised warm-up on the data source's own answers before RL, through the same policy workers. 0 steps: none."""

    steps: int = 0  # at most
    stop_at_accuracy: float | None = None  # on the held-out set; None: all `steps`
    check_every: int = 10  # steps between looks at that accuracy
    sequences_per_step: int = 256
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-3, warmup_steps=10))


@dataclass
class EvalConfig:
    every: int = 20  # steps; 0: only at start and end
    num_samples: int = 1
    temperature: float = 0.0
    max_prompts: int | None = None  # None: the whole held-out set


@dataclass
class CheckpointConfig:
    every: int = 50  # steps; 0: only at the end and when interrupted
    keep: int = 2


@dataclass
class ParityConfig:
    """Rollout against trainer log-probs on freshly sampled sequences."""

    every: int = 10  # steps; 0: only after the first sync
    num_sequences: int = 16
    # Of the largest difference per token, in nats. In float32 1e-6 is seen on a fresh model and 5e-5 on a trained one
    # (rounding: both sides are that far from float64); a weight that a sync misses shows over 0.1.
    tolerance: float = 1e-3
    mean_tolerance: float | None = None  # of the mean difference; the one that tells in bfloat16: 0.05
    stop: bool = True


@dataclass
class TrainerConfig:
    steps: int = 100
    prompts_per_step: int = 64
    samples_per_prompt: int = 8
    updates_per_step: int = 1  # optimizer steps that share one batch of samples
    epochs_per_step: int = 1  # passes over that batch
    max_tokens_per_micro_batch: int = 4096
    max_staleness: int = 0
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    critic_learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)


@dataclass
class OfflineTrainConfig:
    """Batch words and schedule of a stage that trains on records."""

    epochs: float = 1.0  # over the stage's data; not used where `steps` is set
    steps: int | None = None  # of the optimizer
    per_step: int = 64  # sequences, or pairs, of one optimizer step; at most
    learning_rate: LearningRateConfig = field(default_factory=lambda: LearningRateConfig(peak=1e-5))
    checkpoint_every: int = 50  # steps; 0: none, a stage that is killed starts over
    ignore_tokens: list[str] = field(default_factory=list)  # never trained on, as Llama 3 masks formatting tokens
