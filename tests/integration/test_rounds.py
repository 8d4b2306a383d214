"""Two small rounds for real: Ray, vLLM, DeepSpeed and verifier processes; killed in every kind of stage, and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlcore.rounds.stages import STAGES as STAGE_KINDS
from tests.integration.rounds_run import ENV, REWARD, STAGES, draft, hashes, mark, overrides, records, stamps, start

RUNS = 2 * len(STAGES) - 1  # `base` runs once
STEP = "work/**/step-*[0-9]"
# Stage -> what of it must be on disk when the kill comes; or the method of the draft at which the run is held, where
# the stage takes no longer than a blink.
PLACES = {
    "base": STEP,
    "generate": "parts/part-00001.parquet",
    "filter": "write_part",
    "annotate": "write_part",
    "reward": STEP,
    "rank": "write_part",
    "best": "write_part",
    "dpo": "work/reference/*.npy",
    "average": "finish_folder",
    "rl": STEP,
    "evaluate": "finish_report",
}


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "reward.py"
    path.write_text(REWARD)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, reward):
    """A run that nobody disturbs, and what `status` said while it was at work."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    one = start(run_dir, reward)
    try:
        one.until(lambda: any("-base-" in name for name in records(run_dir)))
        seen = status(run_dir, reward)
        assert one.wait() == 0, one.tail()
    finally:
        one.end()
    return run_dir, one, seen


def status(run_dir: Path, reward: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "rlcore"), "rounds", "status", *overrides(run_dir, reward)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=200)


@pytest.mark.timeout(600)
def test_every_stage_runs_on_the_same_processes(whole):
    run_dir, one, _ = whole
    found = records(run_dir)
    assert {record["kind"] for record in found.values() if record["round"]} == {
        kind for kind in STAGE_KINDS if kind != "rewrite"
    }
    assert len([name for name in found if not name.startswith("r00")]) == RUNS
    assert {name: len(pids) for name, pids in one.workers.items()} == {
        "PolicyWorker": 1, "RolloutWorker": 1, "RewardModelWorker": 1, "VerifierWorker": 1,
    }  # fmt: skip
    assert "OutOfMemory" not in one.tail()


def test_status_while_it_runs_and_afterwards(whole, reward):
    run_dir, _, seen = whole
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert f"of {RUNS} stages done" in seen.stdout
    after = status(run_dir, reward)
    assert f"{RUNS} of {RUNS} stages done" in after.stdout, after.stdout + after.stderr


@pytest.mark.timeout(600)
def test_a_second_start_starts_no_actor(whole, reward):
    run_dir, _, _ = whole
    before = stamps(run_dir)
    one = start(run_dir, reward)
    try:
        assert one.wait() == 0, one.tail()
    finally:
        one.end()
    assert not one.family  # not even Ray
    assert stamps(run_dir) == before


def killed_in(stages, run_dir, reward):
    """Kills a run once in each of the stages, and lets it end; returns the file stamps of what was finished then."""
    finished = {}
    for stage in stages:
        place = PLACES[stage]
        held = "*" not in place and "/" not in place
        one = start(run_dir, reward, hold=f"1:{stage}:{place}" if held else "")
        try:
            if held:
                one.until(lambda: mark(run_dir).exists())
            else:
                one.until(lambda: (found := draft(run_dir, 1, stage)) is not None and any(found.glob(place)))  # noqa: B023
        finally:
            one.end()
        assert draft(run_dir, 1, stage) is not None, "the kill came too late"
        for file, stamp in stamps(run_dir).items():
            assert finished.setdefault(file, stamp) == stamp, f"{file} was written again"
    one = start(run_dir, reward)
    try:
        assert one.wait() == 0, one.tail()
    finally:
        one.end()
    log = one.log.read_text()
    for stage in stages:
        assert log.count(f"round 1, {stage}: resuming") == 1
    return finished


def check(run_dir, finished, whole):
    assert hashes(run_dir) == hashes(whole)
    now = stamps(run_dir)
    assert {file: now[file] for file in finished} == finished, "what was finished was touched"
    parts = [file for file in now if "generate" in file and file.endswith(".parquet")]
    assert len(parts) == 8
    assert not list((run_dir / "artefacts").glob("*.draft")) + list((run_dir / "artefacts").glob("*.corrupt*"))


@pytest.mark.slow  # test_kills.py has a killed driver in the default run
@pytest.mark.timeout(1500)
def test_killed_while_learning(whole, reward, tmp_path):
    finished = killed_in(["rl"], tmp_path / "run", reward)
    check(tmp_path / "run", finished, whole[0])


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_killed_in_every_kind_of_stage(whole, reward, tmp_path):
    finished = killed_in(list(PLACES), tmp_path / "run", reward)
    assert len({name.split("/")[1] for name in finished}) == 4 + len(PLACES) - 1 + 1  # all but the last, and `sft`
    check(tmp_path / "run", finished, whole[0])
