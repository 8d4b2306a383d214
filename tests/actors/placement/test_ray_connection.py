"""Addresses of Ray clusters that cannot be used, without Ray itself where a socket will do."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
from ray._private.utils import compute_version_info

from actors.commands.plan import plan
from actors.config.schema import ClusterConfig, Config, DeadlinesConfig
from actors.placement.ray_connection import connected, reload_authentication, temporary_folder
from actors.placement.ray_probe import ClusterError, named_address
from rlcore.problems import UserError

RLCORE = str(Path(sys.executable).parent / "rlcore")


@pytest.fixture(autouse=True)
def _no_cluster_named() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        yield
    reload_authentication()  # for the clusters that later tests start in this process


def at(address: str | None, connect_s: float = 30.0) -> ClusterConfig:
    return ClusterConfig(address=address, deadlines=DeadlinesConfig(connect_s=connect_s))


def refusal(address: str | None, connect_s: float = 30.0) -> str:
    with pytest.raises(ClusterError) as caught, connected(at(address, connect_s)):
        pass
    return str(caught.value)


@contextmanager
def listener(backlog: int = 5) -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def fake_cluster(metadata: dict[str, str] | None) -> Iterator[str]:
    """A control service that knows its versions, and leaves every other question without an answer."""
    from ray.core.generated import gcs_service_pb2 as messages

    over = threading.Event()

    def known(request: object, context: object) -> object:
        return messages.InternalKVGetReply(value=json.dumps(metadata).encode() if metadata else b"")

    def wait(request: object, context: object) -> bytes:
        over.wait(60)
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):  # type: ignore[no-untyped-def]
            if details.method.endswith("/InternalKVGet") and not over.is_set():
                serialize = messages.InternalKVGetReply.SerializeToString
                return grpc.unary_unary_rpc_method_handler(known, response_serializer=serialize)
            return grpc.unary_unary_rpc_method_handler(wait)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        over.set()
        server.stop(0)


def versions(ray: str | None = None, python: str | None = None) -> dict[str, str]:
    ours = compute_version_info()
    return {"ray_version": ray or ours[0], "python_version": python or ours[1]}


@pytest.mark.parametrize("source", ["cluster.address", "RAY_ADDRESS"])
def test_nothing_listens(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as address:
        pass
    if source == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    text = refusal(address if source == "cluster.address" else None)
    assert f"the Ray cluster at {source}={address} refuses connections" in text
    assert ("`unset RAY_ADDRESS`" if source == "RAY_ADDRESS" else "leave out cluster.address") in text


def test_a_host_that_drops_packets_is_silent() -> None:
    with listener(backlog=0) as address, ExitStack() as stack:
        host, port = address.split(":")
        for _ in range(4):  # fill the queue: the kernel drops what comes after
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex((host, int(port)))
        assert "is silent: no answer within 1.5 s" in refusal(address, 1.5)


def test_a_port_that_never_answers() -> None:
    with listener() as address:
        assert "accepts connections but did not answer within 1.5 s" in refusal(address, 1.5)


def test_a_port_that_is_not_ray() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        text = refusal(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
    assert "not as the control service of a Ray cluster" in text
    assert "8265 is the dashboard" in text


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("10.0.0.1", "is not HOST:PORT"),
        ("head:port", "is not HOST:PORT"),
        ("head:6379/x", "is not HOST:PORT"),
        ("head:99999", "is not HOST:PORT"),
        ("http://head:8265", "is a URL"),
        ("ray://head:10001", "is a Ray Client address"),
        ("no-such-host.invalid:6379", "has an unknown host"),
    ],
)
def test_what_is_no_address(address: str, text: str) -> None:
    assert text in refusal(address)


def test_auto_without_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray._private import services

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", functools.cache(set))  # others may run on this machine
    text = refusal("auto")
    assert "no Ray cluster runs on this machine" in text
    with listener() as gone:
        pass
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(gone)  # a cluster that has ended leaves this behind
    text = refusal("auto")
    assert "cluster.address=auto (" in text
    assert f":{gone.split(':')[1]}) refuses connections" in text


def test_which_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_address(at(None)) is None
    assert named_address(at("local")) is None
    assert str(named_address(at("h:1"))) == "cluster.address=h:1"
    monkeypatch.setenv("RAY_ADDRESS", " h:2 ")
    assert str(named_address(at(None))) == "RAY_ADDRESS=h:2"
    assert str(named_address(at("h:1"))) == "cluster.address=h:1"
    assert str(named_address(at("auto"))) == "RAY_ADDRESS=h:2", "as in Ray"
    assert named_address(at("local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert named_address(at(None)) is None


@pytest.mark.parametrize("other", [{"ray": "2.9.0"}, {"python": "3.10.1"}])
def test_other_versions(other: dict[str, str]) -> None:
    with fake_cluster(versions(**other)) as address:
        text = refusal(address)
    assert " ".join(other.values()) in text
    assert "use one environment on all machines" in text


def test_a_head_that_is_still_starting() -> None:
    with fake_cluster(None) as address:
        assert "was not ready within 1.5 s" in refusal(address, 1.5)


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
    assert f"cluster.address={address} answers, but did not let this program join within 4 s" in done.stderr
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
