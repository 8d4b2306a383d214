"""The records of a step. Flat and aligned: every per-token array has the length of `tokens`.

Shapes: P prompts, G samples per prompt, B = P * G sequences of T tokens each, N tokens in all sequences of a batch.
Conventions: `logprobs[t] = log p(tokens[t] | tokens[:t])` within a sequence; index 0 has no context, is 0.0 and masked
out.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlcore.ragged import Int64, offsets_of, row_chunks, tokens_of

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of data, ready for sampling.

    >>> Prompt(uid="train-17", token_ids=(9, 6, 12, 10, 7, 13), text="74+85=", reference="501", rewards=("math",)).uid
    'train-17'
    """

    uid: str  # unique per row, stable over runs and resumes
    token_ids: tuple[int, ...]
    text: str  # the rendered prompt, after the chat template
    reference: str | None = None  # the expected answer; None if no verifier needs one
    rewards: tuple[str, ...] = ()  # reward names of this row; empty: the terms of the config
    metadata: Mapping[str, Any] = field(default_factory=dict)  # all other columns of the row
    source: str = ""  # name of the data set; filters and mixtures count by it


class Status(str, enum.Enum):
    """Status of one reward call. Everything except OK is a failure, never a silent zero."""

    OK = "ok"
    UNPARSABLE = "unparsable"  # the reference (data) is invalid; a wrong answer is OK with score 0
    TIMEOUT = "timeout"
    ERROR = "error"


REFERENCES = "references"  # metadata key: all acceptable answers, if several; `reference` is the first


@dataclass(frozen=True, slots=True)
class RewardInput:
    """Input of a reward function. With several acceptable answers it is called for each; the best result counts."""

    prompt: str
    response: str
    reference: str | None = None
    finish_reason: str = "stop"  # "stop" (the model ended it) or "length" (cut off)
    num_response_tokens: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A score with parts, status and info.

    >>> RewardResult(score=0.5, parts={"math": 1.0, "length": -0.5}).ok
    True
    """

    score: float
    status: Status = Status.OK
    parts: Mapping[str, float] = field(default_factory=dict)  # named summands, each logged as a metric
    info: Mapping[str, Any] = field(default_factory=dict)  # for display: extracted answer, error text

    @property
    def ok(self) -> bool:
        return self.status is Status.OK


@dataclass(slots=True)
class Trajectory:
    """One sampled sequence. All arrays have length T = len(tokens).

    A prompt of two tokens and a response of three, sampled during the update from version 4 to 5:

        tokens            [ 9,   6,   5,   0,    1 ]
        loss_mask         [ F,   F,   T,   T,    T ]
        rollout_logprobs  [ 0., 0., -.2, -.9,  -.1 ]     0.0 for unsampled tokens
        versions          [-1,  -1,   4,   4,    5 ]     -1 for unsampled tokens
    """

    uid: str  # uid of the prompt
    sample_id: str  # "<uid>#<step>.<k>", unique within a run
    tokens: Int32
    loss_mask: Bool
    rollout_logprobs: Float32
    versions: Int32
    num_prompt_tokens: int
    finish_reason: str  # "stop" | "length"
    text: str  # the decoded response, without special tokens
    reward: RewardResult | None = None
    engine: int = -1  # rank of the rollout engine that sampled it; -1: unknown
    begun_version: int = -1  # weight version when the engine began with the prompt; -1: unknown
    rollout_id: str = ""  # several trajectories of one rollout share it, and its reward; "": alone in its rollout
    turns: tuple[Mapping[str, Any], ...] = ()  # of several: {"role", "text"}, and "name" of a tool
    masked: bool = False  # not trained on, and excluded from the statistics of its group

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def num_response_tokens(self) -> int:
        return len(self) - self.num_prompt_tokens

    @property
    def transcript(self) -> str:
        """The response; of several turns all of them, each after the name of its speaker."""
        if not self.turns:
            return self.text
        return "\n".join(f"[{turn.get('name') or turn['role']}] {turn['text']}" for turn in self.turns)

    @property
    def oldest_version(self) -> int:
        """Smallest weight version that produced a token; -1 without sampled tokens."""
        sampled = self.versions[self.versions >= 0]
        return int(sampled.min()) if sampled.size else -1


@dataclass(slots=True)
class Group:
    """A prompt and its G samples, in sampling order. Each is one trajectory, or the trajectories of one rollout."""

    prompt: Prompt
    trajectories: list[Trajectory]

    @property
    def rollouts(self) -> list[Trajectory]:
        """One trajectory of each rollout, the last: it has the rollout's reward, text and turns."""
        return list({t.rollout_id or t.sample_id: t for t in self.trajectories}.values())


