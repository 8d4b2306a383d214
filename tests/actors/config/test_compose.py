"""Composition and checks: every preset composes, every mistake is named with its cure, all of them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.config.compose import ConfigError, check, compose
from actors.config.rules import problems
from actors.config.schema import Config, DType, WeightSyncBackend
from rlcore.algorithms.config import Baseline

ROOT = Path(__file__).parents[3]
PRESETS = sorted(p.relative_to(ROOT / "conf").with_suffix("") for p in (ROOT / "conf").glob("*/*.yaml"))
GIVEN = {
    "model/hf": ["model.path=org/name"],
    "data/file": ["data.train=README.md", "data.source=jsonl", "model.tiny.max_positions=1024"],
    "data/jsonl": ["data.train=README.md", "model.tiny.max_positions=1024"],
    "data/parquet": ["data.train=README.md", "model.tiny.max_positions=1024"],
    "reward/custom": ["reward.fn=os.path:basename"],
    "rollout/gpu": ["model.tiny.max_positions=2048"],
    "experiment/code": ["data.train=README.md"],
    "experiment/gpu_1": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_8_colocated": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_8_split": ["model.path=org/name", "data.train=README.md"],
    "experiment/gpu_64": ["model.path=org/name", "data.train=README.md"],
    "experiment/smollm2": ["model.path=org/name", "data.train=README.md"],
}


def refused(*overrides: str) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    return {problem.key: problem.render() for problem in caught.value.problems}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


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


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ("algorithm=ppo cluster=laptop_reference", "cluster.roles.critic.num_workers", "cluster=laptop_critic"),
        ("algorithm=ppo cluster.roles.critic.num_workers=1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm=online_dpo", "cluster.roles.reference.num_workers", "set it to 1"),
        ("algorithm=online_simpo trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "sample at least 2"),
        ("algorithm=nash_md cluster=laptop_reference trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "2"),
        ("algorithm=xpo cluster=laptop_reference trainer.samples_per_prompt=7", "trainer.samples_per_prompt", "even"),
        ("algorithm.kl_coef=0.1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm=xpo cluster=laptop_reference algorithm.refill_rounds=1", "algorithm.refill_rounds", "set it to 0"),
        ("algorithm=online_simpo algorithm.filters.truncated=true", "algorithm.filters.truncated", "whole groups"),
        ("algorithm.kl_target=6", "algorithm.kl_target", "kl_in=reward"),
        *(
            (
                f"{algorithm} algorithm.kl_coef=.05 algorithm.kl_kind={kind} algorithm.kl_in={place}",
                "algorithm.kl_kind",
                f"kl_kind=auto ({auto} for kl_in={place})",
            )
            for algorithm in ("algorithm=rloo cluster=laptop_reference", "algorithm=ppo cluster=laptop_critic")
            for kind, place, auto in (("k1", "loss", "k3"), ("k2", "reward", "k1"), ("k3", "reward", "k1"))
        ),
        ("algorithm.loss=ppo_clap", "algorithm.loss", "did you mean 'ppo_clip'"),
        ("algorithm.advantage=gea", "algorithm.advantage", "did you mean 'gae'"),
        ("algorithm.files=[nowhere.py]", "algorithm.advantage", "nowhere.py"),
    ],
)
def test_an_algorithm_that_lacks_something_is_refused(overrides, key, text):
    assert text in refused(*overrides.split())[key]


@pytest.mark.parametrize(("place", "kind"), [("reward", "k1"), ("loss", "k3")])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "mdloo", "reinforce_pp", "ppo"])
def test_the_kl_estimator_follows_the_place(algorithm, place, kind):
    config = compose([f"algorithm={algorithm}", "algorithm.kl_coef=0.05", f"algorithm.kl_in={place}"])
    assert config.algorithm.kl_estimator == kind


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.parts[0] == "algorithm"], ids=str)
def test_no_preset_sets_a_key_that_its_loss_or_advantage_ignores(preset):
    config = compose([f"algorithm={preset.name}", "cluster=laptop_critic"])
    assert [p.render() for p in problems(config) if "not used by algorithm" in p.text] == []


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
    assert "cispo, dapo, dr_grpo, grpo, gspo, mdloo" in found["algorithm"]
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


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ("trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "batch_std"),
        ("trainer.samples_per_prompt=1 algorithm=rloo", "trainer.samples_per_prompt", "leave_one_out compares"),
        ("algorithm.kl_coef=0.1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm.kl_coef=-1", "algorithm.kl_coef", "0 or more"),
        ("trainer.updates_per_step=7", "trainer.updates_per_step", "choose a divisor, such as 8"),
        ("trainer.updates_per_step=1000", "trainer.updates_per_step", "at most prompts_per_step x samples"),
        ("trainer.max_staleness=1", "trainer.max_staleness", "not built yet"),
        ("rollout.max_model_len=20", "rollout.max_model_len", "24 or more"),
        ("model.tiny.max_positions=20", "model.tiny.max_positions", "24 or more"),
        ("model.tiny.num_heads=3", "model.tiny.hidden_size", "multiple of"),
        ("rollout.top_p=0.9", "rollout.top_p", "set it to 1"),
        ("rollout.top_k=5", "rollout.top_k", "set it to 0"),
        ("rollout.temperature=0", "rollout.temperature", "above 0"),
        ("cluster=gpu8 rollout.tensor_parallel_size=2", "rollout.tensor_parallel_size", "make the two equal"),
        ("cluster.roles.policy.gpus_per_worker=1", "cluster.roles.policy.gpus_per_worker", "cluster.device=cuda"),
        ("cluster.device=cuda", "cluster.roles.rollout.gpus_per_worker", "all models on GPUs"),
        ("cluster=gpu8 cluster.roles.policy.gpus_per_worker=2", "cluster.roles.policy.gpus_per_worker", "workers=8"),
        ("cluster=gpu8 cluster.roles.rollout.gpus_per_worker=1.5", "cluster.roles.rollout.gpus_per_worker", "1 or 2"),
        ("cluster=gpu8 rollout.sleep_level=1", "rollout.sleep_level", "colocate_with=policy"),
        ("cluster=gpu8 rollout.weight_sync=ipc", "rollout.weight_sync", "auto chooses"),
        ("cluster=gpu8_colocated rollout.weight_sync=nccl", "rollout.weight_sync", "auto chooses"),
        ("rollout.weight_sync=nccl", "rollout.weight_sync", "needs GPUs"),
        ("cluster.roles.rollout.colocate_with=polcy", "cluster.roles.rollout.colocate_with", "no such role"),
        ("cluster.roles.rollout.colocate_with=rollout", "cluster.roles.rollout.colocate_with", "itself"),
        ("cluster.roles.rollout.colocate_with=critic", "cluster.roles.rollout.colocate_with", "no workers"),
        ("reward.terms=[{name:reward_model}]", "cluster.roles.reward.num_workers", "ask a reward model"),
        ("reward.fallback=reward_model", "reward.model", "none is set"),
        ("reward.model=/nowhere", "reward.model", "no such folder"),
        ("reward.terms=[{name:judge}]", "reward.judge.kind", "use a judge"),
        ("cluster.roles.judge.num_workers=1", "cluster.roles.judge.num_workers", "no engine is used"),
        (
            "cluster=gpu8_colocated cluster.roles.judge={num_workers:8,gpus_per_worker:1,colocate_with:policy}"
            " reward.judge.kind=engine reward.judge.engine.path=x",
            "reward.judge.engine.gpu_memory_utilization",
            "the judge never sleeps",
        ),
        ("cluster.roles.policy.num_workers=0", "cluster.roles.policy.num_workers", "1 or more"),
        ("engine.zero_stage=4", "engine.zero_stage", "from 0 to 3"),
        ("engine.offload_optimizer=true", "engine.offload_optimizer", "ZeRO"),
        ("engine.optimizer.betas=[0.9]", "engine.optimizer.betas", "two numbers"),
        ("reward.fn=nowhere/at.py:all", "reward.fn", "no such file"),
        ("reward.fn=tests/actors/config/test_compose.py:refusd", "reward.fn", "it has: "),
        ("reward.fn=no.such.module:f", "reward.fn", "no module"),
        ("reward.fn=justaname", "reward.fn", "not a function"),
        ("reward.terms=[{name:code}]", "reward.timeout_s", "above 30"),
        ("reward.terms=[]", "reward.terms", "no reward is set"),
        ("reward.terms=[{name:maths}]", "reward.terms.0.name", "math"),
        ("data.source=jsonl", "data.train", "needs a path"),
        ("data=jsonl data.train=nope.jsonl", "data.train", "no such file"),
        ("data.prompt_template=hello", "data.prompt_template", "must hold {prompt}"),
        ("data.chat_template=true", "data.chat_template", "no chat template"),
        ("model.path=./nowhere", "model.path", "no such folder"),
        ("model.gguf_file=a.gguf", "model.gguf_file", "without its folder"),
        ("algorithm.correction.low=3", "algorithm.correction.low", "below"),
        ("cluster.deadlines.sync_s=0", "cluster.deadlines.sync_s", "above 0"),
        ("name=a/b", "name", "folder name"),
    ],
)
def test_what_cannot_work_is_refused_with_a_cure(overrides, key, text):
    assert text in refused(*overrides.split())[key]


def test_a_chain_of_colocation_is_refused():
    config = compose(["cluster=gpu8_colocated", "cluster.roles.reference.num_workers=8", "algorithm.kl_coef=0.1"])
    check(config)
    config.cluster.roles.reference.colocate_with = "rollout"
    with pytest.raises(ConfigError, match="itself colocated with policy"):
        check(config)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ("cluster.roles.reference.num_workers=1", "cluster.roles.reference.num_workers"),
        ("cluster.roles.critic.num_workers=1", "cluster.roles.critic.num_workers"),
        ("algorithm=rloo trainer.updates_per_step=2", "algorithm.loss"),
        ("algorithm.refill_rounds=2", "algorithm.refill_rounds"),
        ("model.dtype=bfloat16", "trainer.parity.tolerance"),
        ("trainer.eval.num_samples=4", "trainer.eval.num_samples"),
        ("trainer.max_tokens_per_micro_batch=10", "trainer.max_tokens_per_micro_batch"),
        ("cluster=gpu8", "rollout.enforce_eager"),
        ("cluster=gpu8_colocated rollout.sleep_level=0", "rollout.sleep_level"),
        ("algorithm.aggregation_constant=5", "algorithm.aggregation_constant"),
        ("algorithm=gspo algorithm.dual_clip=3", "algorithm.dual_clip"),
        ("algorithm=rloo algorithm.clip_high=0.3", "algorithm.clip_high"),
        ("algorithm.gamma=0.9", "algorithm.gamma"),
        ("algorithm=reinforce algorithm.lam=0.9", "algorithm.lam"),
        ("algorithm=ppo cluster=laptop_critic algorithm.scale=none", "algorithm.scale"),
        ("algorithm.step_kl_coef=0.1", "algorithm.step_kl_coef"),
        ("algorithm.kl_weighted=true", "algorithm.kl_weighted"),
        (
            "algorithm=dapo cluster=laptop_reference algorithm.kl_coef=0.01",
            "algorithm.filters.zero_variance",
        ),
    ],
)
def test_what_will_disappoint_is_a_warning_and_is_logged(overrides, key, caplog):
    config = compose(overrides.split())
    with caplog.at_level("WARNING", logger="rlcore"):
        check(config)
    assert key in {p.key for p in problems(config) if p.warning}
    assert key in caplog.text


def test_secrets_are_not_shown():
    with pytest.raises(ConfigError) as caught:
        compose(["tracking.wandb.api_key=hunter2", "+rollout.api_token=hunter2", "cluster.adress=ray://u:hunter2@h:1"])
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).count("***") == 3


def test_check_does_not_import_the_users_reward(tmp_path):
    file, mark = tmp_path / "mine.py", tmp_path / "ran"
    file.write_text(f"open({str(mark)!r}, 'w')\nasync def mine(sample):\n    return 1.0\n")
    check(compose([f"reward.fn={file}:mine"]))
    assert not mark.exists()
    file.write_text("def mine(:\n")
    assert "not Python" in refused(f"reward.fn={file}:mine")["reward.fn"]


def test_the_defaults_of_the_dataclasses_have_no_errors():
    config = Config()
    config.model.tiny.max_positions = 512
    assert not [p for p in problems(config) if not p.warning]
    config.rollout.weight_sync = WeightSyncBackend.ipc
    assert [p.key for p in problems(config) if not p.warning] == ["rollout.weight_sync"]


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
