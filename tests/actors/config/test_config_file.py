"""Config files on the command line."""

from __future__ import annotations

import json

import pytest
import yaml

from actors.config.compose import ConfigError, check, compose
from actors.config.config_file import ConfigFileError, expand
from actors.config.schema import Config
from actors.run_folder import plain
from tests.actors.cases import run, written


def of_file(tmp_path, text: str, *overrides: str) -> Config:
    return compose(expand(["--config", written(tmp_path, text), *overrides]))


def test_a_config_file_lies_between_presets_and_the_command_line(tmp_path):
    text = "defaults: [{algorithm: rloo}]\nrollout: gpu\ntrainer: {steps: 7, learning_rate: {peak: 1e-6}}\nseed: 3\n"
    config = of_file(tmp_path, text, "trainer.steps=9")
    assert config.algorithm.name == "rloo"
    assert config.rollout.max_new_tokens == 1024
    assert (config.trainer.steps, config.trainer.learning_rate.peak, config.seed) == (9, 1e-6, 3)
    assert config.trainer.prompts_per_step == 64  # of the quickstart
    assert of_file(tmp_path, text, "algorithm=dapo").algorithm.name == "dapo"


@pytest.mark.parametrize("form", ["defaults: {experiment: llama3}\n", "defaults:\n- experiment: llama3\n"])
def test_a_config_file_may_start_from_a_recipe(tmp_path, form):
    config = of_file(tmp_path, form + "rounds: {count: 1}\nname: mine\n")
    assert config.rounds.count == 1
    assert config.rounds.stages
    assert config.name == "mine"


def test_stages_of_a_config_file(tmp_path):
    config = of_file(tmp_path, "rounds:\n  stages:\n    sft: {kind: sft, data: [answers]}\n")
    assert config.rounds.stages == {"sft": {"kind": "sft", "data": ["answers"]}}


def test_a_recorded_config_is_a_config_file(tmp_path):
    config = compose(["algorithm=ppo", "cluster=laptop_critic", "model.dtype=bfloat16", "data.columns.prompt=q"])
    text = yaml.safe_dump(plain(config))
    assert of_file(tmp_path, text) == config


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trainer: {stepz: 3}\nrolout: {}\n", ["my.yaml: trainer.stepz", "did you mean trainer.steps?", "rolout"]),
        ("trainer: {steps: many}\n", ["my.yaml: trainer.steps", "many"]),
        ("defaults: [{algorithm: grop}]\n", ["grop", "grpo"]),
        ("defaults: [{algorythm: grpo}]\n", ["my.yaml", "algorythm", "algorithm"]),
        ("a: [\n", ["my.yaml", "not YAML"]),
        ("- 1\n", ["my.yaml", "keys and values"]),
        ("", ["my.yaml", "empty"]),
    ],
)
def test_a_wrong_config_file_names_file_and_key(tmp_path, text, parts):
    with pytest.raises((ConfigError, ConfigFileError)) as caught:
        of_file(tmp_path, text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "nowhere.yaml"], "rlcore init nowhere.yaml"),
        (["--config"], "needs a path"),
        (["--config=a.yaml", "--config=b.yaml"], "twice"),
        (["--config-dir", "nowhere"], "no such folder"),
    ],
)
def test_a_missing_config_file(arguments, text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigFileError, ConfigError), match=text):
        expand(arguments)


def test_a_folder_of_presets(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text("name: mine\nclip_low: 0.1\n")
    config = compose(expand(["--config-dir", str(tmp_path), "algorithm=mine"]))
    assert config.algorithm.clip_low == 0.1


def test_init_writes_a_config_that_passes_and_overwrites_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path/to/model").mkdir(parents=True)
    (tmp_path / "path/to/model/config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "my_reward.py").write_text("def my_reward(sample):\n    return 0.0\n")
    assert run(monkeypatch, capsys, "init", "run.yaml")[0] == 0
    check(compose(expand(["--config", "run.yaml"])))
    before = (tmp_path / "run.yaml").read_text()
    code, _, err = run(monkeypatch, capsys, "init", "run.yaml")
    assert code == 1
    assert "exists" in err
    assert (tmp_path / "run.yaml").read_text() == before
