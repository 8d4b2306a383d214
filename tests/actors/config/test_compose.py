"""Composition and checks: every preset composes, every mistake is named with its cure, all of them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.config.compose import ConfigError, check, compose
from actors.config.rules import problems
from actors.config.schema import DType
from rlcore.algorithms.config import Baseline
from tests.actors.config.cases import PRESETS, ROOT, refused

AGENTS = ("calculator", "code_interpreter", "guess_number")
EXAMPLE_DATA = ["data.train=README.md", "data.eval=null"]  # in place of files that make_data.py writes
GIVEN = {
    "model/hf": ["model.path=org/name"],
    "data/file": ["data.train=README.md", "data.source=jsonl", "model.tiny.max_positions=1024"],
    "data/jsonl": ["data.train=README.md", "model.tiny.max_positions=1024"],
    "data/parquet": ["data.train=README.md", "model.tiny.max_positions=1024"],
    "reward/custom": ["reward.fn=os.path:basename"],
    "rollout/gpu": ["model.tiny.max_positions=2048"],
    "experiment/code": ["data.train=README.md"],
    **{f"experiment/{name}{start}": EXAMPLE_DATA for name in AGENTS for start in ("", "_start")},
    "experiment/gpu_1": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_8_colocated": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_8_split": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_64": ["model.path=org/name", "data.train=README.md"],
    "experiment/smollm2": ["model.path=org/name", "data.train=README.md"],
}


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_every_shipped_preset_composes_and_passes(preset):
    group, name = preset.parts
    plus = "+" if group == "experiment" else ""
    needs = compose([f"{plus}{group}={name}", *GIVEN.get(str(preset), [])]).algorithm
    roles = ["cluster=laptop_critic" if needs.needs_critic else "cluster=laptop_reference"]
    if not (needs.needs_critic or needs.needs_reference):
        roles = []
    config = compose([f"{plus}{group}={name}", *roles, *GIVEN.get(str(preset), [])])
    assert [problem.render() for problem in problems(config) if not problem.warning] == []


def test_an_unknown_preset_lists_the_presets():
    text = refused("algorithm=grop")["algorithm"]
    assert "did you mean" in text
    assert all(p.stem in text for p in (ROOT / "conf/algorithm").glob("*.yaml"))


def test_presets_that_need_a_value_say_so():
    assert "add model.path=..." in refused("model=hf")["model.path"]
    assert "add data.train=..." in refused("data=jsonl")["data.train"]
    assert "add reward.fn=..." in refused("reward=custom")["reward.fn"]


def test_the_quickstart_is_the_recipe_that_learns():
    config = compose([])
    check(config)
    t, a = config.trainer, config.algorithm
    assert (t.steps, t.prompts_per_step, t.samples_per_prompt, t.updates_per_step) == (300, 64, 8, 2)
    assert (t.learning_rate.peak, t.learning_rate.warmup_steps) == (2e-4, 20)
    assert (t.warmup.stop_at_accuracy, t.warmup.sequences_per_step) == (0.4, 256)
    assert (a.clip_low, a.clip_high, a.kl_coef) == (0.2, 0.28, 0)


def test_overrides_reach_the_dataclasses_with_their_types():
    config = compose(["algorithm=rloo", "model.dtype=bfloat16", "trainer.learning_rate.peak=3e-6", "+engine.extra.a=1"])
    assert config.algorithm.baseline is Baseline.leave_one_out
    assert config.algorithm.loss == "reinforce"
    assert config.model.dtype is DType.bfloat16
    assert config.trainer.learning_rate.peak == 3e-6
    assert config.engine.extra == {"a": 1}
    assert config.run_dir == f"runs/quickstart-rloo-seed{config.seed}"


def test_an_experiment_overrides_other_groups_and_yields_to_the_command_line():
    config = compose(["+experiment=smollm2", "trainer.steps=3", *GIVEN["experiment/smollm2"]])
    assert config.name == "smollm2"
    assert config.data.chat_template
    assert config.trainer.steps == 3


def test_all_mistakes_are_reported_at_once():
    found = refused(
        "algorithm=grop", "trainer.stepz=3", "trainer.steps=abc", "algorithm.loss=ppo", "rollout.temperature=-1",
        "+foo.bar=3", "data=jsonl", "algorithm.kl_coef=0.1",
    )  # fmt: skip
    assert set(found) >= {
        "algorithm", "trainer.stepz", "trainer.steps", "algorithm.loss", "rollout.temperature", "foo", "data.train",
        "algorithm.kl_coef",
    }  # fmt: skip
    assert "did you mean grpo?" in found["algorithm"]
    assert "cispo, dapo, dr_grpo, grpo, grpo_decoupled, grpo_icepop, grpo_rollout, gspo, mdloo" in found["algorithm"]
    assert "did you mean trainer.steps?" in found["trainer.stepz"]
    assert "could not be converted to Integer" in found["trainer.steps"]
    assert "gspo" in found["algorithm.loss"]


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("algorythm=grpo", "algorythm", "did you mean algorithm?"),
        ("steps=4", "steps", "did you mean trainer.steps?"),
        ("+trainer.foo=1", "trainer.foo", "unknown key"),
        ("++trainer.stepz=1", "trainer.stepz", "did you mean trainer.steps?"),
        ("engine.extra.a=1", "engine.extra.a", "+engine.extra.a=..."),
        ("reward.terms=[{name: math, weigth: 3}]", "reward.terms", "did you mean weight?"),
        ("trainer.steps=3,4", "trainer.steps", "needs --multirun"),
        ("data.prompt_template=a {prompt}", "data.prompt_template", "quote special characters"),
        ("experiment=smollm2", "experiment", "+experiment=smollm2"),
        ("+experiment=smolm2", "experiment", "did you mean smollm2?"),
        ("trainer=null", "trainer", "trainer=PRESET"),
        ("trainer=", "trainer", "default, quickstart"),
        ("run_dir=${nope}", "run_dir", "set run_dir=..."),
        ("tracking.wandb.mode=hm", "tracking.wandb.mode", "offline, online, disabled"),
        ("nonsense", "nonsense", "does not parse"),
    ],
)
def test_one_mistake(override, key, text):
    assert text in refused(override)[key]


def test_secrets_are_not_shown():
    with pytest.raises(ConfigError) as caught:
        compose(["tracking.wandb.api_key=hunter2", "+rollout.api_token=hunter2", "cluster.adress=ray://u:hunter2@h:1"])
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).count("***") == 3


HYDRA_APP = """
import sys
import hydra
from actors.config import compose as validate
validate.register()
def job(raw):
    config = validate.to_config(raw)
    validate.check(config)
    print("RAN", config.trainer.steps, config.run_dir)
