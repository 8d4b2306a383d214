"""Model folders averaged: against torch, exact where all are equal, in the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.config.schema import ModelConfig, TinyModelConfig
from actors.training.models import load_tokenizer, prepare_model
from rlcore.storage.average import INDEX, average

SMALL = TinyModelConfig(num_layers=2, hidden_size=32, num_heads=2, intermediate_size=64)
TIED = TinyModelConfig(num_layers=1, hidden_size=32, num_heads=2, intermediate_size=64, tie_embeddings=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return [prepare_model(ModelConfig(tiny=SMALL), tmp_path_factory.mktemp(f"m{i}"), seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> list[Path]:
    return [prepare_model(ModelConfig(tiny=TIED), tmp_path_factory.mktemp(f"t{i}"), seed=i) for i in range(2)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(source: Path, folder: Path, change=None, config=None) -> Path:
    """A copy of a model folder; `change` works on its tensors, `config` goes over its config.json."""
    shutil.copytree(source, folder)
    if change:
        held = tensors(folder)
        save_file(change(held) or held, folder / "model.safetensors", {"format": "pt"})
    if config:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def sharded(source: Path, folder: Path, **options) -> Path:
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder, max_shard_size="20KB", **options)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shares", [None, [0.1, 0.2, 0.7]])
def test_a_model_with_itself_is_itself(models, tmp_path, dtype, shares):
    one = changed(models[0], tmp_path / "one", lambda held: {k: v.to(dtype) for k, v in held.items()})
    average([one, one, one], tmp_path / "mean", shares)
    before, after = tensors(one), tensors(tmp_path / "mean")
    assert before.keys() == after.keys()
    assert all(after[k].dtype == dtype and torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("shares", [None, [1, 2, 5], [0, 1, 3], [0, 0, 1]])
def test_against_torch(models, tmp_path, shares):
    average(models, tmp_path / "mean", shares)
    held, mean = [tensors(m) for m in models], tensors(tmp_path / "mean")
    part = torch.tensor(shares or [1, 1, 1], dtype=torch.float64)
    for name in held[0]:
        stack = torch.stack([h[name].double() for h in held])
        expected = torch.einsum("k...,k->...", stack, part / part.sum())
        torch.testing.assert_close(mean[name].double(), expected, rtol=0, atol=2e-7 * float(stack.abs().max()))
    if shares == [0, 0, 1]:
        assert all(torch.equal(mean[name], held[2][name]) for name in mean)


def test_sums_are_float32_whatever_the_dtype(models, tmp_path):
    """bfloat16 steps by 2 here: a running mean kept in it would go to 258 and stay."""
    cast = lambda value: lambda held: {k: torch.full_like(v, value, dtype=torch.bfloat16) for k, v in held.items()}  # noqa: E731
    low, high = (changed(models[0], tmp_path / name, cast(v)) for name, v in (("low", 256.0), ("high", 260.0)))
    average([low, *[high] * 9], tmp_path / "mean", [1] * 10)
    mean = tensors(tmp_path / "mean")
    assert all(v.dtype == torch.bfloat16 and (v == 260.0).all() for v in mean.values())  # 259.6, rounded to even
    # the first folder's dtype, whatever the others'
    average([models[0], high], tmp_path / "wide", [1, 0])
    assert all(v.dtype == torch.float32 for v in tensors(tmp_path / "wide").values())


def test_result_is_a_model(models, tmp_path):
    """transformers loads it, and on it the tokenizer of the first."""
    average(models, tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert {k for k, _ in model.named_parameters()} == tensors(models[0]).keys()
    assert load_tokenizer(tmp_path / "mean")("1+2").input_ids == load_tokenizer(models[0])("1+2").input_ids
    copied = {f.name for f in models[0].iterdir()} - {"rlcore_origin.json"}
    assert {f.name for f in (tmp_path / "mean").iterdir()} == copied
    assert (tmp_path / "mean/config.json").read_bytes() == (models[0] / "config.json").read_bytes()


def test_same_input_same_bytes(models, tmp_path):
    for name in ("a", "b"):
        average(models, tmp_path / name, [1, 2, 3])
    average(models, tmp_path / "c", [10, 20, 30])
    average(models[::-1], tmp_path / "d", [3, 2, 1])
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    same, other = tensors(tmp_path / "a"), tensors(tmp_path / "d")
    assert all(torch.allclose(same[k], other[k], atol=1e-7) for k in same)  # the order matters to rounding alone
    assert all(torch.allclose(v, same[k], atol=1e-7) for k, v in tensors(tmp_path / "c").items())


def test_shards_are_read(models, tmp_path):
    pieces = sharded(models[1], tmp_path / "pieces")
    average([models[0], pieces], tmp_path / "mixed")
    average(models[:2], tmp_path / "whole")
    assert hashes(tmp_path / "mixed") == hashes(tmp_path / "whole")
    average([pieces, pieces], tmp_path / "again")
    assert not list((tmp_path / "again").glob("*index*"))
    assert all(torch.equal(v, tensors(models[1])[k]) for k, v in tensors(tmp_path / "again").items())


def test_broken_shards_are_named(models, tmp_path):
    pieces = sharded(models[0], tmp_path / "pieces")
    index = json.loads((pieces / INDEX).read_text())
    first, second = sorted(set(index["weight_map"].values()))[:2]
    inside = [name for name, file in index["weight_map"].items() if file == first]
    intact = (pieces / INDEX).read_text()
    index["weight_map"][inside[0]] = second
    (pieces / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{second} holds no tensor '{inside[0]}'"):
        average([pieces], tmp_path / "mean")
    (pieces / INDEX).write_text(intact)
    (pieces / first).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{first} is missing"):
        average([pieces], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_tied_weights(tied, tmp_path):
    assert "lm_head.weight" not in tensors(tied[0])
    average(tied, tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    expected = (tensors(tied[0])["model.embed_tokens.weight"] + tensors(tied[1])["model.embed_tokens.weight"]) / 2
    torch.testing.assert_close(model.lm_head.weight.detach(), expected)
    spell = lambda held: {**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()}  # noqa: E731
    spelled = changed(tied[0], tmp_path / "spelled", spell)
    average([spelled, tied[1]], tmp_path / "left out")
    assert hashes(tmp_path / "left out") == hashes(tmp_path / "mean")
    average([spelled, spelled], tmp_path / "kept")
    assert "lm_head.weight" in tensors(tmp_path / "kept")
    wrong = changed(tied[0], tmp_path / "wrong", lambda held: {**held, "lm_head.weight": torch.ones(97, 32)})
    with pytest.raises(ValueError, match=r"t1.*has no tensor 'lm_head.weight', .*wrong has one"):
        average([wrong, tied[1]], tmp_path / "never")


def test_integer_tensors_must_agree(models, tmp_path):
    steps = [
        changed(models[0], tmp_path / f"{n}", lambda held, n=n: {**held, "step": torch.tensor([n])}) for n in (3, 4)
    ]
    average([steps[0], steps[0]], tmp_path / "same")
    assert tensors(tmp_path / "same")["step"].tolist() == [3]
    with pytest.raises(ValueError, match=r"'step' is torch.int64, and differs between .*3 and .*4"):
        average(steps, tmp_path / "never")


def test_what_does_not_go_together_is_named(models, tied, tmp_path):
    first, name = models[0], "model.norm.weight"
    out = tmp_path / "never"

    def refused(match: str, *folders: Path, error=ValueError, shares=None) -> None:
        with pytest.raises(error, match=match):
            average([first, *folders], out, shares)
        assert not out.exists()
        assert not list(tmp_path.glob(".*"))

    short = changed(first, tmp_path / "short", lambda held: {k: v for k, v in held.items() if k != name})
    refused(rf"short has no tensor '{name}', .* has one", short)
    wide = changed(first, tmp_path / "wide", lambda held: {**held, name: torch.ones(33)})
    refused(rf"'{name}' has the shape \[32\] in .* and \[33\] in .*wide", wide)
    sick = changed(first, tmp_path / "sick", lambda held: {**held, name: torch.full((32,), math.nan)})
    refused(rf"'{name}' of .*sick holds values that are not finite", sick)
    refused(r"different architecture: config.json has layer_types=.*'\] and \[", tied[0])
    refused(
        "different architecture: config.json has num_attention_heads=2 and 4",
        changed(first, tmp_path / "heads", config={"num_attention_heads": 4}),
    )
    refused("packed is quantized", changed(first, tmp_path / "packed", config={"quantization_config": {"bits": 4}}))
    other = changed(first, tmp_path / "words")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused("have different vocabularies", other)
    (tmp_path / "empty").mkdir()
    refused("empty is not a Hugging Face model folder", tmp_path / "empty", error=FileNotFoundError)
    bare = changed(first, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    refused("bare holds neither model.safetensors nor", bare, error=FileNotFoundError)
    refused("2 folders and 1 weights", first, shares=[1.0])
    refused("has the weight -1", first, shares=[1.0, -1])
    refused("has the weight nan", first, shares=[1.0, math.nan])
    refused("all weights are 0", first, shares=[0, 0])
    with pytest.raises(ValueError, match="needs a list"):
        average([], out)
    with pytest.raises(FileExistsError, match="bare is not empty"):
        average([first], bare)


def test_saved_by_another_version_is_no_other_architecture(models, tmp_path):
    other = changed(
        models[1], tmp_path / "other", config={"transformers_version": "0", "new_key": 1, "use_cache": False}
    )
    average([models[0], other], tmp_path / "mean")
    average(models[:2], tmp_path / "plain")
    assert hashes(tmp_path / "mean") == hashes(tmp_path / "plain")


def test_a_half_written_average_is_written_again(models, tmp_path):
    (tmp_path / ".mean.partial").mkdir()
    (tmp_path / ".mean.partial" / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "mean").mkdir()
    average(models, tmp_path / "mean")
    average(models, tmp_path / "other")
    assert hashes(tmp_path / "mean") == hashes(tmp_path / "other")
    assert not (tmp_path / ".mean.partial").exists()
