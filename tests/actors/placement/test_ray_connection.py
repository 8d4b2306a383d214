"""Addresses of Ray clusters that cannot be used, without Ray itself where a socket will do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.commands.plan import plan
from actors.config.schema import Config
from actors.placement.ray_connection import temporary_folder
from actors.placement.ray_probe import ClusterError
from rlcore.problems import UserError
from tests.actors.placement.cases import at, fake_cluster, listener, versions

pytestmark = pytest.mark.usefixtures("no_cluster_named")

RLCORE = str(Path(sys.executable).parent / "rlcore")


def test_plan_tells_refused_from_silent_from_none_named() -> None:
    config = Config(cluster=at(None))
    assert "no Ray cluster named" in plan(config).text
    with listener() as address:
        config.cluster = at(address, 1.0)
        assert "did not answer within 1 s" in plan(config).text
    text = plan(config).text
    assert f"cluster.address={address} refuses connections" in text
    assert "no Ray cluster named" not in text


def test_a_cluster_that_never_lets_a_driver_in_ends_at_the_deadline(tmp_path: Path) -> None:
    with fake_cluster(versions()) as address:
        command = [RLCORE, "train", f"cluster.address={address}", "cluster.deadlines.connect_s=4", "run_dir=run"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cluster.address={address} answers, but this program could not join it within 4 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert issubclass(ClusterError, UserError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait(number: int, tmp_path: Path) -> None:
    with fake_cluster(versions()) as address:
        code = (  # a shell's background job, as this test may be, ignores SIGINT
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from actors.placement.ray_connection import connected; from actors.config.schema import *\n"
            "print('go', flush=True)\n"
            f"with connected(ClusterConfig(address='{address}')): pass"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(3)
        started = time.monotonic()
        process.send_signal(number)
        code_of_exit = process.wait(60)
    assert code_of_exit != 0
    assert time.monotonic() - started < 20, "well below the deadline of 60 s"


def test_a_short_folder_where_TMPDIR_is_too_long_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert temporary_folder() == (None, "")
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    folder, reason = temporary_folder()
    assert folder == "/tmp/ray"
    assert "TMPDIR=" in reason
    assert "too long for Ray's sockets" in reason
    monkeypatch.setattr("actors.placement.ray_connection.SHORT_FOLDERS", ("/proc/nothing",))
    with pytest.raises(ClusterError, match="set RAY_TMPDIR"):
        temporary_folder()
