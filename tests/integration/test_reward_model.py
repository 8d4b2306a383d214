"""The reward model on real Ray and DeepSpeed: groups of one and of two gloo ranks, through the handle.

Small models against plain PyTorch in every layout; the quickstart's model on two tasks whose answers are known.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, Qwen2Config, Qwen2ForCausalLM

from actors.config.schema import (
    ClusterConfig,
    DeadlinesConfig,
    DType,
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    RoleConfig,
    RolesConfig,
)
from actors.placement.group import ActorGroup, WorkerError
from actors.placement.placement import Placement
from actors.training.handles import RewardModelHandle
from actors.training.models import load_tokenizer, prepare_model
from actors.training.reward_model import RewardModelWorker
from actors.training.worker import StartSpec
from rlcore import metrics as M
from rlcore.algorithms.reward_config import RewardLoss, RewardTrainingConfig, Weighting
from rlcore.algorithms.reward_modeling import RewardObjective, first_labels
from rlcore.data.batching.reward import reward_batch_pairs, reward_batch_samples
from rlcore.data.tokenizer import encode
from rlcore.interfaces import RewardModel
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops.reward_losses import smoothed_labels
from rlcore.ops.reward_metrics import attribute_metrics, normalisation, pair_metrics
from rlcore.types import Pair, Prompt, RewardResult, RewardScale, Sample, TrainBatch

V, LR, LIMIT = 61, 1e-3, 60
# Adam divides by the gradient's own size: a larger eps keeps rounding of near-zero gradients out of the comparison
OPTIMIZER = OptimizerConfig(eps=1e-4, max_grad_norm=0.5)
WAIT: dict[str, Any] = {"timeout_s": 300, "phase": "test"}
LAYOUTS = [(1, 0), (1, 2), (1, 3), (2, 0), (2, 3)]
GRADED = RewardTrainingConfig(loss=RewardLoss.soft_label, attributes=["reward", "truth"], grade_coef=0.3)
OBJECTIVE = RewardObjective(GRADED)

pytestmark = pytest.mark.timeout(600)


class Watched(RewardModelWorker):
    """A reward model of which the stage can be changed and the weights be seen."""

    def rebuild(self, folder: str, stage: int, dtype: DType = DType.float32, eps: float = OPTIMIZER.eps) -> RewardScale:
        assert self._spec is not None
        optimizer = dataclasses.replace(OPTIMIZER, eps=eps)
        engine, model = EngineConfig(zero_stage=stage, optimizer=optimizer), ModelConfig(dtype=dtype)
        self._spec = dataclasses.replace(self._spec, engine=engine, model=model)
        return self.initialize(folder)

    def weights(self) -> dict[str, Any]:
        return {n: t.float().numpy().copy() for bucket in self.engine.buckets(6000) for n, t in bucket}


class Model:
    """A group and its handle."""

    def __init__(self, group: ActorGroup[Watched]) -> None:
        self.group = group
        self.handle = RewardModelHandle(group, LIMIT, DeadlinesConfig())

    def build(self, folder: str, stage: int, *args: Any) -> RewardModelHandle:
        self.handle.scale = self.group.broadcast(Watched.rebuild, folder, stage, *args, **WAIT)[0]
        return self.handle

    def weights(self) -> dict[str, Any]:
        return self.group.broadcast(Watched.weights, **WAIT)[0]


def started(size: int, folder: str) -> tuple[Placement, Model]:
    role = RoleConfig(num_workers=size, cpus_per_worker=0.25)
    unused = {name: RoleConfig(num_workers=0) for name in ("policy", "rollout", "verifier")}
    placement = Placement.create(ClusterConfig(roles=RolesConfig(reward=role, **unused)))
    group = ActorGroup.create(Watched, placement.slots["reward"], "reward", {"OMP_NUM_THREADS": "1"})
    address, port = group.one(0, Watched.address, **WAIT)
    specs = [
        StartSpec(rank, size, address, port, "cpu", folder, ModelConfig(), EngineConfig(), timeout_s=60.0)
        for rank in range(size)
    ]
    group.scatter(Watched.start, [(spec,) for spec in specs], **WAIT)
    model = Model(group)
    assert model.handle.attributes == ("reward", "truth")
    return placement, model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A causal model, a classifier of two labels on it, a Bert classifier, and the quickstart's model."""
    sizes: dict[str, Any] = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0}
    labels = {"id2label": {0: "reward", 1: "truth"}, "label2id": {"reward": 0, "truth": 1}}
    paths = {name: tmp_path_factory.mktemp(name) for name in ("causal", "classifier", "bert", "tiny")}
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1)).save_pretrained(paths["causal"])
    for name, config in {
        "classifier": Qwen2Config(**sizes, num_key_value_heads=1, **labels),
        "bert": BertConfig(**sizes, **labels),
    }.items():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(paths[name])
    (paths["classifier"] / "tokenizer_config.json").write_text('{"kept": true}')
    tiny = prepare_model(ModelConfig(), paths["tiny"], seed=0)
    return {name: str(path) for name, path in paths.items()} | {"tiny": str(tiny)}


