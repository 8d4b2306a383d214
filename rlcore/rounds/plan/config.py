"""Config of multi-round post-training: a list of stages, repeated with overrides per round.

A stage reads artefacts and produces one. A reference names each input:

    best              of the stage `best` of the same round
    dpo@previous      of the stage `dpo` in the latest earlier round in which it ran
    dpo@latest        of its latest run so far, including this round
    best@all          of all its runs so far, including this round; for inputs that take several
    dpo@2             of its run in round 2
    dpo@previous|sft  the first alternative that exists

Built-in inputs: `start` (the model of the run), `train` and `heldout` (prompts of `data`), `answers` (the training
prompts with their references as responses), and the names in `rounds.models` and `rounds.sources`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.problems import Problem
from rlcore.rewards.config import RewardConfig


class Made(str, enum.Enum):
    """Kind of an artefact."""

    prompts = "prompts"
    samples = "samples"
    pairs = "pairs"
    model = "model"
    reward_model = "reward_model"
    report = "report"


RECORDS = (Made.prompts, Made.samples, Made.pairs)
CHAT = ("data.chat_template", "data.chat_template_file", "data.chat_options")  # for READS
BUILT_IN = {"start": Made.model, "train": Made.prompts, "heldout": Made.prompts, "answers": Made.samples}


class ScoreBy(str, enum.Enum):
    reward = "reward"  # the reward of the config: verifiers, with a model or judge as fallback
    reward_model = "reward_model"
    judge = "judge"
    model = "model"  # answer probabilities of a model of the run; not for `rl`


@dataclass
class StageConfig:
    """Base config of a stage. Every module of `rlcore.rounds.stages` is a kind of stage with a subclass of this."""

    rounds: list[int] = field(default_factory=list)  # rounds in which the stage runs, from 1; empty: all

    KIND: ClassVar[str]
    PRODUCES: ClassVar[Made | None]  # kind of its output; None: the kind of its `data`
    CONSUMES: ClassVar[dict[str, tuple[Made, ...]]] = {}  # fields with references -> allowed kinds of artefacts
    READS: ClassVar[tuple[str, ...]] = ()  # groups of the run's config that affect its output
    SEEDED: ClassVar[bool] = True  # uses random numbers: equal inputs give different outputs in different rounds
    NAMED: ClassVar[bool] = False  # its name is part of its output
    VERSION: ClassVar[int] = 1  # part of its keys; raise it when equal settings give a different output

    def consumes(self, field: str) -> tuple[Made, ...]:
        return self.CONSUMES[field]

    def reads(self) -> tuple[str, ...]:
        """The groups of READS that its options need."""
        return tuple(group for group in self.READS if group != "reward" or getattr(self, "score", True))

    def asks_reward(self) -> bool:
        """True if it scores with the reward of the run."""
        return getattr(self, "score", False)

    def needs_reward_model(self) -> bool:
        by = getattr(self, "by", None)
        return getattr(self, "reward_model", None) is not None or by is ScoreBy.reward_model

    def code(self, reward: RewardConfig, algorithm: AlgorithmConfig) -> list[str]:
        """Python files and modules of the user that the stage runs."""
        if "reward" not in self.reads() or getattr(self, "by", ScoreBy.reward) is not ScoreBy.reward:
            return []
        functions = [reward.fn] if reward.fn else [term.fn for term in reward.terms if term.fn]
        return [path.rpartition(":")[0] for path in functions]

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        """Errors beyond `setting_problems`. `key`: config key of the stage; `made`: kind of its output."""
        yield from ()


@dataclass
class RoundsConfig:
    """`rlcore rounds`. Stages run in the order of their references, otherwise as listed."""

    count: int = 1  # number of rounds
    stages: dict[str, Any] = field(default_factory=dict)  # name -> {kind: ..., options of that kind}
    overrides: dict[str, Any] = field(default_factory=dict)  # number of a round -> {stage name: {option: value}}
    models: dict[str, str] = field(default_factory=dict)  # name -> Hugging Face folder, for references
    sources: dict[str, Any] = field(default_factory=dict)  # name -> data from a file, see rlcore.data.examples.load
