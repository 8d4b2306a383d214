"""A zygote and its processes: rlcore.processes.zygote, rlcore.processes.child."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from rlcore.processes.child import read_frame, send_frame
from rlcore.processes.zygote import Zygote, ZygoteLost


@pytest.fixture
def zygote(monkeypatch):
    monkeypatch.setenv("RLCORE_TEST_ENV", "KEPT_HERE")
    monkeypatch.setenv("KEPT_HERE", "yes")
    monkeypatch.setenv("SECRET_HERE", "no")
    made = Zygote("test", "tests.processes.serving:serve", {"word": "hi"}, 0, None, "RLCORE_TEST_ENV")
    yield made
    made.close()


def ask(sock, text: bytes) -> list[bytes]:
    send_frame(sock, text)
    return read_frame(sock).split()


def test_processes_answer_and_end_with_their_socket(zygote):
    (one, first), (two, second) = zygote.fork(), zygote.fork()
    assert ask(first, b"a") == [str(one).encode(), b"hi", b"a"]
    assert ask(second, b"x" * 100_000)[2] == b"x" * 100_000
    first.close()
    assert zygote.reap(one, 5.0) == "exited with code 0"
    assert zygote.reap(one, 5.0) == "was reaped before"
    assert zygote.reap(two, 0.0) == "killed by SIGKILL"
    assert not psutil.pid_exists(two)
    second.close()


def test_the_end_of_a_process_is_told_apart(zygote):
    pid, sock = zygote.fork()
    send_frame(sock, b"exit")
    assert read_frame(sock) is None
    assert zygote.reap(pid, 5.0) == "exited with code 7"
    pid, sock = zygote.fork()
    send_frame(sock, b"hang")
    begun = time.monotonic()
    assert zygote.reap(pid, 0.2) == "killed by SIGKILL"
    assert time.monotonic() - begun < 5


def test_only_named_variables_reach_it(zygote):
    pid, sock = zygote.fork()
    environment = psutil.Process(zygote.process.pid).environ()
    assert environment["KEPT_HERE"] == "yes"
    assert "SECRET_HERE" not in environment
    sock.close()
    zygote.reap(pid, 5.0)


def test_processes_end_with_a_killed_zygote(zygote):
    pid, sock = zygote.fork()
    assert ask(sock, b"a")
    os.kill(zygote.process.pid, signal.SIGKILL)
    assert read_frame(sock) is None
    with pytest.raises(ZygoteLost, match="the test's zygote"):
        zygote.fork()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sock.close()