@pytest.fixture(scope="module")
def models(folders: dict[str, str]) -> Iterator[dict[int, Model]]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    try:
        made = {size: started(size, folders["classifier"]) for size in (1, 2)}
        yield {size: model for size, (_, model) in made.items()}
        for placement, model in made.values():
            model.group.broadcast(Watched.shutdown, **WAIT)
            model.group.shutdown()
            placement.remove()
    finally:
        ray.shutdown()


def make_batch(pairs: int = 5, seed: int = 0) -> TrainBatch:
    """Pairs of 4 to 13 tokens, with strengths, two of them of one prompt, some truths labelled."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(pairs):
        prompt = Prompt(f"p{max(i, 1)}", tuple(rng.integers(3, V, 2).tolist()), "")
        sides = [
            Sample(
                prompt, f"{i}.{k}", "", tuple(rng.integers(3, V, int(rng.integers(2, 12))).tolist()),
                reward=RewardResult(0.0, parts={"truth": float(rng.integers(0, 5))} if rng.random() < 0.7 else {}),
            )
            for k in range(2)
        ]  # fmt: skip
        made.append(Pair(prompt, *sides, strength=float(rng.integers(0, 4))))
    return reward_batch_pairs(made, GRADED.outputs, per_prompt=True)


class Plain:
    """One process, one batch, no DeepSpeed: what every layout must equal."""

    def __init__(self, folder: str) -> None:
        self.hf = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        o = OPTIMIZER
        self.adam = torch.optim.AdamW(self.hf.parameters(), LR, tuple(o.betas), o.eps, o.weight_decay)

    def scores(self, batch: TrainBatch) -> torch.Tensor:
        rows = [torch.tensor(row[None], dtype=torch.int64) for row in np.split(batch.tokens, batch.offsets[1:-1])]
        return torch.cat([self.hf(input_ids=row).logits for row in rows])

    def update(self, batch: TrainBatch) -> tuple[M.Metrics, float]:
        tensors = TensorBatch.from_train_batch(batch)
        loss, metrics = OBJECTIVE.loss(Outputs(self.scores(batch)), tensors, OBJECTIVE.denominator(batch))
        self.adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.hf.parameters(), OPTIMIZER.max_grad_norm)
        self.adam.step()
        return metrics, float(norm)


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_every_layout_scores_and_learns_as_plain_pytorch(
    models: dict[int, Model], folders: dict[str, str], size: int, stage: int
) -> None:
    handle: RewardModel = models[size].build(folders["classifier"], stage)
    plain, batch = Plain(folders["classifier"]), make_batch()
    np.testing.assert_allclose(handle.scores(batch), plain.scores(batch).detach().numpy(), atol=1e-5)
    handle.use(OBJECTIVE.scale)
    for seed in (0, 1):
        wanted, norm = plain.update(make_batch(seed=seed))
        got = M.values(handle.update(make_batch(seed=seed), LR, OBJECTIVE))
        assert got["reward_model/grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert (got["reward_model/skipped_steps"], got["reward_model/lr"]) == (0.0, LR)
        for name, value in M.values(wanted).items():
            assert got[name] == pytest.approx(value, rel=1e-4), name
    own = models[size].weights()
    for name, parameter in plain.hf.named_parameters():
        np.testing.assert_allclose(own[name], parameter.detach().numpy(), atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 3)])
def test_a_checkpoint_goes_on_exactly_and_an_export_says_the_same(
    models: dict[int, Model], folders: dict[str, str], tmp_path: Path, size: int, stage: int
) -> None:
    handle, batches = models[size].build(folders["classifier"], stage), [make_batch(seed=s) for s in range(4)]
    handle.use(OBJECTIVE.scale)
    for batch in batches[:2]:
        handle.update(batch, LR, OBJECTIVE)
    handle.normalize(0.25, 2.0)
    handle.save(tmp_path / "checkpoint")
    before = handle.scores(batches[3])
    for batch in batches[2:]:
        handle.update(batch, LR, OBJECTIVE)
    wanted = models[size].weights()

    handle.initialize(Path(folders["classifier"]))
    assert handle.scale == RewardScale.of(("reward", "truth"))
    handle.load(tmp_path / "checkpoint")
    assert (handle.scale.mean, handle.scale.std) == (0.25, 2.0)
    np.testing.assert_array_equal(handle.scores(batches[3]), before)
    for batch in batches[2:]:
        handle.update(batch, LR, OBJECTIVE)
    assert all(np.array_equal(w, wanted[n]) for n, w in models[size].weights().items())

    handle.normalize(-0.5, 3.0)
    handle.export(tmp_path / "export")
    scores, rewards = handle.scores(batches[0]), handle.rewards(batches[0])
    np.testing.assert_allclose(rewards, (scores[:, 0] + 0.5) / 3, rtol=1e-5)
    np.testing.assert_allclose(Plain(str(tmp_path / "export")).scores(batches[0]).detach(), scores, atol=1e-5)
    held = json.loads((tmp_path / "export" / RewardScale.FILE).read_text())
    assert (held["attributes"], held["weights"]) == (["reward", "truth"], [1.0, 0.0])
    assert (held["mean"], held["std"], held["trained_with"]["loss"]) == (-0.5, 3.0, "soft_label")
    assert (tmp_path / "export" / "tokenizer_config.json").read_text() == '{"kept": true}'

    handle.initialize(Path(folders["causal"]))
    handle.initialize(tmp_path / "export")
    assert (handle.scale.mean, handle.scale.std) == (-0.5, 3.0)
    np.testing.assert_allclose(handle.rewards(batches[0]), rewards, atol=1e-5)


def test_other_models_in_the_same_processes(models: dict[int, Model], folders: dict[str, str], tmp_path: Path) -> None:
    model, batch = models[2], make_batch()
    handle = model.build(folders["classifier"], 3)
    pids = [d["pid"] for d in model.group.broadcast(Watched.describe, **WAIT)]
    assert len({*pids, os.getpid()}) == 3
    handle.initialize(Path(folders["causal"]), ("reward", "a", "b"))
    assert handle.attributes == ("reward", "a", "b")
    assert handle.scores(batch).shape == (10, 3)
    assert not handle.scores(batch).any()
    with pytest.raises(ValueError, match="about reward, truth, the reward model about reward, a, b: initialize it"):
        handle.use(RewardObjective(GRADED).scale)
    handle.initialize(Path(folders["bert"]))
    np.testing.assert_allclose(handle.scores(batch), Plain(folders["bert"]).scores(batch).detach(), atol=1e-5)
    handle.use(OBJECTIVE.scale)
    losses = [M.values(handle.update(batch, LR, OBJECTIVE))["reward_model/pair_loss"] for _ in range(8)]
    assert losses[-1] < losses[0]
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForTokenClassification"]}')
    with pytest.raises(WorkerError, match="BertForTokenClassification: a reward model starts from"):
        handle.initialize(tmp_path)
    assert handle.scores(batch).any()  # the old model is still there
    assert [d["pid"] for d in model.group.broadcast(Watched.describe, **WAIT)] == pids


def test_a_loss_that_is_not_finite_skips_the_step_everywhere(models: dict[int, Model], folders: dict[str, str]) -> None:
    handle = models[2].build(folders["classifier"], 0)
    handle.use(OBJECTIVE.scale)
    before, batch = models[2].weights(), make_batch()
    bad = dataclasses.replace(batch, weights=np.where(np.arange(10) < 2, np.inf, 1.0).astype(np.float32))
    got = M.values(handle.update(bad, LR, OBJECTIVE))
    assert got["reward_model/skipped_steps"] == 1.0
    assert all(np.array_equal(w, before[n]) for n, w in models[2].weights().items())
    assert M.values(handle.update(batch, LR, OBJECTIVE))["reward_model/skipped_steps"] == 0.0


def test_bfloat16(models: dict[int, Model], folders: dict[str, str]) -> None:
    handle, batch = models[1].build(folders["classifier"], 0, DType.bfloat16), make_batch()
    scores = handle.scores(batch)
    np.testing.assert_allclose(scores, Plain(folders["classifier"]).scores(batch).detach(), atol=0.1)
    assert (scores != torch.tensor(scores).bfloat16().float().numpy()).mean() > 0.8
    handle.use(OBJECTIVE.scale)
    losses = [M.values(handle.update(batch, LR, OBJECTIVE))["reward_model/pair_loss"] for _ in range(12)]
    assert losses[-1] < losses[0]


# ---- tasks whose answers are known: strings of a to f after a question


class Strings:
    """Responses of 4 to 12 letters; what they are worth is counted."""

    def __init__(self, folder: str, seed: int) -> None:
        tokenizer = load_tokenizer(folder)
        letters = encode(tokenizer, [*"abcdef"], special=False)
        self.ids = dict(zip("abcdef", (row[0] for row in letters), strict=True))
        self.question, self.end = encode(tokenizer, ["ok?"], special=False)[0], int(tokenizer.eos_token_id)
        self.rng, self.count = np.random.default_rng(seed), itertools.count(seed * 10**6)

    def sample(self, prompt: Prompt | None = None, labelled: float = 1.0) -> Sample:
        prompt = prompt or Prompt(f"q{next(self.count)}", self.question, "ok?")
        text = "".join(self.rng.choice([*"abcdef"], int(self.rng.integers(4, 13))))
        truth = {"as": min(4.0, text.count("a")), "bs": min(4.0, text.count("b")), "length": (len(text) - 4) / 2}
        parts = {name: value for name, value in truth.items() if self.rng.random() < labelled}
        ids = (*(self.ids[c] for c in text), self.end)
        return Sample(prompt, f"{prompt.uid}#{next(self.count)}", text, ids, reward=RewardResult(0.0, parts=parts))

    def pair(self) -> Pair:
        """More of the letter a is better."""
        while True:
            one = self.sample()
            two = self.sample(one.prompt)
            gap = one.text.count("a") - two.text.count("a")
            if gap:
                best, worst = (one, two) if gap > 0 else (two, one)
                return Pair(one.prompt, best, worst, strength=float(min(3, abs(gap) - 1)))


def wide(model: Model) -> RewardModelHandle:
    """A handle whose micro-batches are as large as one core likes."""
    handle = RewardModelHandle(model.group, 1024, DeadlinesConfig())
    handle.scale = model.handle.scale
    return handle


def test_pairs_of_a_known_answer(models: dict[int, Model], folders: dict[str, str]) -> None:
    """50 steps of 32 pairs that tell which string has more a's: at least 0.95 right on 512 held out (seen: 1.0)."""
    models[1].build(folders["tiny"], 0, DType.float32, 1e-8)
    handle, data = wide(models[1]), Strings(folders["tiny"], 1)
    config = RewardTrainingConfig(pairs_per_step=32, learning_rate=1e-3, warmup_steps=20)
    objective = RewardObjective(config)
    handle.use(objective.scale)
    train, held = [data.pair() for _ in range(50 * 32)], [data.pair() for _ in range(512)]
    for step, chosen in enumerate(np.random.default_rng(0).permutation(len(train)).reshape(-1, config.pairs_per_step)):
        batch = reward_batch_pairs([train[i] for i in chosen], per_prompt=config.per_prompt)
        handle.update(batch, config.learning_rate * min(1.0, (step + 1) / config.warmup_steps), objective)
    raw = handle.rewards(reward_batch_pairs(held))
    found = pair_metrics(raw[::2], raw[1::2], [p.strength for p in held])
    assert found["accuracy"] >= 0.95
    assert found["accuracy/3"] >= 0.99  # four a's more
    assert found["calibration"] <= 0.06
    handle.normalize(*normalisation(raw))
    again = handle.rewards(reward_batch_pairs(held))
    assert again.mean() == pytest.approx(0, abs=1e-3)
    assert again.std() == pytest.approx(1, abs=1e-3)


