"""Whole runs through the command line: real Ray, DeepSpeed, vLLM and verifier processes, small numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = [
    "trainer.steps=6", "trainer.prompts_per_step=8", "trainer.samples_per_prompt=4", "trainer.updates_per_step=2",
    "trainer.warmup.steps=8",
    "trainer.warmup.sequences_per_step=64", "trainer.eval.every=3", "trainer.checkpoint.every=2",
    "trainer.learning_rate.warmup_steps=2", "data.num_eval=40", "model.tiny.num_layers=2", "model.tiny.hidden_size=64",
    "model.tiny.intermediate_size=128", "model.tiny.num_heads=2", "tracking.samples_every=2",
    "cluster.roles.rollout.num_workers=1",
]  # fmt: skip
TRAIN = [str(Path(sys.executable).parent / "rlcore"), "train"]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "CI": "true", "WANDB_SILENT": "true"}


def train(run_dir: Path, *overrides: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*TRAIN, f"run_dir={run_dir}", *SMALL, *overrides]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=280)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def start(run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [*TRAIN, f"run_dir={run_dir}", *SMALL, *overrides]
    log = (run_dir.parent / f"{run_dir.name}.log").open("w")
    return subprocess.Popen(command, env=ENV, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def rows(run_dir: Path) -> dict[int, dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert len({row["step"] for row in found}) == len(found), "a step is logged twice"
    return {row["step"]: row for row in found}


def ledger(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text().splitlines()]


def until(process: subprocess.Popen[str], reached: Callable[[], bool], timeout_s: float = 200) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert process.poll() is None, f"the run ended early with {process.returncode}"
        assert time.monotonic() < deadline, "the run did not get there in time"
        time.sleep(0.05)


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") - 1 if path.exists() else -1


def kill_session(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver and all its descendants; a signal to its process group would miss Ray's daemons."""
    import psutil

    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    process.kill()
    for member in family:
        with_suppress(member.kill)
    psutil.wait_procs(family, timeout=20)


def with_suppress(action: Callable[[], None]) -> None:
    import contextlib

    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(run_dir)
    return run_dir


def test_a_run_leaves_what_it_promises(whole):
    found = rows(whole)
    assert sorted(found) == list(range(7))
    assert found[0]["eval/heldout/mean@1"] is not None
    assert max(row["rollout/logprob_diff_max"] for step, row in found.items() if step) < 1e-4
    assert all(row["batch/samples_generated"] == 32 for step, row in found.items() if step)
    assert all(r["trained"] + sum(r["filtered"].values()) == 32 for r in ledger(whole))
    for name in ("curve.png", "summary.md", "config.yaml", "samples.jsonl", "model/config.json", "finished"):
        assert (whole / name).exists(), name
    assert list((whole / "wandb").glob("offline-run-*/*.wandb")), "no offline wandb run"


def test_the_final_model_answers_alike_in_transformers_and_vllm(whole, tmp_path):
    script = tmp_path / "answers.py"
    script.write_text(
        """
import os, sys, json, torch
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    path = sys.argv[1]
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    prompts = ["74+85=", "10+20=", "99+99=", "00+10="]
    plain = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1]:]
        plain.append(out.tolist())
    llm = LLM(model=path, enforce_eager=True, max_model_len=32, dtype="float32")
    outs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    print("ANSWERS", json.dumps([plain, [list(o.outputs[0].token_ids) for o in outs]]))
"""
    )
    done = subprocess.run([sys.executable, str(script), str(whole / "model")], env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    plain, served = json.loads(line.removeprefix("ANSWERS "))
    assert plain == served
    assert all(plain)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "step"), [([], 6), (["eval.checkpoint=step-000004"], 4)])
