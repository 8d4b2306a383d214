"""wandb, offline for real; and none of its failures stops a run."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from rlcore.tracking.config import TrackingConfig, WandbConfig, WandbMode
from rlcore.tracking.trackers import build_tracker
from rlcore.tracking.wandb import WandbTracker
from tests.tracking.cases import METRICS, group, steps_of


@pytest.fixture
def quiet_wandb(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_DISABLE_WEAVE", raising=False)


def records(data: bytes):
    """Records of a wandb transaction log: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    position, parts = 7, []
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def history(file: Path) -> tuple[list[dict], dict, str]:
    """History rows, config and run id of an offline run, once its last record is on disk."""
    from wandb.proto import wandb_internal_pb2

    parsed, deadline = [], time.monotonic() + 20
    while not parsed or parsed[-1].WhichOneof("record_type") != "exit":  # wandb's own process writes a little later
        assert time.monotonic() < deadline, "the run was never finished"
        time.sleep(0.05)
        parsed = [wandb_internal_pb2.Record.FromString(data) for data in records(file.read_bytes())]
    rows, config, run_id = [], {}, ""
    for record in parsed:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run_id = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    return rows, config, run_id


def test_wandb_offline_for_real(tmp_path, quiet_wandb, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "openai", types.ModuleType("openai"))  # as after vLLM's import
    run_dir = tmp_path / "addition"
    secret = "hf_abcdefghijklmnopqrstuvwxyz"
    config = TrackingConfig(console=False, wandb=WandbConfig(project="test", tags=["a"]), num_samples=3)
    run_config = {"seed": 3, "hub_token": secret, "trainer": {"steps": 4, "cmd": f"HF_TOKEN={secret}"}}
    for start, stop in ((0, 3), (2, 4)):  # the second resumes from step 2
        trackers = build_tracker(config, run_dir, run_config, total_steps=4, start_step=start)
        for step in range(start + 1, stop + 1):
            trackers.log(step, {"reward/mean": step / 10, "odd": math.nan})
            trackers.log_samples(step, [group("a", 1.0, 0.0), group("b", 0.5, None)])
        trackers.close()
    assert capfd.readouterr() == ("", ""), "wandb says nothing on the console"

    files = sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
    first, second = (history(file) for file in files)
    assert [row["step"] for row in first[0] if "reward/mean" in row] == [1, 2, 3]
    assert [row["reward/mean"] for row in first[0] if "reward/mean" in row] == [0.1, 0.2, 0.3]
    assert [row["step"] for row in second[0] if "reward/mean" in row] == [3, 4]
    assert first[2] == second[2] == (run_dir / "wandb-id").read_text().strip(), "one run, not two"
    assert first[1]["seed"] == 3
    assert first[1]["trainer"] == {"steps": 4, "cmd": "HF_TOKEN=***"}
    for path in run_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    tables = [json.loads(path.read_text()) for path in files[0].parent.glob("files/media/table/samples*.json")]
    assert len(tables) == 3
    assert tables[0]["columns"] == ["step", "prompt", "response", "reference", "score", "status"]
    assert sorted(row[1:] for row in tables[0]["data"])[0] == ["1+2=", "301", "3", 0.0, "ok"]
    assert all(len(table["data"]) == 3 for table in tables)

    assert steps_of(run_dir / "metrics.jsonl") == [1, 2, 3, 4]
    assert steps_of(run_dir / "metrics.jsonl.bak-1") == [3]
    assert steps_of(run_dir / "samples.jsonl") == [s for s in (1, 2, 3, 4) for _ in range(3)]


class FakeWandb:
    """Stands for the module where a failure is needed that the real one does not give on demand."""

    def __init__(self, fail_at: str = "", hang: float = 0.0) -> None:
        self.fail_at, self.hang, self.rows, self.exit_code = fail_at, hang, [], None
        self.api = type("Api", (), {"api_key": "k"})

    def Settings(self, **kwargs):
        return kwargs

    def init(self, **kwargs):
        self._at("init")
        return self

    def define_metric(self, *args, **kwargs): ...

    def log(self, row):
        self._at("log")
        self.rows.append(row)

    def finish(self, exit_code):
        time.sleep(self.hang)
        self.exit_code = exit_code
        self._at("finish")

    def _at(self, place):
        if place == self.fail_at:
            raise SystemExit("no network") if place == "init" else ConnectionError("no network")


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_failing_wandb_warns_once_and_never_stops_the_run(monkeypatch, tmp_path, caplog, place):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(place))
    tracker = WandbTracker(WandbConfig(), tmp_path, {})
    for step in range(5):
        tracker.log(step, METRICS)
    tracker.close()
    tracker.close()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "the run continues without it" in caplog.text
    assert "no network" in caplog.text


def test_hanging_wandb_does_not_hold_the_run(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb(hang=1.0))
    tracker = WandbTracker(WandbConfig(), tmp_path, {})
    tracker.log(1, METRICS)
    tracker.close(failed=True, timeout_s=0.1)
    assert tracker._thread.is_alive(), "close waited for wandb"
    assert "did not finish" in caplog.text
    assert fake.rows == [{"step": 1, **METRICS}]
    tracker._thread.join(5)
    assert fake.exit_code == 1


def test_wandb_online_without_a_key_does_not_ask(monkeypatch, tmp_path, caplog):
    fake = FakeWandb()
    fake.api.api_key = None
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker(WandbConfig(mode=WandbMode.online), tmp_path, {})
    tracker.close(timeout_s=5)
    assert "set WANDB_API_KEY" in caplog.text


def test_a_killed_service_leaves_no_traceback(tmp_path):
    """`ray job stop` sends its signal to wandb's service too."""
    program = """
import logging
import sys
from pathlib import Path
import psutil
from rlcore.tracking.wandb import WandbTracker
from rlcore.tracking.config import WandbConfig
logging.basicConfig()
tracker = WandbTracker(WandbConfig(), Path(sys.argv[1]), {})
tracker.log(1, {"x": 1.0})
while tracker._run is None or not tracker._jobs.empty():
    assert tracker._thread.is_alive()
service = psutil.Process().children(recursive=True)
for process in service:
    process.kill()
psutil.wait_procs(service, 10)
tracker.log(2, {"x": 2.0})
tracker.close(failed=True)
print("closed")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of this process
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("closed"), done.stderr
    assert "the run continues without it" in done.stderr
    assert "Traceback" not in done.stderr
