"""Zygotes of this machine: replaced, retried and closed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rlcore.rewards.sandbox import Job, Limits, SandboxConfig, Tier, make
from rlcore.rewards.sandbox.records import SandboxLost
from tests.rewards.sandbox.cases import ADD, outputs


def test_a_killed_zygote_is_replaced(sandbox):
    assert outputs(sandbox.run(ADD)) == ["2", "42"]
    with sandbox.zygote() as zygote:
        victim = zygote.process
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert outputs(sandbox.run(ADD)) == ["2", "42"]


def test_a_zygote_killed_at_work_is_not_the_programs_fault(sandbox):
    job = Job("import time\ntime.sleep(1)\nprint(input())", inputs=["1"], limits=Limits(10.0))
    sandbox.run(ADD)
    with sandbox.zygote() as zygote:
        pid = zygote.process.pid
    threading.Timer(0.4, os.kill, (pid, signal.SIGKILL)).start()
    assert outputs(sandbox.run(job)) == ["1"]


def test_a_job_outlives_three_killed_sandboxes_and_says_so_of_four(sandbox, monkeypatch):
    real, kills = sandbox._run, []

    def run(job, deadline):
        if len(kills) < often:
            with sandbox.zygote() as zygote:
                kills.append(os.kill(zygote.process.pid, signal.SIGKILL))
                zygote.hear(5.0)
        return real(job, deadline)

    monkeypatch.setattr(sandbox, "_run", run)
    often = 3
    assert outputs(sandbox.run(ADD)) == ["2", "42"]
    kills, often = [], 4
    with pytest.raises(SandboxLost) as caught:
        sandbox.run(ADD)
    assert str(caught.value) == "; on the next try: ".join(["the sandbox ended"] * 4)


def test_zygotes_killed_while_idle_cost_no_try(sandbox):
    with sandbox.zygote() as one, sandbox.zygote() as other:
        victims = [one.process, other.process]
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert outputs(sandbox._run(ADD, time.monotonic() + 30)) == ["2", "42"]  # which does not try again


def test_close_leaves_nothing():
    made = make(SandboxConfig(tier=Tier.unsafe))
    with made.zygote() as zygote:
        pid, scratch = zygote.process.pid, zygote.scratch
    made.close()
    made.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(scratch).exists()
