"""The records that travel through a step. Flat and aligned: every per-token array has the length of `tokens`.

Shapes: P prompts, G samples per prompt, B = P * G sequences, T tokens, padded on the right.
Conventions: `logprobs[b, t] = log p(tokens[b, t] | tokens[b, :t])`; index 0 has no context, is 0.0 and masked out.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of data, ready to be sampled from.

    >>> Prompt(uid="train-17", token_ids=(9, 6, 12, 10, 7, 13), text="74+85=", reference="501", rewards=("math",)).uid
    'train-17'
    """

    uid: str  # stable over runs and resumes: two rows never share one
    token_ids: tuple[int, ...]
    text: str  # the prompt as rendered, chat template applied
    reference: str | None = None  # the expected answer; None when no verifier needs one
    rewards: tuple[str, ...] = ()  # reward names of this row; empty: the config's
    metadata: Mapping[str, Any] = field(default_factory=dict)  # every other column of the row
    source: str = ""  # the data set it came from; filters and mixtures count by it


class Status(str, enum.Enum):
    """What became of one reward call. Anything but OK is a failure, never a silent zero."""

    OK = "ok"
    UNPARSABLE = "unparsable"  # the reference (data) cannot be read; a wrong answer is OK with score 0
    TIMEOUT = "timeout"
    ERROR = "error"


REFERENCES = "references"  # metadata: all acceptable answers, where there are several; `reference` is the first


