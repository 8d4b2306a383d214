"""The command line: help, versions, config files, hints, exit codes; and the Python interface without actors."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import yaml

import rlcore
from actors import cli
from actors.commands.train import _checkpoint, eval_overrides, evaluate
from actors.commands.usage import COMMANDS_HELP
from actors.config import config_file, keys
from actors.config.compose import ConfigError, check, compose
from actors.config.config_file import ConfigFileError, expand
from actors.config.schema import Config
from actors.run_folder import RunFolderError, claim, plain

ROOT = Path(__file__).parents[2]


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rlcore", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    return stopped.value.code, shown.out, shown.err


@pytest.mark.parametrize("command", list(cli.COMMANDS))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself_and_starts_nothing(command, flag, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, command, lambda arguments: pytest.fail("it ran"))
    for arguments in ([command, flag], [command, "seed=1", flag], ["help", command]):
        code, out, _ = run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert out.startswith(f"rlcore {command}")
    assert set(COMMANDS_HELP) == set(cli.COMMANDS)
    assert "Hydra" not in out.split("\n")[0]


def test_the_version(monkeypatch, capsys):
    for arguments in (["--version"], ["train", "--version"]):
        code, out, _ = run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert out.strip() == f"rlcore {rlcore.__version__}"


def test_an_unknown_command(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "trian")
    assert code == 2
    assert "did you mean 'train'" in err


def test_keys_named_in_the_help_exist():
    known = {key.name for key in keys.keys(Config())}
    for text in COMMANDS_HELP.values():
        for line in text.split("Keys a new user meets")[1:]:
            for row in line.splitlines()[1:10]:
                for name in row.split("  ")[1].split(", ") if row.startswith("  ") else []:
                    assert name.strip() in known


def test_every_key_has_a_description():
    undescribed = [key.name for key in keys.keys(Config()) if not key.text]
    assert undescribed == []


def test_the_key_reference(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "keys", "trainer.learning_rate")
    assert code == 0
    assert "trainer.learning_rate.peak = 1e-06  (float)" in out
    assert "one of: constant, linear, cosine" in out
    assert "rollout" not in out
    assert run(monkeypatch, capsys, "keys", "max_new_tokens")[1].startswith("reward.judge.max_new_tokens")
    code, _, err = run(monkeypatch, capsys, "keys", "trainer.stepz")
    assert code == 1
    assert "did you mean 'trainer.steps'" in err


def test_rounds_status_takes_a_run_folder(monkeypatch, tmp_path):
    from actors.commands import rounds

    seen = []
    monkeypatch.setattr(rounds, "status", lambda config: seen.append(config.run_dir) or 0)
    claim(compose([f"run_dir={tmp_path}/run", "+experiment=llama3"]))
    assert cli.rounds(["status", f"{tmp_path}/run"]) == 0
    assert seen == [f"{tmp_path}/run"]


# Config files


def written(tmp_path, text: str) -> str:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    return str(file)


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


# Hints


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trainer.batch_size=8", "trainer.prompts_per_step"),
        ("lr=1e-5", "trainer.learning_rate.peak"),
        ("num_generations=4", "trainer.samples_per_prompt"),
        ("actor_rollout_ref.rollout.n=4", "trainer.samples_per_prompt"),
        ("trainer.learning_rate=1e-5", "trainer.learning_rate.peak=1e-5"),
        ("trainer.critic_learning_rate=1e-5", "trainer.critic_learning_rate.peak=1e-5"),
        ("model=qwen", "model=hf model.path="),
        ("reward=my.py:f", "reward.fn="),
        ("--lr", "trainer.learning_rate.peak"),
        ("--learning-rate=1e-5", "trainer.learning_rate.peak"),
        ("my_rounds.yaml", "--config my_rounds.yaml"),
    ],
)
def test_names_of_other_trainers_are_answered(override, text):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert text in str(caught.value)
    assert "LexerNoViableAlt" not in str(caught.value)


def test_every_alias_leads_to_keys_that_exist():
    from actors.config.aliases import ALIASES

    known = {key.name for key in keys.keys(Config())}
    targets = {word.strip("(),:") for text in ALIASES.values() for word in text.split() if "." in word}
    assert targets - known == set()


def test_a_home_folder_needs_no_quotes():
    assert compose(["model=hf", "model.path=~/x"]).model.path == "~/x"


# Run folders


def test_runs_of_other_models_and_data_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = ["model=hf", "model.path=org/Qwen2", "data=jsonl", "data.train=train.jsonl"]
    folders = [compose(o).run_dir for o in ([], ["algorithm=rloo"], readme, [*readme, "seed=1"])]
    assert folders == [
        "runs/quickstart-seed0", "runs/quickstart-rloo-seed0", "runs/Qwen2-train-seed0", "runs/Qwen2-train-seed1",
    ]  # fmt: skip
    assert compose(["name=mine"]).run_dir == "runs/mine-seed0"


def recorded(tmp_path, *overrides: str) -> Config:
    """A run folder with a checkpoint."""
    config = compose([f"run_dir={tmp_path}/run", *overrides])
    claim(config)
    folder = tmp_path / "run/checkpoints/step-000003"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return config


def test_another_config_in_a_run_folder_is_answered_by_the_cure_first(tmp_path):
    config = recorded(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        claim(dataclasses.replace(config, seed=5))
    assert str(caught.value).startswith("give run_dir=... for a new run")
    assert "seed: 0 -> 5" in str(caught.value)


# Evaluation


def test_eval_of_a_run_folder_takes_its_config(tmp_path):
    config = recorded(tmp_path, "algorithm=rloo", "trainer.samples_per_prompt=4")
    composed = compose(expand(eval_overrides([f"{tmp_path}/run", "trainer.eval.num_samples=2"])))
    assert composed.algorithm == config.algorithm
    assert composed.trainer.samples_per_prompt == 4
    assert composed.trainer.eval.num_samples == 2
    assert composed.run_dir == config.run_dir


def test_eval_finds_the_checkpoint_of_a_run_that_began_from_a_model(tmp_path, monkeypatch):
    config = recorded(tmp_path, "model=hf", "model.path=org/name")
    newest = tmp_path / "run/checkpoints/step-000003"
    monkeypatch.setattr("actors.commands.train.Checkpoints.load_latest", lambda self: (newest, {}))
    assert _checkpoint(config) == newest
    assert _checkpoint(dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="start"))) is None
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, path="org/other"))
    assert _checkpoint(other) is None  # that model is meant, not the run
    named = dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="step-000003"))
    assert _checkpoint(named) == newest
    missing = dataclasses.replace(config, eval=dataclasses.replace(config.eval, checkpoint="step-000009"))
    with pytest.raises(RunFolderError, match="holds: step-000003"):
        _checkpoint(missing)


def test_eval_of_a_model_needs_data(tmp_path):
    with pytest.raises(RunFolderError, match="on which data"):
        eval_overrides(["model.path=some/model"])
    with pytest.raises(RunFolderError, match="on which data"):
        eval_overrides(["model=hf", "model.path=some/model"])
    recorded(tmp_path)
    with pytest.raises(RunFolderError, match=f"rlcore eval {tmp_path}/run"):
        eval_overrides([f"model.path={tmp_path}/run/model"])
    assert eval_overrides(["model.path=some/model", "data=addition"]) == ["model.path=some/model", "data=addition"]
    with pytest.raises(RunFolderError, match="no run folder"):
        eval_overrides([str(tmp_path)])


def test_eval_without_anything_to_measure(tmp_path):
    with pytest.raises(RunFolderError, match="no checkpoint"):
        evaluate(compose([f"run_dir={tmp_path}/none"]))


# Python


def test_the_python_interface_composes(tmp_path):
    assert rlcore.compose(["algorithm=rloo"]).algorithm.name == "rloo"
    config = rlcore.compose({"defaults": {"algorithm": "rloo"}, "trainer": {"steps": 3}}, ["seed=2"])
    assert (config.algorithm.name, config.trainer.steps, config.seed) == ("rloo", 3, 2)
    assert not config.tracking.console
    assert rlcore.compose({"algorithm": "rloo"}, ["algorithm=dapo"]).algorithm.name == "dapo"
    assert rlcore.compose({"tracking": {"console": True}}).tracking.console
    assert rlcore.compose(written(tmp_path, "seed: 4\n")).seed == 4
    assert rlcore.compose(config) is config
    with pytest.raises(rlcore.UserError, match=r"did you mean trainer\.steps"):
        rlcore.compose({"trainer": {"stepz": 1}})
    with pytest.raises(AttributeError):
        rlcore.nonsense  # noqa: B018


def test_from_values_leaves_the_given_mapping_alone():
    given = {"algorithm": "rloo", "tracking": {"num_samples": 1}}
    config_file.from_values(given, quiet=True)
    assert given == {"algorithm": "rloo", "tracking": {"num_samples": 1}}