SampledPair = tuple[Trajectory, Trajectory]  # chosen and rejected response to one prompt, each with its reward


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and one response, from data or from a model, for offline stages.

    A multi-turn demonstration is one sample: the prompt ends before the first answer, the response has the rest, and
    `loss_mask` is True on the assistant's turns.

    >>> Sample(Prompt("p-1", (9, 6), "1+"), "p-1#0.0", "2", (5, 1)).num_trained
    2
    """

    prompt: Prompt
    sample_id: str  # unique within an artefact
    text: str  # the decoded response, without special tokens
    token_ids: tuple[int, ...]  # tokens of the response, including the end token if the model ended it
    loss_mask: tuple[bool, ...] | None = None  # per response token; None: all are trained
    finish_reason: str = "stop"  # "stop" | "length"
    model: str = ""  # content hash of the sampling model; "" for data
    reward: RewardResult | None = None  # its `parts` have labelled or predicted attributes by name

    @property
    def num_trained(self) -> int:
        return len(self.token_ids) if self.loss_mask is None else sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one prompt, the first preferred; from data, or chosen among samples."""

    prompt: Prompt
    chosen: Sample
    rejected: Sample
    strength: float | None = None  # strength of the preference, on the data's scale; None: unknown

    @property
    def uid(self) -> str:
        return f"{self.chosen.sample_id}>{self.rejected.sample_id}"