def test_evaluation_needs_only_the_weights(whole, tmp_path, arguments, step):
    """`rlcore eval` has the accuracy that the run itself measured, without optimizer, critic and reference."""
    script = tmp_path / "evaluate.py"
    script.write_text(
        """
import json, sys
import actors.commands.train as commands
import rlcore
from actors.training.worker import ModelWorker
if __name__ == "__main__":
    plain, seen = commands.measure, {}
    def measure(world, *arguments):
        found = world.policy.group.broadcast(ModelWorker.describe, timeout_s=60, phase="describe")
        seen.update(optimizers=[d["optimizer"] for d in found], others=[world.critic, world.reference])
        return plain(world, *arguments)
    commands.measure = measure
    result = rlcore.evaluate(f"{sys.argv[1]}/config.yaml", [f"run_dir={sys.argv[1]}", *sys.argv[2:]])
    print("SEEN", json.dumps(seen | {"metrics": result.metrics, "model": result.model}))
"""
    )
    command = [sys.executable, str(script), str(whole), *arguments]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("SEEN ")).removeprefix("SEEN "))
    assert seen["optimizers"] == [False, False]
    assert seen["others"] == [None, None]
    assert seen["model"].endswith(f"step-{step:06}")
    if step == 6:
        for name in ("eval/heldout/mean@1", "eval/heldout/truncated"):
            assert np.isclose(seen["metrics"][name], rows(whole)[6][name]), name


def test_started_again_it_says_that_it_is_done(whole):
    before = (whole / "metrics.jsonl").read_text()
    done = train(whole)
    assert "is complete. To train longer set trainer.steps=" in done.stdout
    assert (whole / "metrics.jsonl").read_text() == before


def test_another_config_in_the_same_folder_is_refused(whole):
    done = train(whole, "seed=5", check=False)
    assert done.returncode == 1
    assert "seed: 0 -> 5" in done.stderr


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    until(process, lambda: steps_logged(run_dir) >= 3)
    kill_session(process)
    done = train(run_dir)
    assert "resumed at step" in done.stdout
    assert ledger(run_dir) == ledger(whole)
    a, b = rows(run_dir), rows(whole)
    assert sorted(a) == sorted(b)
    for step in b:
        for name in ("reward/mean", "actor/pg_loss", "actor/grad_norm", "eval/heldout/mean@1"):
            if b[step].get(name) is None:
                assert a[step].get(name) is None, (step, name)
            else:
                assert a[step][name] == pytest.approx(b[step][name], rel=1e-4, abs=1e-6), (step, name)
    assert np.isclose(a[6]["eval/heldout/mean@1"], b[6]["eval/heldout/mean@1"])
    assert b[6]["perf/actor_tokens_per_s"] > 0
    assert not [name for name in b[6] if name.endswith("_mfu")], "no peak is known of a CPU"


@pytest.mark.parametrize("ahead", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_sigterm_saves_and_leaves_and_a_dead_engine_is_replaced(tmp_path, ahead):
    run_dir = tmp_path / "run"
    process = start(run_dir, "trainer.steps=400", "trainer.checkpoint.every=0", "trainer.parity.every=1",
                    f"trainer.max_staleness={ahead}")  # fmt: skip
    try:
        until(process, lambda: steps_logged(run_dir) >= 2)
        os.kill(rollout_pid(process), signal.SIGKILL)
        log = run_dir.parent / "run.log"
        until(process, lambda: "restart 1 of" in log.read_text())
        seen = steps_logged(run_dir)
        until(process, lambda: steps_logged(run_dir) >= seen + 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        if process.poll() is None:
            kill_session(process)
    saved = [p.name for p in (run_dir / "checkpoints").glob("step-*")]
    assert f"step-{steps_logged(run_dir):06d}" in saved, (saved, log.read_text()[-2000:])
    assert max(r["rollout/logprob_diff_max"] for s, r in rows(run_dir).items() if s) < 1e-4


def rollout_pid(process: subprocess.Popen[str]) -> int:
    import psutil

    for child in psutil.Process(process.pid).children(recursive=True):
        if child.name().startswith("ray::RolloutWor") or "ray::RolloutWorker" in " ".join(child.cmdline()):
            return child.pid
    raise AssertionError("no rollout worker among the processes")


def test_a_bad_reward_is_refused_before_any_model_loads(tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text("def mine(sample):\n    return 'three'\n")
    done = train(tmp_path / "run", f"reward.fn={reward}:mine", check=False)
    assert done.returncode == 1
    assert "mine" in done.stderr
    assert "str" in done.stderr
    assert "Traceback" not in done.stderr
