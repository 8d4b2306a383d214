"""Real Ray clusters that ask for tokens, and the private one of a local start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.ports import free_port

pytestmark = pytest.mark.timeout(600)
BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef"
# `address` of "" starts a local cluster; a task must run in either.
PROGRAM = """
import sys, ray
from actors.config.schema import ClusterConfig
from actors.placement.ray_connection import connected
from actors.placement.ray_probe import ClusterError
try:
    with connected(ClusterConfig(address=sys.argv[1] or None)):
        print("answer", ray.get(ray.remote(num_cpus=0)(lambda: 7).remote(), timeout=120))
except ClusterError as error:
    print(error)
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    home.mkdir(exist_ok=True)
    return env | {"HOME": str(home)} | more


def run(home: Path, address: str = "", **more: str) -> str:
    command = [sys.executable, "-c", PROGRAM, address]
    done = subprocess.run(command, env=environment(home, **more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def head(home: Path, *arguments: str) -> Iterator[str]:
    """`ray start --head` with the HOME of a user; ended by its own process, which takes the rest along."""
    folder, port = tempfile.mkdtemp(prefix="rl"), free_port()
    command = [str(BIN / "ray"), "start", "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0", "--block",
               f"--object-store-memory={2**28}", "--dashboard-agent-listen-port=0", *arguments]  # fmt: skip
    log = (home / "head.log").open("w")
    env = environment(home, RAY_TMPDIR=folder)
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while "Ray runtime started" not in (home / "head.log").read_text():
            assert process.poll() is None, (home / "head.log").read_text()[-3000:]
            assert time.monotonic() < end, "ray start did not end"
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a user with a token, and of one without."""
    with_token, without = tmp_path_factory.mktemp("with"), tmp_path_factory.mktemp("without")
    (with_token / ".ray").mkdir()
    (with_token / ".ray" / "auth_token").write_text(TOKEN)
    return with_token, without


def test_a_local_start_leaves_no_token_behind(tmp_path: Path) -> None:
    assert "answer 7" in run(tmp_path, TMPDIR=str(tmp_path))  # pytest's folders are short enough, or a message is shown
    assert not (tmp_path / ".ray" / "auth_token").exists()


@pytest.mark.slow
def test_the_environment_counts_and_not_what_ray_read_before(tmp_path: Path) -> None:
    """In one process: a cluster with a token, one without, and the variable back again, as tests and notebooks do."""
    changed = "import os\nos.environ['RAY_AUTH_MODE'] = 'token'\n"
    command = [sys.executable, "-c", "import ray\nray._raylet.Config.initialize('')\n" + changed + PROGRAM, ""]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert "answer 7" in done.stdout, done.stdout + done.stderr[-3000:]


def test_a_cluster_that_asks_for_a_token(homes: tuple[Path, Path]) -> None:
    owner, stranger = homes
    with head(owner, "--include-dashboard=false") as address:
        assert "answer 7" in run(owner, address), "the token is used without RAY_AUTH_MODE"
        text = run(stranger, address)
        assert "requires a token, but none was sent" in text
        assert "RAY_AUTH_MODE=token" in text
        assert "requires a token" in run(stranger, address, RAY_AUTH_MODE="token")
        assert "refuses the token of this user" in run(stranger, address, RAY_AUTH_TOKEN="f" * 32)
        token = str(owner / ".ray" / "auth_token")
        assert "answer 7" in run(stranger, address, RAY_AUTH_TOKEN_PATH=token, RAY_AUTH_MODE="token")


@pytest.mark.slow
def test_a_token_where_none_is_asked_for(homes: tuple[Path, Path]) -> None:
    owner, stranger = homes
    with head(stranger, "--include-dashboard=false") as address:
        assert "answer 7" in run(owner, address)
        assert "answer 7" in run(stranger, "auto", RAY_ADDRESS=address)
