"""Config of the rewards."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import bounded
from rlcore.rewards.judge.config import JudgeConfig


class OnFailure(str, enum.Enum):
    mask = "mask"  # exclude the sample from group statistics and training
    zero = "zero"
    fail = "fail"  # stop the run at the first failure


class Fallback(str, enum.Enum):
    """Scorer of rows that no verifier can score."""

    none = "none"
    reward_model = "reward_model"
    judge = "judge"


class Tier(str, enum.Enum):
    """Isolation of programs, strongest first."""

    auto = "auto"  # bwrap, otherwise landlock; never remote or unsafe
    bwrap = "bwrap"
    landlock = "landlock"
    remote = "remote"
    unsafe = "unsafe"


@dataclass
class SandboxConfig:
    """Sandbox for programs of the reward `code`."""

    tier: Tier = Tier.auto  # isolation of programs
    url: str | None = None  # for tier remote: URL of `python -m rlcore.rewards.sandbox.server`
    retries: int = bounded(2, ge=0)  # for tier remote: retries within the deadline
    readable: list[str] = field(default_factory=list)  # additional files and folders that programs may read
    python_path: list[str] = field(default_factory=list)  # additional folders that programs may read and import from
    preload: list[str] = field(default_factory=list)  # additional modules, imported once before programs run
    languages: dict[str, Any] = field(default_factory=dict)  # name -> {file, run, compile, reserves}


class MathAnswer(str, enum.Enum):
    """Place of the answer in a response, see `rlcore.rewards.math.score`."""

    boxed = "boxed"  # in \\boxed{}
    tagged = "tagged"  # in <answer></answer>
    hashes = "hashes"  # after ####, until the end of the line
    whole = "whole"  # the response is the answer
    free = "free"  # anywhere, also in prose: for stored completions, not for training


@dataclass
class MathConfig:
    """Default options of every term `math`; options of a term take precedence."""

    answer: MathAnswer = MathAnswer.boxed  # place of the answer in a response


@dataclass
class RewardTermConfig:
    name: str = "math"  # a registered name, `reward_model` or `judge`; ignored when `fn` is given
    fn: str | None = None  # "path/to/file.py:function" or "package.module:function"
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments for the reward function


@dataclass
class RewardConfig:
    fn: str | None = None  # shorthand for a single term by path
    # rewards and their weights in the sum
    terms: list[RewardTermConfig] = field(default_factory=lambda: [RewardTermConfig()])
    processes_per_worker: int = bounded(1, ge=1)  # verifier processes of each worker of the role `verifier`
    timeout_s: float = bounded(5.0, gt=0)  # limit per sample; then the worker process is killed and replaced
    memory_limit_mb: int = bounded(2048, ge=64)  # memory limit of one verifier process
    on_failure: OnFailure = OnFailure.mask  # treatment of a response without a score
    fallback: Fallback = Fallback.none  # scorer of rows without a reference, or with an invalid one
    fallback_weight: float = 1.0  # weight of the fallback's score
    model: str | None = None  # for `reward_model`: folder or hub id of a sequence classification model
    math: MathConfig = field(default_factory=MathConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)  # a language model that grades or compares
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    max_failed_share: float = bounded(0.5, gt=0, le=1)  # share of failed samples in a step that stops the run