def test_attributes_of_a_known_answer(models: dict[int, Model], folders: dict[str, str]) -> None:
    """Three attributes, a fifth of the labels missing: Spearman at least 0.9 each, held out (seen: 0.96 to 0.99)."""
    models[1].build(folders["tiny"], 0, DType.float32, 1e-8)
    handle, data = wide(models[1]), Strings(folders["tiny"], 2)
    config = RewardTrainingConfig(
        loss=RewardLoss.regression, attributes=["as", "bs", "length"], weighting=Weighting.given,
        attribute_weights={"as": 1.0, "length": -0.5},
    )  # fmt: skip
    handle.initialize(Path(folders["tiny"]), config.outputs)
    objective = RewardObjective(config)
    handle.use(objective.scale)
    for step in range(110):
        batch = reward_batch_samples([data.sample(labelled=0.8) for _ in range(64)], config.outputs)
        handle.update(batch, 1e-3 * min(1.0, (step + 1) / 20), objective)
    held = [data.sample() for _ in range(512)]
    batch = reward_batch_samples(held, config.outputs)
    assert batch.targets is not None
    found = attribute_metrics(handle.scores(batch), batch.targets, config.outputs)
    assert min(found[f"spearman/{name}"] for name in config.outputs) >= 0.9
    truth = batch.targets[:, 0] - 0.5 * batch.targets[:, 2]
    assert attribute_metrics(handle.rewards(batch)[:, None], truth[:, None], ["sum"])["spearman/sum"] >= 0.9


