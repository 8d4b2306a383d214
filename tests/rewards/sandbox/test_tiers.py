"""Selection of the isolation tier."""

import os
import signal
import time

import pytest

from rlcore.rewards.sandbox import Job, SandboxConfig, SandboxError, Tier, make, tiers
from rlcore.rewards.sandbox.records import SandboxLost
from tests.rewards.sandbox.cases import ADD, alive, children, outputs


def test_a_killed_or_stopped_bwrap_takes_its_zygote_along():
    try:
        made = make(SandboxConfig(tier=Tier.bwrap))
    except SandboxError as error:
        pytest.skip(str(error))
    for by in (signal.SIGKILL, signal.SIGSTOP):
        with made.zygote() as zygote:
            outer = zygote.process.pid
        (inner,) = children(outer)
        os.kill(outer if by == signal.SIGKILL else inner, by)
        if by == signal.SIGSTOP:
            zygote.close(hurry=True)
        deadline = time.monotonic() + 10
        while alive(inner) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(inner)
        assert outputs(made.run(ADD)) == ["2", "42"]
    made.close()


def test_tier_lines_and_refusals(monkeypatch):
    lines = []
    monkeypatch.setattr(tiers, "_made", {})
    tiers.get(SandboxConfig(tier=Tier.unsafe), lines.append)
    tiers.get(SandboxConfig(tier=Tier.unsafe), lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("sandbox for programs: unsafe: only rlimits")
    tiers.close_all()


def test_auto_says_why_not_the_better_tier(monkeypatch):
    monkeypatch.setattr(tiers.shutil, "which", lambda name: None)
    try:
        made = make(SandboxConfig())
    except SandboxError as error:
        pytest.skip(str(error))
    made.close()
    assert made.description.startswith("landlock: ")
    assert made.description.endswith("[not bwrap: bubblewrap is not installed]")


def test_a_sandbox_killed_while_it_is_probed_is_not_missing(sandbox, monkeypatch):
    real, kills = tiers.probe, []

    def probe(probed):
        if len(kills) < often:
            with probed.zygote() as zygote:
                kills.append(os.kill(zygote.process.pid, signal.SIGKILL))
                zygote.hear(5.0)
        real(probed)

    monkeypatch.setattr(tiers, "probe", probe)
    often = 2
    made = make(SandboxConfig(tier=Tier.landlock))
    assert len(kills) == often
    assert made.description.startswith("landlock: ")
    made.close()
    kills, often = [], 99
    with pytest.raises(SandboxLost, match="the sandbox ended"):  # and not the next best
        make(SandboxConfig())


def test_no_tier_is_an_error_with_cures_and_never_unsafe(monkeypatch):
    monkeypatch.setattr(tiers.shutil, "which", lambda name: None)
    how = tiers.launch(Tier.unsafe, SandboxConfig())
    monkeypatch.setattr(tiers, "launch", lambda *_: how)  # starts, but isolates nothing: the probe must see it
    with pytest.raises(SandboxError) as caught:
        make(SandboxConfig())
    text = str(caught.value)
    assert "bwrap: bubblewrap is not installed" in text
    assert "a program in it can read a file outside, change a file outside" in text
    assert f"kernel {os.uname().release}" in text
    assert "reward.sandbox.tier=unsafe" in text
    with pytest.raises(SandboxError, match=r"reward\.sandbox\.url"):
        make(SandboxConfig(tier=Tier.remote))


def test_further_folders_and_modules(tmp_path):
    (tmp_path / "given.py").write_text("ANSWER = 42\n")
    (tmp_path / "data.txt").write_text("7")
    tmp_path.chmod(0o755)
    source = f"import given\nprint(given.ANSWER, open({str(tmp_path / 'data.txt')!r}).read())"
    for tier in (Tier.landlock, Tier.bwrap):
        try:
            made = make(SandboxConfig(tier=tier, python_path=[str(tmp_path)]))
        except SandboxError:
            continue
        assert outputs(made.run(Job(source, inputs=[""]))) == ["42 7"]
        made.close()
