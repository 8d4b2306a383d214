"""Models that two ranks load, shard and write in pieces, against plain transformers in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from actors.config.schema import DType, EngineConfig, LoraConfig, ModelConfig
from actors.training import engine as engines
from actors.training import model_folder, streaming
from actors.training.critic import CriticWorker
from actors.training.reward_model import RewardModelWorker
from actors.training.worker import PolicyWorker, ReferenceWorker, StartSpec
from tests.integration.families import build
from tests.integration.test_training import Ranks, call

WORKERS = {"policy": PolicyWorker, "reference": ReferenceWorker, "critic": CriticWorker, "reward": RewardModelWorker}
FAMILIES = ["llama", "qwen3-tied", "qwen3-moe", "deepseek-v3"]


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    for name, folder in found.items():
        build(name, folder)
    return found


def load(here: Any, role: str, path: str, stage: int, dtype: str, lora_rank: int = 0) -> tuple[dict[str, Any], int]:
    """The weights and buffers that a rank of the model has, and the most elements that were whole while reading."""
    here.worker = worker = WORKERS[role]()
    held: list[Any] = []
    most, place = 0, engines.TrainEngine._place

    def watched(engine: Any, config: Any) -> Any:
        plain = place(engine, config)

        def watch(name: str, parameter: Any) -> None:
            nonlocal most
            held.append(parameter)
            most = max(most, sum(p.numel() for p in held))
            plain(name, parameter)

        return watch

    engines.TrainEngine._place = watched  # type: ignore[method-assign]
    try:
        model, engine = ModelConfig(path=path, dtype=DType(dtype), lora=LoraConfig(rank=lora_rank)), EngineConfig(stage)
        spec = StartSpec(here.rank, here.size, "127.0.0.1", here.port, "cpu", path, model, engine)
        if here.started:
            worker._spec = spec
            worker._build(path, worker._load)
        else:
            worker.start(spec)
            here.started = True
    finally:
        engines.TrainEngine._place = place  # type: ignore[method-assign]
    found = {name: array(buffer) for name, buffer in worker.engine.module.named_buffers()}
    for name, p in worker.engine.module.named_parameters(remove_duplicate=False):
        with worker.engine._gathered([p]):
            found[name] = array(p)
    return found, most


def array(tensor: torch.Tensor) -> Any:
    return (str(tensor.dtype), tensor.detach().float().numpy().copy())


def assert_equal(found: dict[str, Any], wanted: Any) -> None:
    named = [*wanted.named_parameters(remove_duplicate=False), *wanted.named_buffers()]
    assert found.keys() == {name for name, _ in named}
    for name, tensor in named:
        dtype, value = array(tensor)
        assert found[name][0] == dtype, name
        assert np.array_equal(found[name][1], value), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_zero_3_shards_while_it_reads(two: Ranks, folders: Any, name: str, dtype: str) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folders[name], dtype=getattr(torch, dtype))
    largest = max(p.numel() for p in plain.parameters())
    for role in ("policy", "reference"):
        for found, most in two.run(load, role, str(folders[name]), 3, dtype):
            assert_equal(found, plain)
            assert most <= largest


@pytest.mark.parametrize("stage", [0, 3])
def test_critics_and_reward_models(two: Ranks, folders: Any, stage: int) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folders["qwen3-tied"], dtype=torch.float32).base_model
    for found, _ in two.run(load, "critic", str(folders["qwen3-tied"]), stage, "float32"):
        assert_equal(found, plain)
    assert two.run(width_of_the_head) == [128, 128]
    plain = AutoModelForSequenceClassification.from_pretrained(folders["llama"], num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(plain.score.weight)
    for found, _ in two.run(load, "reward", str(folders["llama"]), stage, "float32"):
        assert_equal(found, plain)


def width_of_the_head(here: Any) -> int:
    return int(here.worker.engine.scorer.head.in_features)


def test_adapters_on_a_sharded_model(two: Ranks, folders: Any) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32)
    for found, _ in two.run(load, "policy", str(folders["llama"]), 3, "float32", 4):
        base = {n.replace(".base_layer.", "."): v for n, v in found.items() if ".lora_" not in n}
        assert len(base) < len(found)
        assert_equal(base, plain)
        assert all((v == 0).all() for n, (_, v) in found.items() if ".lora_B" in n)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_in_several_files_is_the_model(
    two: Ranks, folders: Any, tmp_path: Path, name: str, stage: int
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.safetensors").write_text("an earlier export")
    two.run(load, "policy", str(folders[name]), stage, "bfloat16")
    two.run(export, str(target), 100_000)
    files = [file.name for file in target.glob("model-*.safetensors")]
    assert len(files) > 2
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert len(list(target.glob("masters-*.float32"))) > 2
    assert not (target / "old.safetensors").exists()
    assert list(tmp_path.iterdir()) == [target]
    models = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in (folders[name], target))
    plain, again = ([*m.named_parameters(remove_duplicate=False), *m.named_buffers()] for m in models)
    assert [n for n, _ in again] == [n for n, _ in plain]
    assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(again, plain, strict=True))
    two.run(load, "policy", str(target), stage, "bfloat16")
    wanted = dict(AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32).named_parameters())
    for held in two.run(float32_weights):
        assert held.keys() == wanted.keys()
        assert all(np.array_equal(held[n], wanted[n].detach().numpy()) for n in held)


@pytest.mark.parametrize("stage", [2, 3])
def test_sizes_that_the_ranks_do_not_divide(two: Ranks, tmp_path: Path, stage: int) -> None:
    build("llama", tmp_path / "odd", mlp_bias=True, intermediate_size=47)
    two.run(load, "policy", str(tmp_path / "odd"), stage, "bfloat16")
    wanted = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "odd", dtype=torch.float32).named_parameters())
    for held in two.run(float32_weights):
        assert all(np.array_equal(held[n], wanted[n].detach().numpy()) for n in wanted)
    two.run(call, "save", str(tmp_path / "saved"))
    two.run(load, "policy", str(tmp_path / "odd"), stage, "bfloat16")
    two.run(call, "load", str(tmp_path / "saved"))
    for held in two.run(float32_weights):
        assert all(np.array_equal(held[n], wanted[n].detach().numpy()) for n in wanted)


@pytest.mark.parametrize("stage", [0, 3])
def test_saved_buffers_come_back(two: Ranks, folders: Any, tmp_path: Path, stage: int) -> None:
    two.run(load, "policy", str(folders["deepseek-v3"]), stage, "float32")
    changed = two.run(biases, 1.0)
    two.run(call, "save", str(tmp_path))
    two.run(load, "policy", str(folders["deepseek-v3"]), stage, "float32")
    assert two.run(biases) != changed
    two.run(call, "load", str(tmp_path))
    assert two.run(biases) == changed


def biases(here: Any, add: float = 0.0) -> list[float]:
    found = [b for n, b in here.worker.engine.module.named_buffers() if n.endswith("e_score_correction_bias")]
    return [float(x) for buffer in found for x in buffer.add_(add)]


def export(here: Any, target: str, shard_bytes: int) -> None:
    plain, streaming.SHARD_BYTES = streaming.SHARD_BYTES, shard_bytes
    bucket, model_folder.BUCKET_BYTES = model_folder.BUCKET_BYTES, shard_bytes
    try:
        here.worker.export(target, masters=True)
    finally:
        streaming.SHARD_BYTES, model_folder.BUCKET_BYTES = plain, bucket


def float32_weights(here: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param

    named = here.worker.engine.module.named_parameters()
    return {n: safe_get_full_fp32_param(p).view(getattr(p, "ds_shape", p.shape)).numpy().copy() for n, p in named}


def test_an_export_that_fails_leaves_the_old_folder(two: Ranks, folders: Any, tmp_path: Path) -> None:
    target = tmp_path / "model"
    two.run(load, "policy", str(folders["llama"]), 3, "float32")
    two.run(export, str(target), 10**9)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(AssertionError, match="No space left"):
        two.run(export_to_a_full_disk, str(target))
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]
    two.run(export, str(target), 10**9)  # the ranks still agree


def export_to_a_full_disk(here: Any, target: str) -> None:
    plain = streaming.save_file

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    streaming.save_file = full
    try:
        here.worker.export(target)
    finally:
        streaming.save_file = plain
