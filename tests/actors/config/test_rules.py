"""Values and combinations of a config."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.config.compose import ConfigError, check, compose
from actors.config.rules import problems
from actors.config.schema import Config, WeightSyncBackend
from tests.actors.config.cases import refused


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ("trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "batch_std"),
        ("trainer.samples_per_prompt=1 algorithm=rloo", "trainer.samples_per_prompt", "leave_one_out compares"),
        ("algorithm.kl_coef=0.1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm.kl_coef=-1", "algorithm.kl_coef", "0 or more"),
        ("trainer.updates_per_step=7", "trainer.updates_per_step", "choose a divisor, such as 8"),
        ("trainer.updates_per_step=1000", "trainer.updates_per_step", "at most prompts_per_step x samples"),
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
        ("engine.compile=true engine.zero_stage=3", "engine.compile", "gather"),
        ("engine.offload=all", "engine.offload", "gpu1_colocated"),
        ("cluster=gpu8 engine.offload=all", "engine.offload", "gpu1_colocated"),
        ("cluster=gpu1_colocated rollout.sleep_level=0 engine.offload=all", "engine.offload", "rollout.sleep_level=1"),
        (
            "cluster=gpu1_colocated engine.offload=optimizer engine.zero_stage=1 engine.offload_optimizer=true",
            "engine.offload",
            "always in host memory",
        ),
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
        ("model.dtype=bfloat16 trainer.parity.tolerance=0.001", "trainer.parity.tolerance"),
        ("trainer.eval.num_samples=4", "trainer.eval.num_samples"),
        ("trainer.max_tokens_per_micro_batch=10", "trainer.max_tokens_per_micro_batch"),
        ("cluster=gpu8", "rollout.enforce_eager"),
        ("rollout.checksums=true cluster.roles.rollout.num_workers=1", "rollout.checksums"),
        ("rollout.kv_after_update=recompute", "rollout.kv_after_update"),
        ("algorithm.aggregation_constant=5", "algorithm.aggregation_constant"),
        ("algorithm=gspo algorithm.dual_clip=3", "algorithm.dual_clip"),
        ("algorithm=rloo algorithm.clip_high=0.3", "algorithm.clip_high"),
        ("algorithm.gamma=0.9", "algorithm.gamma"),
        ("algorithm=reinforce algorithm.lam=0.9", "algorithm.lam"),
        ("algorithm=ppo cluster=laptop_critic algorithm.scale=none", "algorithm.scale"),
        ("algorithm.step_kl_coef=0.1", "algorithm.step_kl_coef"),
        ("algorithm.kl_weighted=true", "algorithm.kl_weighted"),
        ("algorithm.correction.level=none algorithm.correction.high=3", "algorithm.correction"),
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


def test_modules_next_to_a_users_file_that_hide_others_are_named(monkeypatch, tmp_path):
    """The folder of such a file goes first on sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # processes of later tests inherit it
    (tmp_path / "good.py").write_text("def pay(sample):\n    return 1.0\n")
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "queue").mkdir()  # without __init__.py it hides nothing
    keys = [f"reward.fn={tmp_path}/good.py:pay"], [f"algorithm.files=[{tmp_path}/good.py]"]

    def found(overrides):
        return [p for p in problems(compose(overrides)) if "sys.path" in p.text]

    assert [found(overrides) for overrides in keys] == [[], []]
    (tmp_path / "random.py").write_text("")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("")
    for overrides, key in zip(keys, ("reward.fn", "algorithm.files.0"), strict=True):
        (problem,) = found(overrides)
        assert problem.warning
        assert problem.key == key
        assert "random.py, ray would be imported instead" in problem.text
        assert problem.cure == "rename or move them"
    assert found([f"reward.fn={Path(__file__).parents[3]}/setup.py:pay"]) == []  # a clone of rlcore hides nothing


def test_checksums_need_a_vllm_that_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "vllm" / "__init__.py"
    old.parent.mkdir()
    old.touch()
    config = compose(["rollout.checksums=true"])
    assert "rollout.checksums" not in {p.key for p in problems(config)}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(old)))
    found = {p.key: p for p in problems(config)}
    assert "no such checksums" in found["rollout.checksums"].text