@dataclass(frozen=True, slots=True)
class RewardInput:
    """What a reward function sees of one sample. With several acceptable answers it is called for each; the best
    result counts."""

    prompt: str
    response: str
    reference: str | None = None
    finish_reason: str = "stop"  # "stop" (the model ended it) or "length" (cut off)
    num_response_tokens: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A score with its provenance.

    >>> RewardResult(score=0.5, parts={"math": 1.0, "length": -0.5}).ok
    True
    """

    score: float
    status: Status = Status.OK
    parts: Mapping[str, float] = field(default_factory=dict)  # named summands, each logged as a metric
    info: Mapping[str, Any] = field(default_factory=dict)  # for people: extracted answer, error text

    @property
    def ok(self) -> bool:
        return self.status is Status.OK


@dataclass(slots=True)
class Trajectory:
    """One sampled sequence. All arrays have length T = len(tokens).

    A prompt of two tokens and a response of three, sampled while the weights went from version 4 to 5:

        tokens            [ 9,   6,   5,   0,    1 ]
        loss_mask         [ F,   F,   T,   T,    T ]
        rollout_logprobs  [ 0., 0., -.2, -.9,  -.1 ]     0.0 where nothing was sampled
        versions          [-1,  -1,   4,   4,    5 ]     -1 where nothing was sampled
    """

    uid: str  # of the prompt
    sample_id: str  # "<uid>#<step>.<k>", unique within a run
    tokens: Int32
    loss_mask: Bool
    rollout_logprobs: Float32
    versions: Int32
    num_prompt_tokens: int
    finish_reason: str  # "stop" | "length"
    text: str  # the response, decoded, special tokens left out
    reward: RewardResult | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def num_response_tokens(self) -> int:
        return len(self) - self.num_prompt_tokens

    @property
    def oldest_version(self) -> int:
        """Smallest weight version that produced a token; -1 when nothing was sampled."""
        sampled = self.versions[self.versions >= 0]
        return int(sampled.min()) if sampled.size else -1


@dataclass(slots=True)
class Group:
    """A prompt and its G samples, in sampling order."""

    prompt: Prompt
    trajectories: list[Trajectory]


SampledPair = tuple[Trajectory, Trajectory]  # chosen and rejected response to one prompt, each with its reward


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and one response to it, from data or from a model: what offline stages score, filter and train on.

    A multi-turn demonstration is one sample: the prompt ends where the model first answers, the response holds all that
    follows, and `loss_mask` is True on the model's own turns.

    >>> Sample(Prompt("p-1", (9, 6), "1+"), "p-1#0.0", "2", (5, 1)).num_trained
    2
    """

    prompt: Prompt
    sample_id: str  # unique within an artefact
    text: str  # the response, decoded, special tokens left out
    token_ids: tuple[int, ...]  # of the response, the end token included where the model ended it
    loss_mask: tuple[bool, ...] | None = None  # per response token; None: all are trained on
    finish_reason: str = "stop"  # "stop" | "length"
    model: str = ""  # content hash of the model that said it; "" for data
    reward: RewardResult | None = None  # its `parts` hold labelled or predicted attributes by name

    @property
    def num_trained(self) -> int:
        return len(self.token_ids) if self.loss_mask is None else sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one prompt, the first preferred; from data, or chosen among samples."""

    prompt: Prompt
    chosen: Sample
    rejected: Sample
    strength: float | None = None  # how much better, on the data's scale; None: unknown

    @property
    def uid(self) -> str:
        return f"{self.chosen.sample_id}>{self.rejected.sample_id}"


@dataclass(slots=True)
class TrainBatch:
    """B sequences padded on the right to a common T; numpy, so that it crosses process borders without a copy.

    Optional fields are None until some model has computed them. Arrays that arrive through Ray are read-only.
    """

    tokens: Int32  # [B, T], padded with 0
    lengths: Int32  # [B], tokens of each row that are real
    loss_mask: Bool  # [B, T], True where trained on
    sample_ids: Sequence[str]  # [B]; padding rows have ""
    rollout_logprobs: Float32 | None = None  # [B, T] sampler
    old_logprobs: Float32 | None = None  # [B, T] trainer, at batch start
    ref_logprobs: Float32 | None = None  # [B, T]
    values: Float32 | None = None  # [B, T]
    returns: Float32 | None = None  # [B, T]
    advantages: Float32 | None = None  # [B, T]
    scores: Float32 | None = None  # [B], reward of each row
    targets: Float32 | None = None  # [B, K] labels of a reward model's outputs, NaN where not labelled
    strengths: Float32 | None = None  # [B] of the preference a row is part of, NaN where unknown
    labels: Float32 | None = None  # [B] chance that a row is better than the other one of its pair
    weights: Float32 | None = None  # [B] of the pair a row is part of, in the loss
    rows_per_unit: int = 1  # rows that must stay together, in one micro-batch: 2 where they are pairs

    ARRAYS = ("rollout_logprobs", "old_logprobs", "ref_logprobs", "values", "returns", "advantages")
    OF_ROWS = ("scores", "targets", "strengths", "labels", "weights")

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_loss_tokens(self) -> int:
        return int(self.loss_mask.sum())

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> TrainBatch:
        """The given rows, in the given order, trimmed on the right to their longest. Copies."""
        index = np.asarray(rows, dtype=np.int64)
        width = int(self.lengths[index].max()) if index.size else 0
        arrays = {name: None if (a := getattr(self, name)) is None else a[index, :width] for name in self.ARRAYS}
        arrays |= {name: None if (a := getattr(self, name)) is None else a[index] for name in self.OF_ROWS}
        return TrainBatch(
            tokens=self.tokens[index, :width],
            lengths=self.lengths[index],
            loss_mask=self.loss_mask[index, :width],
            sample_ids=[self.sample_ids[i] for i in index],
            rows_per_unit=self.rows_per_unit,
            **arrays,
        )

    def with_arrays(self, **arrays: Float32) -> TrainBatch:
        """A shallow copy with some optional arrays set; shapes must equal [B, T]."""
        for name, array in arrays.items():
            if name not in self.ARRAYS:
                raise KeyError(f"TrainBatch has no optional array {name!r}; it has {', '.join(self.ARRAYS)}")
            if array.shape != self.tokens.shape:
                raise ValueError(f"{name} has shape {array.shape}, the batch has {self.tokens.shape}")
        return replace(self, **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RewardScale:
    """One reward of K outputs: `(sum_k weights_k s_k - mean) / std`; stored next to the model as reward_model.json.

    >>> RewardScale(("helpfulness", "verbosity"), (1.0, -0.5), mean=1.0, std=2.0).rewards(np.array([[4.0, 2.0]]))
    array([1.], dtype=float32)
    """

    attributes: tuple[str, ...]
    weights: tuple[float, ...]
    mean: float = 0.0
    std: float = 1.0
    trained_with: Mapping[str, Any] = field(default_factory=dict)  # the settings, as JSON has them; empty: not here

    FILE: ClassVar[str] = "reward_model.json"

    def __post_init__(self) -> None:
        if len(self.attributes) != len(self.weights) or not self.attributes:
            raise ValueError(f"attributes {self.attributes} and weights {self.weights} must be as many, at least one")
        if not (self.std > 0 and all(map(math.isfinite, (self.std, self.mean, *self.weights)))):
            raise ValueError(f"mean {self.mean}, std {self.std} and weights {self.weights} must be finite, std above 0")

    @classmethod
    def of(cls, attributes: Sequence[str]) -> RewardScale:
        """The first attribute alone."""
        return cls(tuple(attributes), (1.0, *([0.0] * (len(attributes) - 1))))

    def rewards(self, scores: Float32) -> Float32:
        """[B] float32 of [B, K]."""
        summed = np.asarray(scores, dtype=np.float64) @ np.asarray(self.weights)
        rewards: Float32 = ((summed - self.mean) / self.std).astype(np.float32)
        return rewards

    def write(self, directory: str | Path) -> None:
        (Path(directory) / self.FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: str | Path) -> RewardScale | None:
        """None where the folder has no such file.

        Raises:
            ValueError: the file is there and is not what `write` writes.
        """
        file = Path(directory) / cls.FILE
        if not file.is_file():
            return None
        try:
            held = json.loads(file.read_text())
            names, weights = tuple(map(str, held["attributes"])), tuple(map(float, held["weights"]))
            return cls(names, weights, float(held["mean"]), float(held["std"]), held["trained_with"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} does not describe a reward model: {error!r}. Export the model again") from error

    def named(self, attributes: Sequence[str] | None) -> RewardScale:
        """The same with its outputs called `attributes`; None leaves them.

        Raises:
            ValueError: another number of names than outputs.
        """
        if attributes is None or tuple(attributes) == self.attributes:
            return self
        if len(attributes) != len(self.attributes):
            raise ValueError(
                f"the model has {len(self.attributes)} outputs ({', '.join(self.attributes)}), attributes are "
                f"{', '.join(attributes)}: name as many, or start from a causal language model, which gets a new head"
            )
        return replace(self, attributes=tuple(attributes))
