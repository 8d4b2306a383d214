"""Reading and writing model folders: what a folder may hold and still be written at the end of a training."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import transformers

from actors.config.schema import ModelConfig
from actors.training.model_folder import check_export, load_model, save_model
from actors.training.reward_model import RewardFolder
from tests.integration.families import add_to, build

SAMPLING = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": [1, 3]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("qwen2", tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **options: Any) -> Any:
    return load_model(str(folder), ModelConfig(path=str(folder), **options))


def export(hf: Any, folder: Path) -> Path:
    target = folder.parent / "exported"
    check_export(hf, str(folder))
    target.mkdir()
    save_model(hf, str(folder), target, lambda parameters: nullcontext())
    assert transformers.AutoTokenizer.from_pretrained(target).eos_token_id == 1
    return target


def test_sampling_defaults_without_do_sample_are_carried_over(folder: Path) -> None:
    add_to(folder / "generation_config.json", **SAMPLING)
    target = export(load(folder), folder)
    assert json.loads((target / "generation_config.json").read_text()).items() >= SAMPLING.items()
    transformers.AutoModelForCausalLM.from_pretrained(target)


def test_sampling_defaults_in_the_config_become_the_generation_config(folder: Path) -> None:
    add_to(folder / "config.json", temperature=0.6, top_p=0.9)
    (folder / "generation_config.json").unlink()
    target = export(load(folder), folder)
    assert json.loads((target / "generation_config.json").read_text())["top_p"] == 0.9


def test_a_reward_model_of_such_a_folder(folder: Path) -> None:
    add_to(folder / "generation_config.json", **SAMPLING)
    add_to(folder / "config.json", temperature=0.6)
    hf = RewardFolder.inspect(str(folder), ModelConfig(path=str(folder))).load(ModelConfig(path=str(folder)))
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(export(hf, folder))
    assert loaded.config.num_labels == hf.config.num_labels


def test_what_cannot_be_written_is_known_before_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = load(folder)

    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("rope_theta is a set")

    monkeypatch.setattr(type(hf.config), "to_json_file", broken)
    with pytest.raises(ValueError, match=r"model of .*model could not be written .*TypeError: rope_theta is a set"):
        check_export(hf, str(folder))


def test_an_attention_that_the_model_has_not_names_our_key(folder: Path, tmp_path: Path) -> None:
    build("gpt-oss", tmp_path / "oss")
    with pytest.raises(ValueError, match=r"model.attention=sdpa: .*Set model.attention=eager$") as found:
        load(tmp_path / "oss")
    assert "attn_implementation" not in str(found.value)
    load(tmp_path / "oss", attention="eager")
    with pytest.raises(ValueError, match=r"attention=flash_attention_2: .*Set model.attention=sdpa$"):
        load(folder, attention="flash_attention_2")
