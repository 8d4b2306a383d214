"""A world in process: a real softmax policy over single tokens, trained by the real objective; no Ray, no vLLM.

The policy is a table of logits [prompt token, V]; it samples one answer token and an end. That is enough for a loop to
learn something, to resume, to fail and to be interrupted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rlcore import metrics as M
from rlcore.interfaces import Rows, Sampling
from rlcore.objective import Objective, Outputs, TensorBatch
from rlcore.ops.logprobs import entropy, token_logprobs
from rlcore.types import Float32, Group, Prompt, RewardResult, RewardScale, TrainBatch, Trajectory

if TYPE_CHECKING:
    from rlcore.interfaces import (
        PolicyModel,
        ReferenceModel,
        ReferencePublisher,
        RewardModel,
        RewardScorer,
        RolloutEngine,
        Tracker,
        ValueModel,
        WeightPublisher,
    )

V, EOS = 12, 11


def write_model(table: torch.Tensor, directory: Path) -> None:
    """A folder as `rlcore.storage.average` reads it; equal tables give equal bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({"table": table.detach().contiguous()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "table", "vocab_size": V}))


def read_model(directory: Path) -> torch.Tensor:
    return load_file(directory / "model.safetensors")["table"]


def prompts(num: int = 10) -> list[Prompt]:
    """Prompt i is the single token i % 10; its answer is the same digit."""
    return [Prompt(uid=f"p{i}", token_ids=(i % 10,), text=str(i % 10), reference=str(i % 10)) for i in range(num)]


class FakePolicy:
    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.table = torch.nn.Parameter(torch.zeros(V, V))
        self.objective: Objective | None = None  # of the last update
        self.updates: list[list[str]] = []
        self.resets = 0
        self.loaded: list[Path] = []  # folders that `initialize` was given
        self.before_update: Callable[[], None] = lambda: None
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self.optimizer = torch.optim.SGD([self.table], lr=1.0, momentum=0.5)  # it remembers, as real ones do

    def _forward(self, batch: TensorBatch) -> tuple[torch.Tensor, torch.Tensor]:
        first = batch.tokens[:, :1].expand_as(batch.tokens)
        logits = self.table[first].clone()
        end = torch.full((V,), -20.0).index_fill(0, torch.tensor([EOS]), 20.0)
        logits[:, 1:] = end  # after the answer comes the end
        return token_logprobs(logits, batch.tokens), entropy(logits)

    def logprobs(self, batch: TrainBatch, temperature: float | None = None, rows: Rows | None = None) -> Float32:
        with torch.no_grad():
            found = batch.flat(self._forward(TensorBatch.from_train_batch(batch, torch.device("cpu")))[0].numpy())
        asked = np.isin(np.arange(len(batch)), np.arange(len(batch)) if rows is None else rows)
        return np.where(np.repeat(asked, batch.lengths), found, np.float32(0))

    def initialize(self, directory: Path) -> None:
        self.loaded.append(directory)
        self.table.data = read_model(directory)
        self._new_optimizer()

    def update(
        self, batch: TrainBatch, learning_rate: float, objective: Objective, rows: Rows | None = None,
        computed: Rows | None = None,
    ) -> M.Metrics:  # fmt: skip
        counted = objective.denominator(batch if rows is None else batch.select(rows))
        rows = rows if computed is None else computed
        batch = batch if rows is None else batch.select(rows)
        self.before_update()
        self.updates.append(list(batch.sample_ids))
        self.objective = objective
        tensors = TensorBatch.from_train_batch(batch, torch.device("cpu"))
        logprobs, ent = self._forward(tensors)
        loss, metrics = objective.loss(Outputs(logprobs, ent), tensors, counted)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return metrics

    def reset_optimizer(self) -> None:
        self.resets += 1
        self._new_optimizer()

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save({"table": self.table.data, "optimizer": self.optimizer.state_dict()}, directory / "policy.pt")

    def load(self, directory: Path) -> None:
        saved = torch.load(directory / "policy.pt")
        self.table.data = saved["table"]
        self._new_optimizer()
        self.optimizer.load_state_dict(saved["optimizer"])

    def export(self, directory: Path, masters: bool = False) -> None:
        write_model(self.table, directory)


