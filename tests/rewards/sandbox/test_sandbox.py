"""Hostile programs in the sandbox, and the sandbox inside of the verifier pool."""

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rlcore.rewards.pool import Item, Term, VerifierPool
from rlcore.rewards.sandbox import Ending, Job, Limits
from rlcore.types import RewardInput, Status
from tests.rewards.corpora.code_confined import DEADLINE_S
from tests.rewards.corpora.code_hostile import HOSTILE as FIRST
from tests.rewards.corpora.code_hostile_more import MORE
from tests.rewards.sandbox.cases import ADD, STDIN, children, hostile, outputs

HOSTILE = FIRST + MORE
ATTEMPTS = [  # the default suite meets each kind but `exhaust`, which waits for limits, in at least one tier
    pytest.param(tier, kinds, marks=() if usual else pytest.mark.slow, id=f"{tier}-{'-'.join(kinds)}")
    for tier, kinds, usual in [
        ("landlock", ("leak", "act"), True),
        ("landlock", ("forge", "call", "check", "hand"), True),
        ("landlock", ("exhaust",), False),
        ("bwrap", ("leak", "act"), True),
        ("bwrap", ("forge", "call", "check", "hand"), False),
        ("bwrap", ("exhaust",), False),
    ]
]
FIGURES = ("sandbox", "canary", "connected", "processes", "descriptors", "threads", "scratch", "files", "memory_mb")


def check(answer):
    assert [r for r in answer["results"] if r[1] > 0] == []
    assert answer["canary"], "the canary was changed"
    assert not answer["connected"]
    assert answer["processes"] == []
    assert answer["descriptors"][1] <= answer["descriptors"][0] + 2  # a second zygote for asserts
    assert answer["threads"] == 1
    assert answer["scratch"] == []
    assert answer["files"] == []
    assert answer["memory_mb"] < 64


def test_the_corpus_is_large_enough():
    assert len(HOSTILE) >= 200
    assert len({name for name, *_ in HOSTILE}) == len(HOSTILE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tier", "kinds"), ATTEMPTS)
def test_hostile_programs_neither_score_nor_stay(tier, kinds):
    answer = hostile(tier, [entry for entry in HOSTILE if entry[1] in kinds], timeout_s=500.0)
    check(answer)
    assert answer["sandbox"].startswith(tier)
    assert {r[2] for r in answer["results"]} <= {"ok", "timeout"}, [r for r in answer["results"] if r[2] == "error"]
    late = [r for r in answer["results"] if r[3] > DEADLINE_S + 1]
    assert late == []


def test_the_harness_sees_a_leak():
    """Without isolation the harmless ones among the attempts succeed: the tests above can fail."""
    names = ("leak-open", "leak-thread", "leak-ctypes-open", "act-append", "act-fork", "act-create-outside")
    answer = hostile("unsafe", [entry for entry in HOSTILE if entry[0] in names])
    assert [r[1] for r in answer["results"]] == [1.0] * len(names)
    assert not answer["canary"]
    assert len(answer["files"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tier", ["landlock", "bwrap"])
def test_a_thousand_hostile_programs(tier, capsys):
    quick = [entry for entry in HOSTILE if entry[1] != "exhaust" and "hang" not in entry[0]]
    answer = hostile(tier, quick, rounds=1000 // len(quick) + 1, timeout_s=1500.0)
    late = max(r[3] for r in answer["results"]) - DEADLINE_S
    scored, statuses = sum(r[1] > 0 for r in answer["results"]), Counter(r[2] for r in answer["results"])
    figures = {"verdicts": len(answer["results"]), "scored": scored, "statuses": statuses}
    figures |= {name: answer[name] for name in FIGURES} | {"latest_beyond_deadline_s": round(late, 2)}
    with capsys.disabled():
        print("\n", json.dumps({**figures, "memory_mb": round(answer["memory_mb"], 1)}))
    assert len(answer["results"]) >= 1000
    check(answer)
    assert late <= 1.0


def test_threads_share_a_sandbox(sandbox):
    found: list[list[str]] = []

    def work(n):
        for i in range(4):
            found.append([str(n * 10 + i + 1), *outputs(sandbox.run(Job(ADD.source, inputs=[str(n * 10 + i)])))])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 24
    assert all(expected == output for expected, output in found)


def test_limits_reach_the_program(sandbox):
    source = "import resource as r\nprint(r.getrlimit(r.RLIMIT_AS)[1] >> 20, r.getrlimit(r.RLIMIT_FSIZE)[1] >> 20)"
    assert outputs(sandbox.run(Job(source, inputs=[""], limits=Limits(memory_mb=321, output_mb=7)))) == ["321 7"]


def test_nothing_of_the_verifier_is_in_the_program(sandbox, monkeypatch):
    monkeypatch.setenv("A_SECRET", "1")
    source = "import os, sys\nprint(dict(os.environ), sorted(m for m in sys.modules if 'rlcore' in m), sys.argv)"
    assert outputs(sandbox.run(Job(source, inputs=[""]))) == ["{} [] ['solution.py']"]
    assert sandbox.run(Job("import os\nprint(os.listdir('/proc/self/fd'))", inputs=[""]))[0].ending is Ending.error


def test_inside_the_verifier_pool(tmp_path):
    """In a worker with an address-space limit; a killed worker takes its zygote along."""
    rows = [
        RewardInput("p", "```python\nprint(int(input()) + 1)\n```", metadata={"tests": STDIN}),
        RewardInput("p", "```python\nprint(1)\n```", metadata={"tests": STDIN}),
        RewardInput("p", "```python\nx = bytearray(10**10)\n```", metadata={"tests": STDIN}),
        RewardInput("p", "no program!", metadata={"tests": STDIN}),
    ]
    (tmp_path / "own.py").write_text("from rlcore.rewards.code import _code as code\n")
    terms = (Term("code", f"{tmp_path / 'own.py'}:code"),)
    with VerifierPool(num_processes=1, timeout_s=40.0, memory_limit_mb=1024) as pool:
        results = pool.submit([Item(terms, row) for row in rows]).result(120)
        assert [r.status for r in results] == [Status.OK] * 4
        assert [r.score for r in results] == [1.0, 0.0, 0.0, 0.0]
        (worker,) = pool.pids()["workers"]
        zygotes = children(worker)
        assert zygotes
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.5)
        assert pool.submit([Item(terms, rows[0])]).result(120)[0].score == 1.0
        (worker,) = pool.pids()["workers"]
        zygotes += children(worker)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in zygotes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in zygotes if Path(f"/proc/{pid}").exists()]
