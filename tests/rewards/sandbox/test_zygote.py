"""One zygote: deadlines, folders and orphans."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlcore.rewards.pool import Item, Term, VerifierPool
from rlcore.rewards.sandbox import Call, Ending, Job, Limits, SandboxConfig, SandboxError, Tier, tiers
from rlcore.rewards.sandbox import zygote as zygotes
from rlcore.rewards.sandbox.local import LocalSandbox
from rlcore.types import RewardInput
from tests.rewards.sandbox.cases import ADD, STDIN, alive, outputs


def test_a_stopped_zygote_does_not_hold_the_verdict(sandbox):
    sandbox.run(ADD)
    with sandbox.zygote() as zygote:
        pid = zygote.process.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        outcomes = sandbox.run(Job("print(1)", inputs=[""], limits=Limits(1.0, deadline_s=2.0)))
        assert outcomes[0].ending is Ending.done
    except SandboxError:
        pass
    assert time.monotonic() - began < 20  # without a deadline it would never end
    assert not Path(f"/proc/{pid}").exists()


SLOW_TO_REAP = """
import sys, time
sys.path.insert(0, {folder!r})
import runner
end = runner.Watch._end
def slow(watch, cause):
    answer = end(watch, cause)
    if cause:
        time.sleep(30)
    return answer
runner.Watch._end = slow
runner.main(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("job", "ended"),
    [
        (Job("while True: pass", inputs=[""]), Ending.timeout),
        (Job("import time\ntime.sleep(99)", inputs=["", ""]), Ending.timeout),
        (Job("def f():\n    while True: pass", calls=[Call("f")]), Ending.timeout),
        (Job("def f(): return 'x' * 10**6", calls=[Call("f")], answer_bytes=1000), Ending.error),
        (Job("def f():\n    while True: pass", asserts=["f()"]), Ending.timeout),
    ],
    ids=["spin", "sleep-twice", "call", "too-long", "assert"],
)
def test_a_verdict_does_not_wait_for_a_killed_programs_memory(tmp_path, job, ended):
    """On a starved machine freeing it takes seconds; here a real zygote takes 30 s to reap what it has killed."""
    script = tmp_path / "runner_slow.py"
    script.write_text(SLOW_TO_REAP.format(folder=str(Path(zygotes.__file__).parent)))
    how = tiers.launch(Tier.unsafe, SandboxConfig())
    how = replace(how, command=[str(script) if part.endswith("runner.py") else part for part in how.command])
    slow = LocalSandbox(how, "slow to reap")
    try:
        began = time.monotonic()
        outcomes = slow.run(replace(job, limits=Limits(0.5, deadline_s=6.0)))
        assert time.monotonic() - began < 25, "it waited for the zygote"
        assert outcomes[0].ending is ended
        assert outputs(slow.run(replace(ADD, limits=Limits(deadline_s=20.0)))) == ["2", "42"]  # on a fresh zygote
    finally:
        slow.close()


def test_a_silent_zygote_is_an_error_by_the_deadline(sandbox):
    with sandbox.zygote() as zygote:
        pid = zygote.process.pid
    job = Job("import time\ntime.sleep(99)", inputs=[""], limits=Limits(9.0, deadline_s=1.5))
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGSTOP))
    timer.start()
    began = time.monotonic()
    with pytest.raises(SandboxError, match="did not end a program that was overdue"):
        sandbox.run(job)
    assert 1.5 < time.monotonic() - began < 8.0  # the program itself may take 9 s
    assert not Path(f"/proc/{pid}").exists()


def test_folders_of_killed_verifiers_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(zygotes.tempfile, "gettempdir", lambda: str(tmp_path))
    names = ("rlcore-sandbox-a", "rlcore-sandbox-b", "rlcore-sandbox-c", "x")
    old, fresh, held, other = (tmp_path / name for name in names)
    for folder in (old, fresh, held, other):
        folder.mkdir()
    for folder in (old, held, other):
        os.utime(folder, (1, 1))
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    zygotes.sweep()
    os.close(lock)
    assert [folder.exists() for folder in (old, fresh, held, other)] == [False, True, True, True]


def test_a_reaped_worker_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    row = RewardInput("p", "print(int(input()) + 1)", metadata={"tests": STDIN})
    with VerifierPool(num_processes=1, timeout_s=40.0) as pool:
        for _ in range(2):
            assert pool.submit([Item((Term("code"),), row)]).result(120)[0].score == 1.0
            assert len(list(tmp_path.iterdir())) == 1
            os.kill(pool.pids()["workers"][0], signal.SIGKILL)
            time.sleep(0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_leaves_no_process():
    script = (
        "import time\nfrom rlcore.rewards.sandbox import *\n"
        "s = make(SandboxConfig(tier=Tier.unsafe))\n"
        "with s.zygote() as z:\n    print(z.process.pid, flush=True)\n    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