hydra.main(version_base=None, config_path="pkg://conf", config_name="config")(job)()
"""


def hydra_app(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HYDRA_APP, *arguments]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)


def test_hydras_own_way_works(tmp_path):
    run = hydra_app(tmp_path, "--cfg", "job", "trainer.steps=7")
    assert run.returncode == 0, run.stderr
    assert "steps: 7" in run.stdout
    run = hydra_app(tmp_path, "--multirun", "trainer.steps=7,8")
    lines = [line for line in run.stdout.splitlines() if line.startswith("RAN")]
    assert len(lines) == 2, run.stderr
    folders = {line.split()[2] for line in lines}
    assert len(folders) == 2, "two jobs of a sweep must not share a run folder"
    assert not (tmp_path / "runs" / "quickstart-seed0").exists()


@pytest.mark.parametrize(
    ("overrides", "tolerance", "mean"),
    [
        ([], None, None),  # rlcore.loops.parity: 1e-3
        (["model.dtype=bfloat16"], 1.0, 0.05),
        (["model.dtype=bfloat16", "trainer.parity.mean_tolerance=0.01"], 1.0, 0.01),
        (["model.dtype=bfloat16", "trainer.parity.tolerance=0.2"], 0.2, None),
    ],
)
def test_parity_tolerances_follow_the_dtype(overrides: list[str], tolerance: float | None, mean: float | None) -> None:
    parity = compose(overrides).trainer.parity
    assert (parity.tolerance, parity.mean_tolerance) == (tolerance, mean)
