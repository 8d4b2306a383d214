"""Settings of multi-round post-training: a list of stages, repeated with overrides per round.

A stage reads artefacts and makes one. It names what it reads by a reference:

    best              made by the stage `best` of the same round
    dpo@previous      by the stage `dpo` of the newest earlier round in which it ran
    dpo@latest        by its newest run so far, this round included
    best@all          all of its runs so far, this round included; where several are read
    dpo@2             by its run in round 2
    dpo@previous|sft  the first alternative that exists

and what is there from the start: `start` (the run's model), `train` and `heldout` (prompts of `data`), `answers` (the
training prompts with their references as responses), and whatever `rounds.models` and `rounds.sources` name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.problems import Problem
from rlcore.rewards.config import RewardConfig


class Made(str, enum.Enum):
    """What an artefact is."""

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
    reward = "reward"  # the config's reward: verifiers, and what falls back on a model or a judge
    reward_model = "reward_model"
    judge = "judge"
    model = "model"  # a model of the run, by what it answers to a question; not for `rl`


@dataclass
class StageConfig:
    """What every stage has. A kind of stage is a module of `rlcore.rounds.stages` with a subclass of this."""

    rounds: list[int] = field(default_factory=list)  # in which it runs, counted from 1; empty: in every one

    KIND: ClassVar[str]
    PRODUCES: ClassVar[Made | None]  # None: what its `data` is
    CONSUMES: ClassVar[dict[str, tuple[Made, ...]]] = {}  # fields that hold references -> what those may lead to
    READS: ClassVar[tuple[str, ...]] = ()  # groups of the run's config that change what it makes
    SEEDED: ClassVar[bool] = True  # it draws: equal inputs give another result in another round
    NAMED: ClassVar[bool] = False  # its name is part of what it makes
    VERSION: ClassVar[int] = 1  # in its keys: raised when equal settings make another result than before

    def consumes(self, field: str) -> tuple[Made, ...]:
        return self.CONSUMES[field]

    def reads(self) -> tuple[str, ...]:
        """READS, as far as its options need them."""
        return self.READS

    def asks_reward(self) -> bool:
        """Whether it scores by the run's reward."""
        return False

    def needs_reward_model(self) -> bool:
        by = getattr(self, "by", None)
        return getattr(self, "reward_model", None) is not None or by is ScoreBy.reward_model

    def code(self, reward: RewardConfig, algorithm: AlgorithmConfig) -> list[str]:
        """Files and modules of the user's own Python that it runs."""
        if "reward" not in self.reads() or getattr(self, "by", ScoreBy.reward) is not ScoreBy.reward:
            return []
        functions = [reward.fn] if reward.fn else [term.fn for term in reward.terms if term.fn]
        return [path.rpartition(":")[0] for path in functions]

    def problems(self, key: str, made: Made) -> Iterator[Problem]:
        """What cannot work, beyond types and bounds. `key`: of the stage in the config; `made`: what it makes."""
        yield from ()


def option_problems(key: str, texts: Iterable[str]) -> Iterator[Problem]:
    """Of texts `option=value: why`."""
    for text in texts:
        option, _, why = text.partition(":")
        yield Problem(key, option, why.strip() or text, "fix it")


@dataclass
class RoundsConfig:
    """`rlcore rounds`. Stages run in the order that their references demand, otherwise as listed."""

    count: int = 1  # number of rounds
    stages: dict[str, Any] = field(default_factory=dict)  # name: {kind: ..., options of that kind}
    overrides: dict[str, Any] = field(default_factory=dict)  # number of a round: {stage name: {option: value}}
    models: dict[str, str] = field(default_factory=dict)  # name: a Hugging Face folder, to be referred to
    sources: dict[str, Any] = field(default_factory=dict)  # name: data from a file, see rlcore.data.examples.load
