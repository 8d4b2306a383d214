"""SIGKILL of driver, engine and policy in each phase of a step, at K = 0, 1, 2: nothing is lost or trained twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from actors.build import prepare
from actors.config.compose import compose
from rlcore.data.sources.prompts import PromptStream
from tests.integration.test_end_to_end import ENV, SMALL, kill_session, ledger, rows, train, until

STEPS = 6
PLACES = {  # phase -> which time
    "driver": {"gen": 3, "update_actor": 6, "update_weights": 3, "checkpoint": 2, "eval": 2},
    "RolloutWorker": {"gen": 3, "update_actor": 5, "update_weights": 3, "eval": 2},
    "PolicyWorker": {"gen": 3, "old_log_prob": 3, "update_actor": 5, "update_weights": 3, "checkpoint": 2},
}
CASES = [  # the default suite kills a driver and an engine in test_end_to_end.py
    (victim, phase, depth)
    for depth in (0, 1, 2)
    for victim, phases in PLACES.items()
    for phase in phases
]


def ahead(depth: int) -> list[str]:
    return [f"trainer.max_staleness={depth}", *["algorithm.correction.mode=mask"] * (depth > 1)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The prompts of each step, as the stream gives them to steps one after the other."""
    config = compose(SMALL)
    inputs = prepare(config, tmp_path_factory.mktemp("expected"))
    stream = PromptStream(inputs.data.train, config.seed, config.data.shuffle)
    return [[prompt.uid for prompt in stream.take(config.trainer.prompts_per_step)] for _ in range(STEPS)]


def first_run(run_dir: Path, victim: str, phase: str, depth: int) -> int:
    """Runs until the kill, or to the end if it goes on; returns its exit code."""
    number, file = PLACES[victim][phase], run_dir.parent / "struck"
    command = [sys.executable, "-m", "tests.integration.kill_at", victim, phase, str(number), str(file)]
    command += [f"run_dir={run_dir}", *SMALL, *ahead(depth)]
    log = run_dir.parent / "run.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=ENV, stdout=out, stderr=out, text=True, start_new_session=True)
    try:
        until(process, file.exists)
        if victim == "driver":
            kill_session(process)
            return -signal.SIGKILL
        return process.wait(timeout=200)
    finally:
        if process.poll() is None:
            kill_session(process)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("victim", "phase", "depth"), CASES)
def test_killed(tmp_path: Path, expected: list[list[str]], victim: str, phase: str, depth: int) -> None:
    run_dir = tmp_path / "run"
    code = first_run(run_dir, victim, phase, depth)
    log = (tmp_path / "run.log").read_text()
    if victim == "RolloutWorker":
        assert code == 0, log[-3000:]
        assert "restart 1 of" in log
    else:
        assert code != 0
        done = train(run_dir, *ahead(depth))
        assert "resumed at step" in done.stdout
    found = ledger(run_dir)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert [row["uids"] for row in found] == expected
    assert max(Counter(uid for row in found for uid in row["uids"]).values()) == 1
    assert [row["trained"] for row in found] == [32] * STEPS
    metrics = rows(run_dir)
    assert sorted(metrics) == list(range(STEPS + 1))
    differences = [row["rollout/logprob_diff_max"] for row in metrics.values() if "rollout/logprob_diff_max" in row]
    assert max(differences) < 1e-3
    assert (run_dir / "finished").read_text() == f"{STEPS}\n"
