"""Settings of the rewards."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import bounded
from rlcore.rewards.judge.config import JudgeConfig


class OnFailure(str, enum.Enum):
    mask = "mask"  # the sample takes no part in its group's statistics and is not trained on
    zero = "zero"
    fail = "fail"  # stop the run at the first failure


class Fallback(str, enum.Enum):
    """What scores a row that no verifier can score."""

    none = "none"
    reward_model = "reward_model"
    judge = "judge"


class Tier(str, enum.Enum):
    """What keeps a model's program from everything else, best first."""

    auto = "auto"  # bwrap, or else landlock; never remote or unsafe by itself
    bwrap = "bwrap"
    landlock = "landlock"
    remote = "remote"
    unsafe = "unsafe"


@dataclass
class SandboxConfig:
    """Where the programs of the reward `code` run."""

    tier: Tier = Tier.auto  # isolation of programs
    url: str | None = None  # of the tier remote: `python -m rlcore.rewards.sandbox.server` answers there
    retries: int = bounded(2, ge=0)  # of the tier remote, within the deadline
    readable: list[str] = field(default_factory=list)  # further files and folders that programs may read
    python_path: list[str] = field(default_factory=list)  # further folders that programs may read and import from
    preload: list[str] = field(default_factory=list)  # further modules imported once, ahead of every program
    languages: dict[str, Any] = field(default_factory=dict)  # name: {file, run, compile, reserves}


class MathAnswer(str, enum.Enum):
    """Where the reward `math` finds the answer of a response; see `rlcore.rewards.math.score`."""

    boxed = "boxed"  # in \\boxed{}
    tagged = "tagged"  # in <answer></answer>
    hashes = "hashes"  # behind ####, on its line
    whole = "whole"  # the response is the answer
    free = "free"  # wherever the response states it, in prose too: for stored completions, not for training


@dataclass
class MathConfig:
    """Options of every term `math`; a term's own options come first."""

    answer: MathAnswer = MathAnswer.boxed  # where the answer of a response is read


@dataclass
class RewardTermConfig:
    name: str = "math"  # a registered name, `reward_model` or `judge`; ignored when `fn` is given
    fn: str | None = None  # "path/to/file.py:function" or "package.module:function"
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the reward function


@dataclass
class RewardConfig:
    fn: str | None = None  # shorthand for a single term by path
    # rewards, added up by their weights
    terms: list[RewardTermConfig] = field(default_factory=lambda: [RewardTermConfig()])
    processes_per_worker: int = bounded(1, ge=1)  # verifier processes of each worker of the role `verifier`
    timeout_s: float = bounded(5.0, gt=0)  # per sample; then the worker process is killed and replaced
    memory_limit_mb: int = bounded(2048, ge=64)  # of one verifier process
    on_failure: OnFailure = OnFailure.mask  # what a response without a score counts
    fallback: Fallback = Fallback.none  # where no verifier applies: without reference, or one that cannot be read
    fallback_weight: float = 1.0  # of the fallback's score
    model: str | None = None  # of the term `reward_model`: a Hugging Face sequence classification folder or hub id
    math: MathConfig = field(default_factory=MathConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)  # a language model that grades or compares
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    max_failed_share: float = bounded(0.5, gt=0, le=1)  # of a step's samples; above it the run stops and shows some
