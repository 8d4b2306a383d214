"""Protocols that the loops are written against. The handles implement them over Ray, `tests/fakes.py` in process.

A loop is written against these alone: it never sees an actor, an engine or a config of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlcore.metrics import Metrics
from rlcore.types import Float32, Group, Prompt, RewardResult, RewardScale, TrainBatch

if TYPE_CHECKING:  # it imports torch
    from rlcore.objective import Objective


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 keep log-probs those of the policy itself."""

    num_samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None  # of the whole call: equal weights, prompts and seed give equal samples on one engine
    step: int = 0  # goes into sample ids


class PromptSource(Protocol):
    """An endless, resumable stream of prompts in a fixed order."""

    def take(self, num_prompts: int, without: Collection[str] = ()) -> list[Prompt]:
        """The next prompts; those named by `without` (uids) only when all others are taken."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class RolloutEngine(Protocol):
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        """Yields every prompt's group once, in the order they finish."""
        ...


class RewardScorer(Protocol):
    def submit(self, group: Group) -> Future[list[RewardResult]]:
        """Starts scoring the samples of one group; results in the order of `group.trajectories`.

        The future always ends: with results, or with an error when the verifiers missed their deadline."""
        ...


class Judge(RewardScorer, Protocol):
    def metrics(self) -> Metrics:
        """Position bias and the like, of what was judged since the last call."""
        ...


class LogprobModel(Protocol):
    def logprobs(self, batch: TrainBatch, temperature: float | None = None) -> Float32:
        """[B, T] float32 log-probs without gradient; index 0 and padding are 0. `temperature` None: as sampled."""
        ...


class ReferenceModel(LogprobModel, Protocol):
    def initialize(self, directory: Path) -> None:
        """Takes its weights from a Hugging Face folder of the same architecture, in place of those it began with."""
        ...


class TrainedModel(Protocol):
    def update(self, batch: TrainBatch, learning_rate: float, objective: Objective) -> Metrics:
        """One optimizer step on the whole batch; the loss's denominator is counted over all of it."""
        ...

    def save(self, directory: Path) -> None: ...
    def load(self, directory: Path) -> None: ...


class ValueModel(TrainedModel, Protocol):
    """The critic: V(s_t), the value of what follows, before token t was chosen. It is trained on `values` and
    `returns` of a batch."""

    def values(self, batch: TrainBatch) -> Float32:
        """[B, T] float32, aligned with the tokens as log-probs are: entry t is the value of the context before token
        t; index 0 and padding are 0."""
        ...

    def initialize(self, directory: Path) -> None:
        """Takes the backbone's weights from a Hugging Face folder that holds a causal language model of the same
        architecture; the value head is zero again, the optimizer is reset."""
        ...


class PolicyModel(LogprobModel, TrainedModel, Protocol):
    def initialize(self, directory: Path) -> None:
        """Takes its weights from a Hugging Face folder of the same architecture, and a new optimizer."""
        ...

    def reset_optimizer(self) -> None: ...
    def export(self, directory: Path, masters: bool = False) -> None:
        """A plain Hugging Face folder: model, tokenizer, generation config.

        Args:
            masters: also what a training that starts from the folder needs to lose nothing: in bfloat16 the float32
                master weights.
        """
        ...


class WeightPublisher(Protocol):
    @property
    def version(self) -> int:
        """Of the policy's weights that were sent last; -1 before the first."""
        ...

    def publish(self, after: int = -1) -> Metrics:
        """Sends the policy's weights to every rollout engine and returns once all report their version: one more than
        the last, and than `after`, with which a resumed run continues its count. No two sendings share a version.

        Raises:
            RuntimeError: an engine reports another version, or did not answer before the deadline.
        """
        ...


class ReferencePublisher(Protocol):
    def publish_reference(self) -> Metrics:
        """Sends the reference's weights to every rollout engine, until `WeightPublisher.publish` is called again."""
        ...


class CheckpointStore(Protocol):
    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """`write(directory)` puts the workers' files there; the driver's `state` (JSON-able) goes next to them."""
        ...

    def load_latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and driver state of the newest intact checkpoint, or None."""
        ...


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def log_samples(self, step: int, groups: Sequence[Group]) -> None: ...
    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Callable[..., None]]:
        """Context manager for a phase with progress: `with tracker.phase("gen", total=64) as progress: progress(1)`.
        Its wall seconds become `timing_s/<name>` of the step."""
        ...

    def message(self, text: str) -> None: ...
    def close(self, failed: bool = False) -> None: ...


@dataclass(slots=True)
class World:
    """One of each. What an algorithm does not need is None."""

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


class RewardModel(TrainedModel, Protocol):
    """A trained judge of responses: K numbers of a prompt with its response, and one reward made of them."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the K outputs."""
        ...

    def scores(self, batch: TrainBatch) -> Float32:
        """[B, K] raw outputs, one row of each sequence; `loss_mask` plays no part."""
        ...

    def combine(self, scores: Float32) -> Float32:
        """[B] of [B, K] `scores`: weighed and added up, then `(x - mean) / std` of the saved normalisation."""
        ...

    def rewards(self, batch: TrainBatch) -> Float32:
        """[B]: `combine` of the batch's `scores`."""
        ...

    def use(self, scale: RewardScale) -> None:
        """Sets the weights of the outputs and the normalisation.

        Raises:
            ValueError: its outputs are not this model's `attributes`.
        """
        ...

    def initialize(self, directory: Path, attributes: Sequence[str] | None = None) -> None:
        """Takes its weights from a Hugging Face folder, in the same processes: a causal language model (with a new
        zero-initialised head), a sequence classification model (with its head), or what `export` wrote (with its
        weights of attributes and normalisation too). The optimizer is reset.

        Args:
            attributes: names of the outputs; None: those of the folder, or ("reward",) for a new head.
        """
        ...

    def normalize(self, mean: float, std: float) -> None:
        """What `rewards` subtracts and divides by, in units of the weighted sum."""
        ...

    def export(self, directory: Path) -> None:
        """A folder that `AutoModelForSequenceClassification` loads, with `reward_model.json` next to it."""
        ...