class FakeCritic:
    """A table of values by prompt token, trained by the real objective."""

    def __init__(self) -> None:
        self.table = torch.zeros(V, requires_grad=True)
        self.objective: Objective | None = None  # of the last update
        self.started_from: torch.Tensor | None = None
        self.rates: list[float] = []

    def _forward(self, batch: TensorBatch) -> torch.Tensor:
        return self.table[batch.tokens[:, :1]].expand_as(batch.tokens) * batch.loss_mask

    def values(self, batch: TrainBatch) -> Float32:
        return batch.flat(self._forward(TensorBatch.from_train_batch(batch)).detach().numpy())

    def update(
        self, batch: TrainBatch, learning_rate: float, objective: Objective, rows: Rows | None = None,
        computed: Rows | None = None,
    ) -> M.Metrics:  # fmt: skip
        batch = batch if rows is None else batch.select(rows)
        self.rates.append(learning_rate)
        self.objective = objective
        tensors = TensorBatch.from_train_batch(batch)
        loss, metrics = objective.loss(Outputs(self._forward(tensors)), tensors, objective.denominator(batch))
        (gradient,) = torch.autograd.grad(loss, self.table)
        self.table.data -= learning_rate * gradient
        return metrics

    def initialize(self, directory: Path) -> None:
        self.started_from = read_model(directory)
        self.table = torch.zeros(V, requires_grad=True)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(self.table.data, directory / "values.pt")

    def load(self, directory: Path) -> None:
        self.table.data = torch.load(directory / "values.pt")


class FakeRollout:
    """Samples from the table that was last published."""

    def __init__(self) -> None:
        self.table: torch.Tensor | None = None
        self.version = -1
        self.seen: list[str] = []
        self.before_group: Callable[[int], None] = lambda i: None
        self.lock = threading.Lock()  # weights change between two calls

    def abandon(self) -> None: ...

    def metrics(self) -> M.Metrics:
        return {}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        with self.lock:
            table, version = self.table, self.version
        assert table is not None, "sampling before the first sync"
        generator = torch.Generator().manual_seed(sampling.seed or 0)
        drawn = []
        for prompt in prompts:
            logits = table[prompt.token_ids[0]]
            chances = torch.softmax(logits / max(sampling.temperature, 1e-6), -1)
            tokens = torch.multinomial(chances, sampling.num_samples, replacement=True, generator=generator)
            logprobs = torch.log_softmax(logits, -1)[tokens]
            group = Group(prompt, [])
            for k in range(sampling.num_samples):
                answer = int(tokens[k])
                group.trajectories.append(
                    Trajectory(
                        uid=prompt.uid,
                        sample_id=f"{prompt.uid}#{sampling.step}.{k}",
                        tokens=np.array([prompt.token_ids[0], answer, EOS], dtype=np.int32),
                        loss_mask=np.array([False, True, True]),
                        rollout_logprobs=np.array([0.0, float(logprobs[k]), 0.0], dtype=np.float32),
                        versions=np.array([-1, version, version], dtype=np.int32),
                        num_prompt_tokens=1,
                        finish_reason="stop",
                        text=str(answer),
                        begun_version=version,
                    )
                )
            drawn.append(group)
        if sampling.step >= 0:
            self.seen += [p.uid for p in prompts]
        for i, group in enumerate(reversed(drawn)):  # they never finish in order
            self.before_group(i)
            yield group


class FakeWeights:
    def __init__(self, policy: FakePolicy, rollout: FakeRollout, broken: bool = False) -> None:
        self.policy, self.rollout, self.broken = policy, rollout, broken
        self.version = self.policy_version = -1

    @contextmanager
    def changing(self) -> Iterator[None]:
        yield
        self.policy_version = max(self.policy_version, self.version) + 1

    def publish(self, after: int = -1) -> M.Metrics:
        self.version = self.policy_version = max(self.version + 1, self.policy_version, after + 1)
        with self.rollout.lock:
            if not (self.broken and self.version > 0):
                self.rollout.table = self.policy.table.detach().clone()
            self.rollout.version = self.version
        self.holds = "policy"
        return {"sync/megabytes": M.Last(self.policy.table.numel() * 4 / 1e6)}


    def publish_reference(self) -> M.Metrics:
        self.rollout.table = torch.zeros(V, V)  # where every policy starts
        self.holds = "reference"
        return {}


class FakeReference:
    """The policy before any step: uniform."""

    def __init__(self) -> None:
        self.model = FakePolicy()
        self.calls: list[int] = []

    def logprobs(self, batch: TrainBatch, temperature: float | None = None, rows: Rows | None = None) -> Float32:
        self.calls.append(len(batch))
        return self.model.logprobs(batch, temperature, rows)

    def initialize(self, directory: Path) -> None:
        self.model.initialize(directory)


