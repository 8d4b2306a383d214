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
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlcore.algorithms.reward_config import RewardTrainingConfig
from rlcore.data.rewriting.evolution import RewritingConfig
from rlcore.data.rewriting.question import QuestionConfig
from rlcore.data.selection.best_of_n import SelectionConfig
from rlcore.data.selection.pairing import PairingConfig
from rlcore.loops.config import OfflineTrainConfig, Schedule


class StageKind(str, enum.Enum):
    generate = "generate"
    score = "score"
    filter = "filter"
    rejection_sample = "rejection_sample"
    pairs = "pairs"
    sft = "sft"
    preference = "preference"
    reward_model = "reward_model"
    rl = "rl"
    average = "average"
    rewrite = "rewrite"
    evaluate = "evaluate"


class Made(str, enum.Enum):
    """What an artefact is."""

    prompts = "prompts"
    samples = "samples"
    pairs = "pairs"
    model = "model"
    reward_model = "reward_model"
    report = "report"


CHAT = ("data.chat_template", "data.chat_template_file", "data.chat_options")
RECORDS = (Made.prompts, Made.samples, Made.pairs)
BUILT_IN = {"start": Made.model, "train": Made.prompts, "heldout": Made.prompts, "answers": Made.samples}


class ScoreBy(str, enum.Enum):
    reward = "reward"  # the config's reward: verifiers, and what falls back on a model or a judge
    reward_model = "reward_model"
    judge = "judge"
    model = "model"  # a model of the run, by what it answers to a question; not for `rl`


@dataclass
class StageConfig:
    """What every stage has. INPUTS: the fields that hold references, and what those may lead to."""

    rounds: list[int] = field(default_factory=list)  # in which it runs, counted from 1; empty: in every one

    INPUTS: ClassVar[dict[str, tuple[Made, ...]]] = {}
    READS: ClassVar[tuple[str, ...]] = ()  # groups of the run's config that change what it makes
    VERSION: ClassVar[int] = 1  # in its keys: raised when equal settings make another result than before


@dataclass
class GenerateConfig(StageConfig):
    """n samples per prompt from one model, or from each of a committee (Apple's iTeC, arXiv 2407.21075 section 4.3)."""

    models: list[str] = field(default_factory=lambda: ["start"])
    prompts: str = "train"
    num_prompts: int | None = None  # drawn by seed, others each round; None: all
    num_samples: int = 8  # per prompt and model
    temperature: float | None = None  # None: as `rollout` has it; so are the two below
    max_new_tokens: int | None = None
    score: bool = True  # by the config's reward, while others still generate
    enough: int | None = None  # adaptive: a prompt gets no more rounds of samples once so many are good
    good: float = 1.0  # score from which a sample counts as good
    max_samples: int = 64  # adaptive: at most, per prompt and model
    reward_model: str | None = None  # for a reward that asks one
    prompts_per_chunk: int = 512  # what a restart may have to generate again

    INPUTS: ClassVar = {"models": (Made.model,), "prompts": (Made.prompts,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model.dtype", "rollout", "reward")


@dataclass
class ScoreConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    by: ScoreBy = ScoreBy.reward
    reward_model: str | None = None
    model: str | None = None  # that answers the question, with by: model
    question: QuestionConfig = field(default_factory=QuestionConfig)
    samples_per_chunk: int = 4096

    INPUTS: ClassVar = {"samples": (Made.samples,), "reward_model": (Made.reward_model,), "model": (Made.model,)}
    READS: ClassVar = ("model.dtype", "reward", *CHAT)


@dataclass
class FilterStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # of one kind
    filters: list[Any] = field(default_factory=list)  # {kind: ..., options}; see rlcore.data.filters
    against: list[str] = field(default_factory=lambda: ["heldout"])  # what `contamination` compares with

    INPUTS: ClassVar = {"data": RECORDS, "against": (Made.prompts,)}


@dataclass
class RejectionSampleConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    select: SelectionConfig = field(default_factory=SelectionConfig)

    INPUTS: ClassVar = {"samples": (Made.samples,)}


@dataclass
class PairsConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    pairing: PairingConfig = field(default_factory=PairingConfig)

    INPUTS: ClassVar = {"samples": (Made.samples,)}


@dataclass
class SftConfig(StageConfig):
    data: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # of the entries of `data`; empty: all of every one
    start: str = "start"
    stop_at_accuracy: float | None = None  # greedy, on `measured_on`; None: all steps
    measured_on: str | None = None  # prompts
    check_every: int = 10  # steps between looks at that accuracy
    part: str = ""  # of the reward, by name, that is the accuracy; empty: the score
    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)

    INPUTS: ClassVar = {"data": (Made.samples,), "start": (Made.model,), "measured_on": (Made.prompts,)}
    READS: ClassVar = ("model", "engine")


@dataclass
class PreferenceStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # pairs; for `kto` scored samples will do, good from 0.5 on
    start: str = "start"
    reference: str | None = None  # None: `start`
    loss: str = "dpo"  # see rlcore.ops.preference_losses
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.0
    eta: float = 1.0
    sft_coef: float = 0.0  # times the chosen response's negative log-likelihood per token, added
    desirable_weight: float = 1.0  # of kto, as is the next
    undesirable_weight: float = 1.0
    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)

    INPUTS: ClassVar = {"data": (Made.pairs, Made.samples), "start": (Made.model,), "reference": (Made.model,)}
    READS: ClassVar = ("model", "engine")


