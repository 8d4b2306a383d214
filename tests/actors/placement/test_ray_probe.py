"""Checks of a Ray address."""

from __future__ import annotations

import functools
import socket
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from actors.placement.ray_connection import connected
from actors.placement.ray_probe import ClusterError, named_address
from tests.actors.placement.cases import at, fake_cluster, listener, versions

pytestmark = pytest.mark.usefixtures("no_cluster_named")


def refusal(address: str | None, connect_s: float = 30.0) -> str:
    with pytest.raises(ClusterError) as caught, connected(at(address, connect_s)):
        pass
    return str(caught.value)


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
        assert "does not answer within 1.5 s" in refusal(address, 1.5)


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