class FakeRewardModel:
    """K numbers by prompt token and first response token, trained by the real objective."""

    def __init__(self) -> None:
        self.scale = RewardScale.of(("reward",))
        self.table = torch.nn.Parameter(torch.zeros(V, V, 1))
        self.updates: list[list[str]] = []
        self.loaded: list[Path] = []
        self.before_update: Callable[[], None] = lambda: None
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self.optimizer = torch.optim.SGD([self.table], lr=1.0, momentum=0.5)

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.scale.attributes

    def _forward(self, batch: TrainBatch) -> torch.Tensor:
        first, second = torch.from_numpy(batch.padded("tokens")[:, :2]).long().T
        return self.table[first, second]

    def scores(self, batch: TrainBatch) -> Float32:
        return self._forward(batch).detach().numpy()

    def combine(self, scores: Float32) -> Float32:
        return self.scale.rewards(scores)

    def rewards(self, batch: TrainBatch) -> Float32:
        return self.combine(self.scores(batch))

    def use(self, scale: RewardScale) -> None:
        if scale.attributes != self.attributes:
            raise ValueError(f"the objective's outputs are {scale.attributes}, the model's {self.attributes}")
        self.scale = scale

    def update(
        self, batch: TrainBatch, learning_rate: float, objective: Objective, rows: Rows | None = None,
        computed: Rows | None = None,
    ) -> M.Metrics:  # fmt: skip
        counted = objective.denominator(batch if rows is None else batch.select(rows))
        rows = rows if computed is None else computed
        batch = batch if rows is None else batch.select(rows)
        self.before_update()
        self.updates.append(list(batch.sample_ids))
        tensors = TensorBatch.from_train_batch(batch)
        loss, metrics = objective.loss(Outputs(self._forward(batch)), tensors, counted)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return metrics

    def initialize(self, directory: Path, attributes: Sequence[str] | None = None) -> None:
        self.loaded.append(directory)
        known = RewardScale.read(directory)
        self.scale = RewardScale.of(tuple(attributes or ("reward",))) if known is None else known.named(attributes)
        size = len(self.attributes)
        table = torch.zeros(V, V, size) if known is None else load_file(directory / "reward.safetensors")["table"]
        self.table = torch.nn.Parameter(table)
        self._new_optimizer()

    def normalize(self, mean: float, std: float) -> None:
        self.scale = replace(self.scale, mean=mean, std=std)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save({"table": self.table.data, "optimizer": self.optimizer.state_dict()}, directory / "reward.pt")
        self.scale.write(directory)

    def load(self, directory: Path) -> None:
        saved, scale = torch.load(directory / "reward.pt"), RewardScale.read(directory)
        assert scale is not None
        self.scale, self.table = scale, torch.nn.Parameter(saved["table"])
        self._new_optimizer()
        self.optimizer.load_state_dict(saved["optimizer"])

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"table": self.table.detach().contiguous()}, directory / "reward.safetensors")
        self.scale.write(directory)


class FakeTokenizer:
    """Digits are the tokens 0 to 9, "!" is 10, the end 11; every other character is left out."""

    eos_token_id = EOS
    chat_template = None

    def __call__(self, text: Any, *, add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [["0123456789!".index(c) for c in one if c in "0123456789!"] for one in text]}

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        raise NotImplementedError("the prompts of this world have no chat template")


class FakeRewards:
    def __init__(self, judge: Callable[[Group, Trajectory], RewardResult] | None = None) -> None:
        self.judge = judge or (lambda group, t: RewardResult(float(t.text == group.prompt.reference)))

    def submit(self, group: Group) -> Future[list[RewardResult]]:
        future: Future[list[RewardResult]] = Future()
        future.set_result([self.judge(group, t) for t in group.trajectories])
        return future


class FakeTracker:
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.messages: list[str] = []
        self.phases: list[str] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert json.dumps(dict(metrics))
        self.rows[step] = dict(metrics)

    def log_samples(self, step: int, groups: Sequence[Group]) -> None: ...

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        self.phases.append(name)
        yield lambda n=1: None

    def message(self, text: str) -> None:
        self.messages.append(text)

    def close(self, failed: bool = False) -> None: ...


if TYPE_CHECKING:  # the type checker compares the fakes with the protocols of the loops
    _policy: PolicyModel = FakePolicy()
    _critic: ValueModel = FakeCritic()
    _rollout: RolloutEngine = FakeRollout()
    _weights: WeightPublisher = FakeWeights(FakePolicy(), FakeRollout())
    _reference_weights: ReferencePublisher = FakeWeights(FakePolicy(), FakeRollout())
    _reference: ReferenceModel = FakeReference()
    _reward_model: RewardModel = FakeRewardModel()
    _rewards: RewardScorer = FakeRewards()
    _tracker: Tracker = FakeTracker()
