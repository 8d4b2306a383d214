"""Weights as their checkpoint format holds them, against what `save_pretrained` writes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from actors.config.schema import ModelConfig
from actors.training import checkpoint_format
from actors.training.model_folder import load_model, save_model
from tests.integration.families import EXPERT, build

TOO_BIG = {"dbrx", "jamba"}  # their configs have sizes of their own


@contextmanager
def gather(parameters: Any) -> Any:
    yield


def load(folder: Path) -> Any:
    eager = json.loads((folder / "config.json").read_text())["model_type"] == "gpt_oss"  # it has nothing else
    return load_model(str(folder), ModelConfig(path=str(folder), attention="eager" if eager else "sdpa"))


def sent(hf: torch.nn.Module, max_bytes: int) -> list[list[tuple[str, torch.Tensor]]]:
    return list(checkpoint_format.buckets(hf, max_bytes, gather))


@pytest.fixture(scope="module", params=sorted(set(EXPERT) - TOO_BIG))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    build(request.param, path)
    return path


@pytest.mark.parametrize("max_bytes", [1, 40_000, 2**30])
def test_experts_are_sent_as_the_folder_holds_them(folder: Path, max_bytes: int) -> None:
    wanted = load_file(folder / "model.safetensors")
    hf = load(folder)
    buckets = sent(hf, max_bytes)
    if hf.config.tie_word_embeddings:
        wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]
    assert sorted(name for bucket in buckets for name, _ in bucket) == sorted(wanted)
    assert all(torch.equal(tensor, wanted[name]) for bucket in buckets for name, tensor in bucket)
    sizes = [sum(t.numel() * t.element_size() for _, t in bucket) for bucket in buckets]
    assert all(size <= max_bytes or len(bucket) == 1 for size, bucket in zip(sizes, buckets, strict=True))


def test_an_export_is_the_folder_again(folder: Path, tmp_path: Path) -> None:
    hf = load(folder)
    save_model(hf, str(folder), tmp_path, gather)
    wanted, written = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], wanted[name]) for name in wanted)


def test_a_folder_with_stacked_experts_is_sent_and_written_in_the_checkpoint_format(tmp_path: Path) -> None:
    model = build("qwen3-moe", tmp_path / "plain")
    build("qwen3-moe", tmp_path / "stacked")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert any("gate_up_proj" in name for name in load_file(tmp_path / "stacked" / "model.safetensors"))
    wanted = load_file(tmp_path / "plain" / "model.safetensors")
    hf = load(tmp_path / "stacked")
    ((*bucket,),) = sent(hf, 2**30)
    assert {name for name, _ in bucket} == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in bucket)


def test_a_tied_weight_comes_under_each_of_its_names(tmp_path: Path) -> None:
    hf = build("gemma2", tmp_path)
    found = dict(item for bucket in sent(hf, 1) for item in bucket)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert set(found) == {name for name, _ in hf.named_parameters(remove_duplicate=False)}
