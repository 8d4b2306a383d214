"""What the scorer and the adapters must stay right under: every ZeRO stage, in real DeepSpeed processes; and vLLM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.config.schema import DType, EngineConfig, LoraConfig, ModelConfig, RolloutConfig
from actors.training.distributed import init_distributed
from actors.training.engine import TrainEngine
from actors.training.scorer import real
from actors.training.worker import PolicyWorker, ReferenceWorker, StartSpec
from rlcore import metrics as M
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops import logprobs as ops
from rlcore.types import TrainBatch
from tests.integration.test_training import (
    LR,
    OBJECTIVES,
    OPTIMIZER,
    RL,
    SPLITS_ONE,
    SPLITS_TWO,
    STAGES,
    TEMPERATURE,
    VOCABULARY,
    Plain,
    Ranks,
    assert_close,
    assert_equal,
    call,
    deal,
    folders,
    make_batch,
    numpy,
    state,
    update,
    usual,
)  # fmt: skip

__all__ = ["folders"]  # a fixture
LORA = LoraConfig(rank=4, alpha=8.0)
FULL = LoraConfig()


@pytest.fixture(scope="module")
def one() -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


# ---- what runs on a rank


def build(here: Any, path: str, stage: int, lora: LoraConfig = FULL, chunk: int = 1 << 24, **options: Any) -> None:
    """A fresh policy in this process. `chunk`: logits of one chunk of the output layer."""
    here.worker, ops.CHUNK_ELEMENTS = None, chunk
    if not here.started:
        torch.manual_seed(here.rank)  # ranks whose generators differ must still get equal adapters
        init_distributed(here.rank, here.size, "127.0.0.1", here.port, "cpu", 60.0)
    engine = EngineConfig(zero_stage=stage, optimizer=OPTIMIZER, packing=options.pop("packing", False))
    here.worker, here.started = PolicyWorker(), True
    here.worker._engine = TrainEngine(path, ModelConfig(path=path, lora=lora, **options), engine, "cpu")


def trained_parameters(here: Any) -> dict[str, int]:
    adam = here.worker.engine._adam
    names = {id(p): n for n, p in here.worker.engine.scorer.named_parameters()}
    return {names[id(p)]: p.numel() for group in adam.param_groups for p in group["params"] if id(p) in names}


def frozen(here: Any, path: str, stage: int, shard: TrainBatch, micro: list[list[int]]) -> Any:
    worker = ReferenceWorker()
    worker._engine = TrainEngine(path, ModelConfig(path=path, lora=LORA), EngineConfig(zero_stage=stage), "cpu", False)
    return worker.numbers(shard, micro, TEMPERATURE)


def dropped(here: Any, tokens: Any) -> Any:
    """Log-probs in two training passes and two scoring passes."""
    engine = here.worker.engine
    lengths = torch.full(tokens.shape[:1], tokens.shape[1])
    batch = TensorBatch(tokens, lengths, torch.ones_like(tokens, dtype=torch.bool))
    train = [engine.forward(batch).numbers.detach() for _ in range(2)]
    with torch.no_grad():
        score = [engine.forward(batch).numbers for _ in range(2)]
    return [x.numpy() for x in (*train, *score)]


# ---- every weight trained: chunks and packing change nothing


@pytest.mark.parametrize(("size", "stage"), usual(itertools.product((1, 2), STAGES), (1, 0), (2, 1), (2, 3)))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("untied", {"chunk": 3 * VOCABULARY}),
        ("tied", {"chunk": 3 * VOCABULARY, "gradient_checkpointing": True}),
        ("tied", {"packing": True}),
        ("untied", {"packing": True, "chunk": 5 * VOCABULARY, "gradient_checkpointing": True}),
    ],
)
def test_chunks_and_packing_train_as_one_plain_batch(
    request: Any, folders: Any, stage: int, size: int, name: str, options: dict[str, Any]
) -> None:
    ranks = request.getfixturevalue("one" if size == 1 else "two")
    split = (SPLITS_ONE if size == 1 else SPLITS_TWO)["uneven"]
    plain = Plain(folders[name])
    ranks.run(build_with, folders[name], stage, options)
    for step in range(2):
        batch = make_batch(seed=step)
        calls = deal(batch, split)
        before = scored(plain, batch)
        pieces = ranks.run(call, "numbers", per_rank=[(shard, micro, TEMPERATURE) for shard, micro in calls])
        for (rows, micro), piece in zip(split, pieces, strict=True):
            order = [rows[i] for part in micro for i in part]
            padded = batch.select(order).padded(piece)
            assert np.abs(padded - before[order][:, : padded.shape[1]]).max(initial=0.0) < 2e-5
        wanted, gradient, _ = plain.update(batch, "rl")
        results = ranks.run(update, RL.denominator(batch), "rl", per_rank=calls)
        for _, got, after in results:
            assert_close(got, gradient, 1e-5 if step == 0 else 1e-3)
            for key, weight in plain.weights().items():
                assert np.abs(after[key] - weight).max() < (1e-3 if step == 0 else 2e-2) * LR, key
        values, entropy = M.values(M.merge(m for m, _, _ in results)), "actor/entropy"
        assert values[entropy] == pytest.approx(M.values(wanted)[entropy], rel=1e-4)


def build_with(here: Any, path: str, stage: int, options: dict[str, Any]) -> None:
    build(here, path, stage, **options)
    assert here.worker.engine.scorer.chunked


def scored(plain: Plain, batch: TrainBatch) -> Any:
    tensors = TensorBatch.from_train_batch(batch)
    with torch.no_grad():
        found = ops.token_logprobs(plain.logits(tensors), tensors.tokens, TEMPERATURE).numpy()
    return np.where(real(tensors.tokens, tensors.lengths).numpy(), found, 0.0)


# ---- adapters


class PlainAdapters(Plain):
    """The plain twin with adapters: layers written out, merged weights taken by hand."""

    def __init__(self, path: str, start: dict[str, Any]) -> None:
        super().__init__(path)
        self.pairs = {}
        for name, layer in self.model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                a, b = (torch.nn.Parameter(torch.from_numpy(start[f"{name}.lora_{x}.default.weight"])) for x in "AB")
                self.pairs[name] = (a, b)
                layer.register_forward_hook(self.adapted(a, b))
        self.model.requires_grad_(False)
        self.named = {
            f"{n}.lora_{x}.default.weight": p
            for n, pair in self.pairs.items()
            for x, p in zip("AB", pair, strict=True)
        }
        o = OPTIMIZER
        self.adam = torch.optim.AdamW(self.named.values(), LR, tuple(o.betas), o.eps, o.weight_decay)

    @staticmethod
    def adapted(a: torch.Tensor, b: torch.Tensor) -> Any:
        return lambda _, inputs, out: out + LORA.alpha / LORA.rank * inputs[0] @ a.T @ b.T

    def update(self, train: TrainBatch, objective: str) -> Any:
        goal, batch = OBJECTIVES[objective], TensorBatch.from_train_batch(train)
        logprobs, entropy = ops.token_logprobs_and_entropy(self.logits(batch), batch.tokens, goal.temperature)
        outputs = Outputs(logprobs, entropy if goal.needs_entropy else None)
        loss, metrics = goal.loss(outputs, batch, goal.denominator(train))
        loss.backward()
        gradient = {n: p.grad.numpy().copy() for n, p in self.named.items()}
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), OPTIMIZER.max_grad_norm))
        self.adam.step()
        self.adam.zero_grad()
        return metrics, gradient, norm

    def weights(self) -> dict[str, Any]:
        found = super().weights()
        for name, (a, b) in self.pairs.items():
            found[f"{name}.weight"] = found[f"{name}.weight"] + (LORA.alpha / LORA.rank * b @ a).detach().numpy()
        return found


def adapters(here: Any) -> dict[str, Any]:
    engine = here.worker.engine
    named = {n: p for n, p in engine.module.named_parameters() if ".lora_" in n}
    with engine._gathered(list(named.values())):
        return numpy({n: p.detach().clone() for n, p in named.items()})


@pytest.mark.parametrize(("size", "stage"), usual(itertools.product((1, 2), STAGES), (1, 0), (2, 1), (2, 3)))
def test_adapters_train_as_in_a_plain_loop(request: Any, folders: Any, stage: int, size: int) -> None:
    ranks = request.getfixturevalue("one" if size == 1 else "two")
    splits = SPLITS_ONE if size == 1 else SPLITS_TWO
    for number, (name, options) in enumerate([("untied", {}), ("tied", {"gradient_checkpointing": True})]):
        ranks.run(build_with, folders[name], stage, options | {"lora": LORA, "chunk": 3 * VOCABULARY})
        start = ranks.run(adapters)
        assert_equal(start[0], start[-1])
        assert any(a.any() for n, a in start[0].items() if "lora_A" in n)
        assert not any(b.any() for n, b in start[0].items() if "lora_B" in n)
        assert_equal(ranks.run(state)[0], Plain(folders[name]).weights())  # nothing is changed yet, not even rounded
        plain = PlainAdapters(folders[name], start[0])
        split = list(splits.values())[number]
        for step in range(3):
            batch = make_batch(seed=step)
            _, gradient, norm = plain.update(batch, "rl")
            results = ranks.run(update, RL.denominator(batch), "rl", per_rank=deal(batch, split))
            for metrics, got, after in results:
                assert_close(got, gradient, 2e-5 if step == 0 else 2e-3)
                assert metrics["actor/grad_norm"].value() == pytest.approx(norm, rel=2e-3)
                for key, weight in plain.weights().items():
                    assert np.abs(after[key] - weight).max() < 2e-2 * LR, key
        moved = plain.weights()["model.layers.0.mlp.up_proj.weight"] - Plain(folders[name]).weights()[
            "model.layers.0.mlp.up_proj.weight"
        ]
        assert np.abs(moved).max() > 1e-4  # else the comparison of merged weights shows nothing


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (0, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_only_adapters_are_trained_and_saved(
    one: Ranks, folders: Any, tmp_path: Path, stage: int, dtype: str
) -> None:
    sizes = {}
    for kind, lora in (("full", FULL), ("lora", LORA)):
        one.run(build_with, folders["untied"], stage, {"lora": lora, "dtype": DType(dtype)})
        one.run(call, "save", str(tmp_path / kind))
        sizes[kind] = sum(f.stat().st_size for f in (tmp_path / kind).rglob("*.pt"))
    if stage == 0 and dtype == "float32":  # elsewhere DeepSpeed has the optimizer hold flat buffers of them
        names = one.run(trained_parameters)[0]
        assert len(names) == 2 * 7 * 2
        assert all(".lora_" in name for name in names)
    assert sizes["lora"] < 0.6 * sizes["full"]


@pytest.mark.parametrize(
    ("stage", "dtype"),
    usual([*((s, "float32") for s in STAGES), *((s, "bfloat16") for s in (0, 2, 3))], (0, "float32"), (3, "bfloat16")),
)
def test_a_loaded_checkpoint_goes_on_bit_for_bit(
    two: Ranks, folders: Any, tmp_path: Path, stage: int, dtype: str
) -> None:
    options = {"lora": LORA, "dtype": DType(dtype)}
    two.run(build_with, folders["tied"], stage, options)
    some_updates(two, range(2))
    two.run(call, "save", str(tmp_path))
    saved = two.run(adapters)[0]
    some_updates(two, range(2, 4))
    uninterrupted = two.run(adapters)
    two.run(build_with, folders["tied"], stage, options)
    two.run(call, "load", str(tmp_path))
    assert_equal(two.run(adapters)[0], saved)
    some_updates(two, range(2, 4))
    for got, wanted in zip(two.run(adapters), uninterrupted, strict=True):
        assert_equal(got, wanted)
    assert any(not np.array_equal(uninterrupted[0][n], saved[n]) for n in saved)
    two.run(build_with, folders["tied"], stage, options | {"lora": LoraConfig(rank=5)})
    with pytest.raises(AssertionError, match=r"ValueError: .*parameters \d+ \(here \d+\)"):
        two.run(call, "load", str(tmp_path))


def evaluated(here: Any, path: str, stage: int, checkpoint: str) -> dict[str, Any]:
    """Merged weights of a checkpoint in a worker without optimizer."""
    model, engine = ModelConfig(path=path, lora=LORA), EngineConfig(zero_stage=stage)
    here.worker._engine = TrainEngine(path, model, engine, "cpu", optimizer=False)
    here.worker.load(checkpoint)
    return state(here)


@pytest.mark.parametrize(("saved", "loaded"), [(0, 0), (2, 3), (3, 2)])
def test_adapters_are_loaded_without_an_optimizer(
    two: Ranks, folders: Any, tmp_path: Path, saved: int, loaded: int
) -> None:
    two.run(build, folders["tied"], saved, LORA)
    some_updates(two, range(2))
    two.run(call, "save", str(tmp_path))
    wanted = two.run(state)[0]
    for rank in two.run(evaluated, folders["tied"], loaded, str(tmp_path)):
        assert_equal(rank, wanted)


def some_updates(ranks: Ranks, seeds: range) -> None:
    for seed in seeds:
        batch = make_batch(seed=seed)
        ranks.run(update, RL.denominator(batch), "rl", per_rank=deal(batch, SPLITS_TWO["uneven"]))


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("name", ["untied", "tied"])
def test_the_export_is_the_merged_model(two: Ranks, folders: Any, tmp_path: Path, stage: int, name: str) -> None:
    two.run(build_with, folders[name], stage, {"lora": LORA})
    some_updates(two, range(2))
    two.run(call, "export", str(tmp_path))
    merged, batch = two.run(state)[0], make_batch(seed=9)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert_equal(numpy({n: p.detach() for n, p in loaded.named_parameters(remove_duplicate=False)}), merged)
    assert not any("lora" in n or "base_layer" in n for n in merged)
    assert not list(tmp_path.glob("*adapter*"))
    assert (tmp_path / "tokenizer_config.json").read_text() == '{"kept": true}'
    shard, micro = batch.select(range(7)), [[0, 1, 2], [3, 4, 5, 6]]
    ours = batch.padded(two.run(call, "numbers", shard, micro, TEMPERATURE)[0])
    assert np.abs(ours - scored(Plain(str(tmp_path)), batch)).max() < 1e-4
    base = scored(Plain(folders[name]), batch)
    assert np.abs(ours - base).max() > 1e-2
    for reference in two.run(frozen, folders[name], stage, shard, micro):  # the model before any adapter
        assert np.abs(batch.padded(reference) - base).max() < 1e-5


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_adapters_have_float32_master_weights(two: Ranks, folders: Any, stage: int) -> None:
    two.run(build_with, folders["untied"], stage, {"lora": LORA, "dtype": DType.bfloat16})
    some_updates(two, range(2))
    low, master = two.run(adapters)[0], two.run(masters)[0]
    assert low.keys() == master.keys()
    for name, weight in master.items():
        assert np.array_equal(torch.from_numpy(weight).bfloat16().float().numpy(), low[name]), name
        assert (weight != low[name]).mean() > 0.9, name  # it has digits that bfloat16 has not


def masters(here: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param

    named = here.worker.engine.module.named_parameters()
    return numpy({n: safe_get_full_fp32_param(p).clone() for n, p in named if ".lora_" in n})


@pytest.mark.parametrize("stage", [0, 3])
def test_dropout_is_on_in_training_and_off_in_scoring(one: Ranks, folders: Any, stage: int) -> None:
    tokens = torch.from_numpy(make_batch(seed=1).padded("tokens")).long()
    for checkpointing in (False, True):
        options = {"lora": LoraConfig(rank=4, dropout=0.5), "gradient_checkpointing": checkpointing}
        one.run(build_with, folders["untied"], stage, options)
        for _ in range(2):  # B must have moved for a dropout before A to show
            batch = make_batch(seed=0)
            one.run(update, RL.denominator(batch), "rl", per_rank=deal(batch, SPLITS_ONE["whole"]))
        first, second, alone, again = one.run(dropped, tokens)[0]
        assert np.array_equal(alone, again)
        assert not np.array_equal(first, second)


# ---- vLLM


@pytest.fixture
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("vllm")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    yield
    ray.shutdown()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tied", "stage"), [(False, 0), (True, 3)])
@pytest.mark.slow
def test_vllm_samples_from_the_adapted_weights(cluster: None, tmp_path: Path, tied: bool, stage: int) -> None:
    import ray

    from actors.generation.rollout import RolloutWorker
    from rlcore.interfaces import Sampling
    from tests.integration.test_rollout import PROMPTS, Rig, build_model

    base = build_model(tmp_path, tied)
    model = ModelConfig(path=str(tmp_path), lora=LoraConfig(rank=4, alpha=16.0))
    engine = ray.remote(num_cpus=0, max_concurrency=4)(RolloutWorker).remote()
    policy = ray.remote(num_cpus=0)(PolicyWorker).remote()
    ray.get(engine.start.remote(str(tmp_path), RolloutConfig(cpu_kv_cache_gib=0.25), "cpu", "float32", 320, 1, 0))
    host, port = ray.get(policy.address.remote())
    spec = StartSpec(0, 1, host, port, "cpu", str(tmp_path), model, EngineConfig(zero_stage=stage))
    ray.get(policy.start.remote(spec))
    ray.get(policy.connect.remote("host", [engine], "float32", 50_000, 120.0))
    rig = Rig.__new__(Rig)  # its way to sample and collect, with this engine
    rig.engine, rig.calls, rig.model = engine, 0, base
    rows = [[*p, *range(5, 17)] for p in PROMPTS]
    taught = TrainBatch.from_padded(
        tokens=padded(rows), lengths=np.array([len(r) for r in rows], dtype=np.int32),
        loss_mask=padded([[0] * len(p) + [1] * 12 for p in PROMPTS]).astype(np.bool_), sample_ids=["s"] * len(rows),
    )  # fmt: skip
    try:
        for version in (1, 2):
            ray.get(policy.send_weights.remote(version))
            groups = rig.generate(PROMPTS, Sampling(3, 24))
            assert {int(v) for g in groups for s in g.samples for v in s.versions} == {version}
            off_base = rig.worst(PROMPTS, groups)
            assert off_base < 1e-4 if version == 1 else off_base > 0.1
            for group in groups:
                prompt = list(PROMPTS[group.index])
                rows = [[*prompt, *sample.token_ids.tolist()] for sample in group.samples]
                shard = TrainBatch.from_padded(
                    tokens=padded(rows), lengths=np.array([len(r) for r in rows], dtype=np.int32),
                    loss_mask=padded(rows) > 0, sample_ids=["s"] * len(rows),
                )  # fmt: skip
                ours = shard.padded(ray.get(policy.numbers.remote(shard, [list(range(len(rows)))], 1.0)))
                for row, sample in zip(ours, group.samples, strict=True):
                    got = row[len(prompt) : len(prompt) + len(sample.token_ids)]
                    assert np.abs(got - sample.logprobs).max() < 1e-4
            for _ in range(10):
                count = float(taught.num_loss_tokens)
                ray.get(policy.update.remote(taught, [list(range(len(PROMPTS)))], count, 1e-2, OBJECTIVES["sft"]))
    finally:
        for actor in (engine, policy):
            ray.kill(actor)


def padded(rows: list[list[int]]) -> Any:
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int32)