@dataclass
class RewardModelStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # pairs, or for regression samples with attributes
    start: str = "start"  # a model, or a reward model to train further
    held_out: float = 0.1  # share of the prompts that is measured on, not trained on
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    schedule: Schedule = Schedule.constant  # of training.learning_rate; linear and cosine end at a tenth of it
    checkpoint_every: int = 50

    INPUTS: ClassVar = {"data": (Made.pairs, Made.samples), "start": (Made.model, Made.reward_model)}
    READS: ClassVar = ("model", "engine")


@dataclass
class RlConfig(StageConfig):
    """The online loop, on the config of the run with `overrides` applied: `[algorithm=mdloo, trainer.steps=20]`."""

    prompts: str = "train"
    start: str = "start"
    by: ScoreBy = ScoreBy.reward  # what the reward is
    reward_model: str | None = None
    overrides: list[str] = field(default_factory=list)

    INPUTS: ClassVar = {"prompts": (Made.prompts,), "start": (Made.model,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model", "engine", "rollout", "reward", "algorithm", "trainer")
    VERSION: ClassVar = 2  # 1: every round in one order of prompts, a critic's head from the stage before


@dataclass
class AverageConfig(StageConfig):
    models: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # empty: equal

    INPUTS: ClassVar = {"models": (Made.model,)}


@dataclass
class RewriteConfig(StageConfig):
    """New prompts or responses out of old ones, by a model: see rlcore.data.rewriting.evolution."""

    data: str = "train"
    model: str = "start"
    rewriting: RewritingConfig = field(default_factory=RewritingConfig)
    temperature: float | None = None
    max_new_tokens: int | None = None
    score: bool = True  # new responses, by the config's reward
    reward_model: str | None = None  # for a reward that asks one
    prompts_per_chunk: int = 512

    INPUTS: ClassVar = {
        "data": (Made.prompts, Made.samples),
        "model": (Made.model,),
        "reward_model": (Made.reward_model,),
    }
    READS: ClassVar = (
        "model.dtype", "rollout", "reward", *CHAT, "data.system_prompt", "data.max_prompt_tokens",
    )  # fmt: skip


@dataclass
class EvaluateConfig(StageConfig):
    model: str = "start"
    prompts: str = "heldout"
    num_samples: int = 1
    temperature: float = 0.0
    max_prompts: int | None = None
    part: str = ""  # of the reward, by name, that is the accuracy; empty: the score
    reward_model: str | None = None  # its mean reward too; needed where the reward asks one

    INPUTS: ClassVar = {"model": (Made.model,), "prompts": (Made.prompts,), "reward_model": (Made.reward_model,)}
    READS: ClassVar = ("model.dtype", "rollout", "reward")


STAGES: dict[StageKind, type[StageConfig]] = {
    StageKind.generate: GenerateConfig,
    StageKind.score: ScoreConfig,
    StageKind.filter: FilterStageConfig,
    StageKind.rejection_sample: RejectionSampleConfig,
    StageKind.pairs: PairsConfig,
    StageKind.sft: SftConfig,
    StageKind.preference: PreferenceStageConfig,
    StageKind.reward_model: RewardModelStageConfig,
    StageKind.rl: RlConfig,
    StageKind.average: AverageConfig,
    StageKind.rewrite: RewriteConfig,
    StageKind.evaluate: EvaluateConfig,
}
MAKES: dict[StageKind, Made | None] = {  # None: what its `data` is
    StageKind.generate: Made.samples,
    StageKind.score: Made.samples,
    StageKind.filter: None,
    StageKind.rejection_sample: Made.samples,
    StageKind.pairs: Made.pairs,
    StageKind.sft: Made.model,
    StageKind.preference: Made.model,
    StageKind.reward_model: Made.reward_model,
    StageKind.rl: Made.model,
    StageKind.average: Made.model,
    StageKind.rewrite: None,
    StageKind.evaluate: Made.report,
}


@dataclass
class RoundsConfig:
    """`rlcore rounds`. Stages run in the order that their references demand, otherwise as listed."""

    count: int = 1
    stages: dict[str, Any] = field(default_factory=dict)  # name: {kind: ..., options of that kind}
    overrides: dict[str, Any] = field(default_factory=dict)  # number of a round: {stage name: {option: value}}
    models: dict[str, str] = field(default_factory=dict)  # name: a Hugging Face folder, to be referred to
    sources: dict[str, Any] = field(default_factory=dict)  # name: data from a file, see rlcore.data.examples.load
