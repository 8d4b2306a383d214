"""Protocols for the loops. The handles implement them over Ray, `tests/fakes.py` in process.

Loops use only these protocols, never actors, engines or their configs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlcore.metrics import Metrics
from rlcore.storage.durable import FileSums
from rlcore.types import Float32, Group, Prompt, RewardResult, RewardScale, TrainBatch

if TYPE_CHECKING:  # it imports torch
    from rlcore.objective import Objective


Rows = NDArray[np.int64]  # row numbers of a batch, of whole units


class RolloutAbandoned(RuntimeError):
    """The call was dropped by `RolloutEngine.abandon`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 keep the log-probs of the policy."""

    num_samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None  # of the call: equal weights, prompts and seed give equal samples on the same engine
    step: int = 0  # part of sample ids


class PromptSource(Protocol):
    """An endless, resumable stream of prompts in a fixed order."""

    def take(self, num_prompts: int, without: Collection[str] = ()) -> list[Prompt]:
        """The next prompts; prompts in `without` (uids) only if no others are left."""
        ...

    def find(self, uids: Sequence[str]) -> list[Prompt]:
        """Prompts that were taken before, by uid; the position in the stream stays. Raises: KeyError: unknown uid."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class RolloutEngine(Protocol):
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        """Yields the group of every prompt once, in order of completion. May be called from several threads at once."""
        ...

    def abandon(self) -> None:
        """Drops all calls of `generate` under way; they raise `RolloutAbandoned`. Later calls work as usual."""
        ...

    def metrics(self) -> Metrics:
        """Metrics of the engines since the last call."""
        ...


class RewardScorer(Protocol):
    def submit(self, group: Group) -> Future[list[RewardResult]]:
        """Starts scoring the samples of one group; results in the order of `group.trajectories`.

        The future always completes: with results, or with an error if the verifiers miss their deadline."""
        ...


class Judge(RewardScorer, Protocol):
    def metrics(self) -> Metrics:
        """Metrics of the judge since the last call, such as its position bias."""
        ...


class LogprobModel(Protocol):
    def logprobs(self, batch: TrainBatch, temperature: float | None = None, rows: Rows | None = None) -> Float32:
        """[N] float32 log-probs without gradient; 0 at the first token of a row. `temperature` None: as sampled.

        With `rows` only those are computed; the others get 0."""
        ...


class ReferenceModel(LogprobModel, Protocol):
    def initialize(self, directory: Path) -> None:
        """Loads weights from a Hugging Face folder of the same architecture."""
        ...


class TrainedModel(Protocol):
    def update(
        self, batch: TrainBatch, learning_rate: float, objective: Objective, rows: Rows | None = None,
        computed: Rows | None = None,
    ) -> Metrics:  # fmt: skip
        """One optimizer step on the whole batch, or on `rows` of it; the denominator of the loss is counted over all of
        them.

        With `computed` only those of the rows are computed; the others must have no gradient.

        The batch's arrays must not change afterwards: they may be shared with workers for as long as they exist."""
        ...

    def save(self, directory: Path) -> FileSums | None:
        """Writes a checkpoint, and returns size and checksum of the files that its workers have fsynced and hashed."""
        ...

    def load(self, directory: Path) -> None: ...


class ValueModel(TrainedModel, Protocol):
    """The critic: V(s_t), the value before token t is chosen. It is trained on `values` and `returns` of a batch."""

    def values(self, batch: TrainBatch) -> Float32:
        """[N] float32, aligned with the tokens as log-probs are: entry t is the value of the context before token t;
        0 at the first token of a row."""
        ...

    def initialize(self, directory: Path) -> None:
        """Loads the backbone's weights from a Hugging Face folder with a causal language model of the same
        architecture; zeroes the value head and resets the optimizer.
        """
        ...


class PolicyModel(LogprobModel, TrainedModel, Protocol):
    def initialize(self, directory: Path) -> None:
        """Loads weights from a Hugging Face folder of the same architecture, and resets the optimizer."""
        ...

    def reset_optimizer(self) -> None: ...
    def export(self, directory: Path, masters: bool = False) -> None:
        """Writes a plain Hugging Face folder: model, tokenizer, generation config.

        Args:
            masters: also writes the float32 master weights of a bfloat16 model, for an exact start of training from the
                folder.
        """
        ...


