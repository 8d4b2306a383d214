"""The plan's arithmetic and layouts, and the doctor, without a cluster."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from actors.commands import doctor
from actors.commands.doctor import FAIL, OK, WARN, Check
from actors.commands.plan import plan
from actors.commands.train import train
from actors.config.compose import ConfigError, compose
from actors.placement.memory import GIB, Shape, model_shape, trainer_bytes
from rlcore.ops.logprobs import CHUNK_ELEMENTS

LAYOUTS = ["laptop", "gpu1_colocated", "gpu1_shared", "gpu8", "gpu8_colocated", "gpu64", "gpu64_colocated"]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def value(text: str, row: str) -> str:
    """The second cell of a table's row."""
    found = re.search(rf"│ {re.escape(row)} *│ ([\d,.]+)", text)
    assert found, f"no row {row!r} in\n{text}"
    return found.group(1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_planned_without_gpu_or_ray(layout, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("started Ray"))
    text = plan(compose([f"cluster={layout}"])).text
    assert "Placement" in text
    assert "too small" not in text
    assert "?" not in text.split("Batches")[0].split("Placement")[1]


def test_sixty_four_gpus_fill_eight_nodes():
    text = plan(compose(["cluster=gpu64", "algorithm.kl_coef=0.01"])).text
    assert "8 x 8 GPUs" in text
    assert "node-7 x8" in text
    assert "Weight sync: nccl" in text
    text = plan(compose(["cluster=gpu64_colocated"])).text
    assert "0.5 (shared)" in text
    assert "Weight sync: ipc" in text


def test_batch_arithmetic_of_the_quickstart():
    text = plan(compose(["cluster.roles.policy.num_workers=2", "cluster.roles.policy.cpus_per_worker=0.1"])).text
    assert value(text, "completions per step") == "512"
    assert value(text, "optimizer steps per step") == "2"
    assert value(text, "completions per policy rank") == "128"
    assert value(text, "tokens per step, at most") == "12,288"
    assert value(text, "completions in the run") == "153,600"
    assert "Weight sync: host" in text


def test_an_environment_is_shown():
    limits = ["environment.max_turns=3", "environment.max_tokens=200", "model.tiny.max_positions=256"]
    text = plan(compose(["environment.fn=reasoning_gym", *limits])).text
    assert "Environment: reasoning_gym; up to 3 turns and 200 tokens; 256 processes at once" in text
    text = plan(compose(["environment.fn=nowhere.py:Env", *limits])).text
    assert "environment.fn = nowhere.py:Env" in text
    assert "nowhere.py does not exist" in text


def test_micro_batches_follow_the_token_limit():
    # 4 sequences of 24; 256 per update over 2 ranks
    text = plan(compose(["trainer.max_tokens_per_micro_batch=100"])).text
    assert value(text, "micro-batches per rank, at most") == "32"


def test_a_broken_config_is_planned_with_its_problems():
    text = plan(compose(["rollout.top_k=5", "rollout.weight_sync=ipc"])).text
    assert "2 errors" in text
    assert "rollout.top_k = 5" in text
    assert "Weight sync: no backend works" in text


def test_a_layout_that_does_not_fit_this_machine_says_what_is_missing():
    text = plan(compose(["cluster.roles.policy.cpus_per_worker=4000"])).text
    assert "lower cluster.roles.policy.cpus_per_worker" in text
    assert "Batches" in text


def test_an_unreadable_model_does_not_stop_the_plan(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = plan(compose([f"model.path={tmp_path}"])).text
    assert "not estimated" in text
    assert "Weight sync" in text


SHAPE = Shape(parameters=1_000_000, vocabulary=50, layers=3, kv_width=64)


@pytest.mark.parametrize(
    ("stage", "dtype", "weights", "gradients", "master", "adam"),
    [  # bytes per parameter on one of 4 ranks, after the ZeRO paper
        (0, "float32", 4, 4, 0, 8),
        (1, "float32", 4, 4, 1, 2),
        (2, "float32", 4, 1, 1, 2),
        (3, "float32", 1, 1, 1, 2),
        (0, "bfloat16", 2, 4, 1, 2),  # run as stage 1
        (3, "bfloat16", 0.5, 1, 1, 2),
    ],
)
def test_memory_by_zero_stage(stage, dtype, weights, gradients, master, adam):
    config = compose([f"engine.zero_stage={stage}", f"model.dtype={dtype}", "cluster.roles.policy.num_workers=4"])
    held = trainer_bytes(config, SHAPE)
    expected = {"weights": weights, "gradients": gradients, "master weights": master, "Adam states": adam}
    assert {name: held[name] / SHAPE.parameters for name in expected} == expected
    assert held["logits and their gradient"] == 2 * 8192 * 50 * (2 if dtype == "bfloat16" else 4)


def test_logits_of_a_chunk_are_all_that_is_held():
    wide = Shape(parameters=1_000_000, vocabulary=150_000, layers=3, kv_width=64)
    held = [
        trainer_bytes(compose([f"trainer.max_tokens_per_micro_batch={n}"]), wide)["logits and their gradient"]
        for n in (100, 10_000, 100_000)
    ]
    assert held[0] == 2 * 100 * 150_000 * 4
    assert held[1] == held[2] <= 2 * 4 * CHUNK_ELEMENTS


def test_memory_of_the_critic_follows_its_own_ranks():
    overrides = ["algorithm=ppo", "cluster=laptop_critic", "engine.zero_stage=3", "cluster.roles.critic.num_workers=4"]
    config = compose(overrides)
    held = trainer_bytes(config, SHAPE, "critic")
    assert {name: held[name] / SHAPE.parameters for name in ("weights", "gradients", "master weights")} == {
        "weights": 1, "gradients": 1, "master weights": 1,
    }  # fmt: skip
    assert held["Adam states"] == 2 * SHAPE.parameters
    assert "logits and their gradient" not in held
    text = plan(config).text
    assert value(text, "completions per critic rank") == str(-(-int(value(text, "completions per policy rank")) // 2))
    assert re.search(r"│ critic +│ weights", text)
    assert "critic" not in plan(compose([])).text.split("Batches")[1]


def test_key_value_bytes():
    assert SHAPE.kv_bytes(2) == 2 * 3 * 64 * 2


def test_shape_of_the_tiny_model_is_the_one_that_is_built(tmp_path):
    from actors.training.models import load_tokenizer, prepare_model

    config = compose([]).model
    shape = model_shape(config)
    folder = prepare_model(config, tmp_path, 0)
    config.path = str(folder)
    read = model_shape(config)
    assert (read.parameters, read.layers, read.kv_width) == (shape.parameters, shape.layers, shape.kv_width)
    assert read.vocabulary == shape.vocabulary
    assert len(load_tokenizer(folder)) <= read.vocabulary


def test_doctor_finds_this_machine_able_and_names_everything():
    checks = doctor.doctor(start_ray=False)
    names = {check.name for check in checks}
    assert names >= {"python", "torch", "ray", "g++", "GPUs", "vLLM", "shared memory", "open files", "Landlock"}
    broken = [check for check in checks if check.status == FAIL and check.name != "vLLM"]
    assert not broken, doctor.render(broken)
    assert all(check.cure for check in checks if check.status != OK)


def test_doctor_reports_missing_and_old_packages_with_a_cure(monkeypatch):
    supported = {"no-such-package-here": ("1", "2"), "ray": ("999", "1000"), "torch": ("1", "2"), "numpy": ("1", "99")}
    monkeypatch.setattr(doctor, "SUPPORTED", supported)
    found = {check.name: check for check in doctor._packages()}
    assert {name: check.status for name, check in found.items()} == {
        "no-such-package-here": FAIL, "ray": FAIL, "torch": WARN, "numpy": OK,
    }  # fmt: skip
    assert found["ray"].cure == "pip install 'ray>=999'"


@pytest.mark.slow
def test_doctor_works_with_the_standard_library_alone():
    """As after an installation that failed half-way: every package outside the standard library is missing."""
    code = (
        "import sys, importlib.abc\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        first = name.partition('.')[0]\n"
        "        if first not in sys.stdlib_module_names and first not in ('actors', 'rlcore'):\n"
        "            raise ModuleNotFoundError(f'No module named {first!r}', name=first)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "sys.argv = ['rlcore', 'doctor']\n"
        "from rlcore.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert re.search(r"FAIL +mpmath +not installed\n *-> pip install 'mpmath>=1.3'", done.stdout)
    assert "torch does not import" in done.stdout
    assert "this machine cannot train" in done.stdout


def test_doctor_sees_a_long_TMPDIR_tokens_and_a_dead_address(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    (check,) = doctor._sockets()
    assert (check.status, "too long" in check.found) == (WARN, True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert "open" in doctor._token()[0].found
    (tmp_path / "token").write_text("x")
    assert "RAY_AUTH_MODE=token" in doctor._token()[0].cure
    assert doctor._address() == []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (check,) = doctor._address()
    assert (check.status, "refuses connections" in check.found) == (FAIL, True)
    assert "unset RAY_ADDRESS" in check.cure


def test_a_broken_probe_is_a_finding(monkeypatch):
    def broken():
        raise OSError("no disk")

    for name in ("_packages", "_compiler", "_gpus", "_vllm", "_sandbox", "_sockets", "_token"):
        monkeypatch.setattr(doctor, name, list)
    monkeypatch.setattr(doctor, "_disk", broken)
    found = [check for check in doctor.doctor(start_ray=False) if check.status == FAIL]
    assert [check.found for check in found] == ["probe failed: OSError: no disk"]


def test_doctor_without_a_compiler_warns(monkeypatch):
    monkeypatch.setenv("PATH", "")
    (check,) = doctor._compiler()
    assert (check.status, "g++" in check.cure) == (WARN, True)


@pytest.mark.parametrize(("version", "key"), [("2.13.0+cpu", (2, 13, 0)), ("1.0rc1", (1, 0)), ("", ())])
def test_version_key(version, key):
    assert doctor.version_key(version) == key


def test_render_counts_and_judges():
    text = doctor.render([Check("a", OK, "fine"), Check("b", WARN, "slow", "fix b")])
    assert "1 OK, 1 WARN, 0 FAIL: this machine can train" in text
    assert "fix b" in text
    assert "cannot train" in doctor.render([Check("c", FAIL, "gone")])


def test_sizes_are_readable():
    from actors.commands.plan import _size

    assert (_size(1.5 * GIB), _size(3 * 2**20)) == ("1.5 GiB", "3.0 MiB")


def test_stages_of_rounds_are_shown_with_what_they_read():
    text = plan(compose(["+experiment=llama3", "rounds.count=3"])).text
    rows = {line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]] for line in text.splitlines()
            if line.count("│") == 6}  # fmt: skip
    assert rows["base"] == ["sft", "1", "answers, start, heldout", "model"]
    assert rows["evaluate"] == ["evaluate", "1-3", "average, heldout", "report"]
    assert "completions in the run" not in text
    assert "Stages" not in plan(compose([])).text


def test_stages_that_cannot_be_planned_are_shown_as_such():
    text = plan(compose(["+experiment=llama3", "rounds.stages.sft.start=nosuch"])).text
    assert "Checks: 1 error" in text
    assert "no stage makes `nosuch`" in text


def test_rounds_are_not_trained_as_one_run(tmp_path):
    with pytest.raises(ConfigError, match="rlcore rounds"):
        train(compose(["+experiment=llama3", f"run_dir={tmp_path}"]))
    assert not list(tmp_path.iterdir())
