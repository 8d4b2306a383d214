"""Model folders read one parameter at a time, and written file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from actors.training import streaming
from actors.training.streaming import Shards, streamed
from tests.integration.families import build

READ = ["llama", "qwen3-tied", "gpt-neox", "qwen3-moe", "mixtral", "deepseek-v3", "gpt-oss"]


def assert_same(found: Any, wanted: Any) -> None:
    """Weights and buffers, also those that are not saved, bit for bit."""
    for kind in ("state_dict", "named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(model, kind)()) for model in (found, wanted))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_model_is_the_plain_one_and_each_weight_is_read_in_turn(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    build(name, tmp_path)
    kept: dict[str, torch.Tensor] = {}

    def place(name: str, parameter: torch.nn.Parameter) -> None:
        kept[name], parameter.data = parameter.data, torch.empty(0)

    with streamed(place):
        found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    whole = {name for name, p in found.named_parameters(remove_duplicate=False) if p.numel()}
    tied = {"model.embed_tokens.weight", "lm_head.weight"} if found.config.tie_word_embeddings else set()
    assert whole == tied
    for name, value in kept.items():
        found.get_parameter(name).data = value
    assert_same(found, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype))


def test_weights_that_the_folder_lacks_are_left_to_transformers(tmp_path: Path) -> None:
    build("llama", tmp_path)
    seen: list[str] = []
    with streamed(lambda name, parameter: seen.append(name)):
        found = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert found.score.weight.shape[0] == 3
    assert {name for name, _ in found.named_parameters()} - set(seen) == {"score.weight"}


@pytest.mark.parametrize("name", ["llama", "qwen3-tied", "qwen3-moe"])
def test_pickled_and_sharded_folders(tmp_path: Path, name: str) -> None:
    build(name, tmp_path)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(held, tmp_path / "pytorch_model.bin")
    with streamed(lambda name, parameter: None):
        assert_same(AutoModelForCausalLM.from_pretrained(tmp_path), wanted)
    (tmp_path / "pytorch_model.bin").unlink()
    for i in range(3):  # neighbours, such as the experts of a layer, are in different files
        save_file(dict(list(held.items())[i::3]), tmp_path / f"{i}.safetensors", {"format": "pt"})
    places = {name: f"{i % 3}.safetensors" for i, name in enumerate(held)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with streamed(lambda name, parameter: None):
        assert_same(AutoModelForCausalLM.from_pretrained(tmp_path), wanted)


def test_tied_weights_that_differ_are_kept_apart(tmp_path: Path) -> None:
    """As transformers does: the folder's weights count, not its config."""
    build("qwen3-tied", tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"] + 1
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with streamed(lambda name, parameter: setattr(parameter, "data", torch.empty(0))):
        found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(found.lm_head.weight, found.model.embed_tokens.weight + 1)


def test_nothing_stays_behind(tmp_path: Path) -> None:
    build("llama", tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="stop"), streamed(lambda name, parameter: stop()):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path), plain)


def stop() -> None:
    raise RuntimeError("stop")


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SHARD_BYTES", 100)
    tensors = {"a": torch.arange(20.0), "b": torch.arange(12.0).view(3, 4).T, "large": torch.arange(99)}
    tensors["z"] = torch.ones(())
    shards = Shards(tmp_path, "model", ".safetensors")
    for name, tensor in tensors.items():
        shards.add(name, tensor)
    shards.close(index=True)
    names = [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 80 + 48 + 99 * 8 + 4},
        "weight_map": dict(zip(tensors, names, strict=True)),
    }
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


def test_one_shard_has_the_plain_name(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "masters", ".float32")
    shards.add("a", torch.ones(3))
    shards.close()
    assert [file.name for file in tmp_path.iterdir()] == ["masters.float32"]