class WeightPublisher(Protocol):
    """Owns the version counter. A version names one state of the policy's weights."""

    @property
    def version(self) -> int:
        """Version of the last sent policy weights; -1 before the first."""
        ...

    @property
    def policy_version(self) -> int:
        """Version of the weights in the policy; more than `version` while some updates have not been sent."""
        ...

    def changing(self) -> AbstractContextManager[None]:
        """The block makes one new version of the policy's weights: inside it no engine gets them."""
        ...

    def publish(self, after: int = -1) -> Metrics:
        """Sends the policy's weights to every rollout engine and returns once all report their version.

        It is `policy_version` if that was not sent yet, otherwise one more; always more than `after`, the last version
        of a resumed run.

        Raises:
            RuntimeError: an engine reports another version, or does not answer before the deadline.
        """
        ...


class ReferencePublisher(Protocol):
    def publish_reference(self) -> Metrics:
        """Sends the reference's weights to every rollout engine; they are used until the next
        `WeightPublisher.publish`.
        """
        ...


class CheckpointStore(Protocol):
    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], FileSums | None]) -> Path:
        """`write(directory)` puts the workers' files there; the driver's `state` (JSON-able) goes next to them."""
        ...

    def load_latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and driver state of the latest intact checkpoint, or None."""
        ...


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def log_samples(self, step: int, groups: Sequence[Group]) -> None: ...
    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Callable[..., None]]:
        """Context manager for a phase with progress: `with tracker.phase("gen", total=64) as progress: progress(1)`.
        Its wall-clock seconds become `timing_s/<name>` of the step."""
        ...

    def message(self, text: str) -> None: ...
    def close(self, failed: bool = False) -> None: ...


@dataclass(slots=True)
class World:
    """One implementation of each protocol; those that the algorithm does not need are None."""

    prompts: PromptSource
    rollout: RolloutEngine
    rewards: RewardScorer
    policy: PolicyModel
    weights: WeightPublisher
    checkpoints: CheckpointStore
    tracker: Tracker
    reference: ReferenceModel | None = None
    critic: ValueModel | None = None
    reference_weights: ReferencePublisher | None = None
    reward_model: RewardModel | None = None
    judge: Judge | None = None
    engines: RolloutEngine | None = None  # those under `rollout`, if that plays rollouts against an environment

    @property
    def plain(self) -> RolloutEngine:
        """Samples one response to each prompt, whatever the environment."""
        return self.engines or self.rollout


class RewardModel(TrainedModel, Protocol):
    """A reward model: K outputs for a prompt with its response, combined into one reward."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the K outputs."""
        ...

    def scores(self, batch: TrainBatch) -> Float32:
        """[B, K] raw outputs, one row per sequence; `loss_mask` is ignored."""
        ...

    def combine(self, scores: Float32) -> Float32:
        """[B] rewards from [B, K] `scores`: the weighted sum x, then `(x - mean) / std` with the saved normalisation.
        """
        ...

    def rewards(self, batch: TrainBatch) -> Float32:
        """[B]: `combine` of the batch's `scores`."""
        ...

    def use(self, scale: RewardScale) -> None:
        """Sets the weights of the outputs and the normalisation.

        Raises:
            ValueError: the outputs differ from this model's `attributes`.
        """
        ...

    def initialize(self, directory: Path, attributes: Sequence[str] | None = None) -> None:
        """Loads weights from a Hugging Face folder in the same processes: a causal language model (with a new
        zero-initialised head), a sequence classification model (with its head), or an export (also with its attribute
        weights and normalisation). The optimizer is reset.

        Args:
            attributes: names of the outputs; None: those of the folder, or ("reward",) for a new head.
        """
        ...

    def normalize(self, mean: float, std: float) -> None:
        """The (mean, std) that `rewards` subtracts and divides by, in units of the weighted sum."""
        ...

    def export(self, directory: Path) -> None:
        """Writes a folder for `AutoModelForSequenceClassification`, with `reward_model.json` next to it."""
        ...