@dataclass(slots=True)
class TrainBatch:
    """B sequences one after the other, without padding; numpy, so that it can be sent between processes without a copy.

    Row b is `tokens[offsets[b]:offsets[b + 1]]`, and so in every array of tokens. Rows of three and of two tokens:

        tokens     [ 9,  6,  5,    7,  2 ]
        loss_mask  [ F,  F,  T,    F,  T ]
        offsets    [ 0,            3,      5 ]

    Optional fields are None until a model has computed them. Arrays from Ray are read-only.
    """

    tokens: Int32  # [N]
    offsets: Int64  # [B + 1], from 0 to N
    loss_mask: Bool  # [N], True for trained tokens
    sample_ids: Sequence[str]  # [B]; padding rows have ""
    rollout_logprobs: Float32 | None = None  # [N] sampler
    old_logprobs: Float32 | None = None  # [N] trainer, at batch start
    ref_logprobs: Float32 | None = None  # [N]
    values: Float32 | None = None  # [N]
    returns: Float32 | None = None  # [N]
    advantages: Float32 | None = None  # [N]
    scores: Float32 | None = None  # [B], reward of each row
    targets: Float32 | None = None  # [B, K] labels of a reward model's outputs, NaN where not labelled
    strengths: Float32 | None = None  # [B] strength of the row's preference, NaN where unknown
    labels: Float32 | None = None  # [B] probability that a row is better than the other row of its pair
    weights: Float32 | None = None  # [B] weight of the row's pair in the loss
    by_opponent: Bool | None = None  # [B] True for a response of the policy's opponent; None: all have one sampler
    rows_per_unit: int = 1  # rows that must be in the same micro-batch: 2 for pairs

    ARRAYS = ("rollout_logprobs", "old_logprobs", "ref_logprobs", "values", "returns", "advantages")
    OF_ROWS = ("scores", "targets", "strengths", "labels", "weights", "by_opponent")

    @classmethod
    def from_padded(
        cls, tokens: Int32, lengths: Sequence[int] | NDArray[Any], loss_mask: Bool, sample_ids: Sequence[str],
        **fields: Any,
    ) -> TrainBatch:  # fmt: skip
        """From [B, T] arrays, padded on the right.

        Args:
            lengths: [B], tokens of each row without padding.
            fields: other fields by name; those of `ARRAYS` are [B, T] as well.
        """
        offsets = offsets_of(lengths)
        real = np.arange(tokens.shape[1]) < np.diff(offsets)[:, None]
        flat = {n: a[real] if n in cls.ARRAYS and a is not None else a for n, a in fields.items()}
        return cls(tokens[real], offsets, loss_mask[real], sample_ids, **flat)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """[B], tokens of each row."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def num_loss_tokens(self) -> int:
        return int(self.loss_mask.sum())

    @property
    def loss_counts(self) -> Int64:
        """[B], trained tokens of each row."""
        counts = np.zeros(len(self), dtype=np.int64)
        for rows, part in self.chunks():
            filled = part.lengths > 0  # `reduceat` gives an empty row the number of the next one
            if filled.any():
                trained = part.loss_mask.view(np.uint8)
                counts[rows][filled] = np.add.reduceat(trained, part.offsets[:-1][filled], dtype=np.int64)
        return counts

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> TrainBatch:
        """The given rows, in the given order. Copies."""
        index = np.asarray(rows, dtype=np.int64)
        tokens = tokens_of(self.offsets, index)
        arrays = {name: None if (a := getattr(self, name)) is None else a[tokens] for name in self.ARRAYS}
        arrays |= {name: None if (a := getattr(self, name)) is None else a[index] for name in self.OF_ROWS}
        return TrainBatch(
            tokens=self.tokens[tokens],
            offsets=offsets_of(self.lengths[index]),
            loss_mask=self.loss_mask[tokens],
            sample_ids=[self.sample_ids[i] for i in index],
            rows_per_unit=self.rows_per_unit,
            **arrays,
        )

    def with_arrays(self, **arrays: Float32) -> TrainBatch:
        """A shallow copy with some optional arrays set; shapes must equal [N]."""
        for name, array in arrays.items():
            if name not in self.ARRAYS:
                raise KeyError(f"TrainBatch has no optional array {name!r}; it has {', '.join(self.ARRAYS)}")
            if array.shape != self.tokens.shape:
                raise ValueError(f"{name} has shape {array.shape}, the batch has {self.tokens.shape}")
        return replace(self, **arrays)  # type: ignore[arg-type]

    def chunks(self) -> Iterator[tuple[slice, TrainBatch]]:
        """Consecutive rows, few tokens at a time, without copies: their row numbers and those rows as a batch."""
        for rows in row_chunks(self.offsets):
            offsets = self.offsets[rows.start : rows.stop + 1]
            names = {name: slice(offsets[0], offsets[-1]) for name in ("tokens", "loss_mask", *self.ARRAYS)}
            names |= dict.fromkeys((*self.OF_ROWS, "sample_ids"), rows)
            part = {name: array[at] for name, at in names.items() if (array := getattr(self, name)) is not None}
            yield rows, replace(self, offsets=offsets - offsets[0], **part)

    def padded(self, array: str | NDArray[Any]) -> NDArray[Any]:
        """A copy of an array of tokens, by name or itself, as [B, T], with 0 after the end of each row."""
        flat: NDArray[Any] = getattr(self, array) if isinstance(array, str) else array
        lengths = self.lengths
        out = np.zeros((len(self), int(lengths.max(initial=0))), dtype=flat.dtype)
        out[np.arange(out.shape[1]) < lengths[:, None]] = flat
        return out

    def flat(self, padded: NDArray[Any]) -> NDArray[Any]:
        """[N] from [B, T], padded on the right; the opposite of `padded`."""
        out: NDArray[Any] = padded[np.arange(padded.shape[1]) < self.lengths[:, None]]
        return out


@dataclass(frozen=True)
class RewardScale:
    """Combines K outputs into one reward: `(sum_k weights_k s_k - mean) / std`; stored next to the model as
    reward_model.json.

    >>> RewardScale(("helpfulness", "verbosity"), (1.0, -0.5), mean=1.0, std=2.0).rewards(np.array([[4.0, 2.0]]))
    array([1.], dtype=float32)
    """

    attributes: tuple[str, ...]
    weights: tuple[float, ...]
    mean: float = 0.0
    std: float = 1.0
    trained_with: Mapping[str, Any] = field(default_factory=dict)  # the settings as JSON; empty: unknown

    FILE: ClassVar[str] = "reward_model.json"

    def __post_init__(self) -> None:
        if len(self.attributes) != len(self.weights) or not self.attributes:
            raise ValueError(f"attributes {self.attributes} and weights {self.weights} must be as many, at least one")
        if not (self.std > 0 and all(map(math.isfinite, (self.std, self.mean, *self.weights)))):
            raise ValueError(f"mean {self.mean}, std {self.std} and weights {self.weights} must be finite, std above 0")

    @classmethod
    def of(cls, attributes: Sequence[str]) -> RewardScale:
        """Uses only the first attribute."""
        return cls(tuple(attributes), (1.0, *([0.0] * (len(attributes) - 1))))

    def rewards(self, scores: Float32) -> Float32:
        """[B] float32 rewards from [B, K] outputs."""
        summed = np.asarray(scores, dtype=np.float64) @ np.asarray(self.weights)
        rewards: Float32 = ((summed - self.mean) / self.std).astype(np.float32)
        return rewards

    def write(self, directory: str | Path) -> None:
        (Path(directory) / self.FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: str | Path) -> RewardScale | None:
        """Reads the file; None if the folder has none.

        Raises:
            ValueError: the file is invalid.
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
        """A copy with outputs named `attributes`; None keeps the names.

        Raises:
            ValueError: wrong number of names.
        """
        if attributes is None or tuple(attributes) == self.attributes:
            return self
        if len(attributes) != len(self.attributes):
            raise ValueError(
                f"the model has {len(self.attributes)} outputs ({', '.join(self.attributes)}), attributes are "
                f"{', '.join(attributes)}: name as many, or start from a causal language model, which gets a new head"
            )
        return replace(self, attributes=tuple(attributes))