def test_smoothing_keeps_a_model_from_learning_wrong_labels_by_heart(
    models: dict[int, Model], folders: dict[str, str]
) -> None:
    """Ten epochs over 24 pairs with random labels: gaps of 1.4 in the mean, and 0.33 with smoothing."""
    rng = np.random.default_rng(0)
    prompt = Prompt("p", (3, 4), "")
    sides = [Sample(prompt, f"{i}", "", tuple(rng.integers(5, V, 8).tolist())) for i in range(48)]
    pairs = [Pair(prompt, sides[2 * i], sides[2 * i + 1]) for i in range(24)]
    sure = {}
    for beta in (0.0, 0.7):
        handle = models[1].build(folders["causal"], 0, DType.float32, 1e-8)
        config = RewardTrainingConfig(smoothing_beta=beta)
        objective = RewardObjective(config)
        labels = first_labels(np.full(len(pairs), np.nan), config)
        for _ in range(10):
            batch = reward_batch_pairs(pairs, labels=labels)
            handle.update(batch, 3e-3, objective)
            raw = handle.rewards(batch)
            labels = smoothed_labels(labels, raw[::2], raw[1::2], beta)
        sure[beta] = float(np.abs(raw[::2] - raw[1::2]).mean())
        assert (labels < 1).all() == (beta > 0)
    assert sure[0.7] < sure[0.0] / 2
