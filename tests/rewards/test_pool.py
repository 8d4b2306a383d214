"""Cases of rewards."""

import json
import os
import re
import signal
import threading
import time

import pytest

from rlcore.rewards.pool import Item, Term, VerifierPool
from rlcore.rewards.registry import RewardError
from rlcore.types import RewardInput, RewardResult, Status
from tests.rewards.cases import USER, act, gone

MATH = (Term("math"),)


def math(response: str, reference: str = r"\sqrt{5}") -> Item:
    return Item(MATH, RewardInput("p", response, reference))


def all_pids(pool) -> list[int]:
    pids = pool.pids()
    return [pids["zygote"], *pids["workers"]]


def test_results_in_order_across_chunks_and_processes():
    with VerifierPool(num_processes=3, timeout_s=20.0) as many:
        futures = [many.submit([math(str(i), str(i if i % 3 else -1)) for i in range(50)]) for _ in range(4)]
        for future in futures:
            assert [r.score for r in future.result(60)] == [float(i % 3 != 0) for i in range(50)]
    assert many.submit([math("1")]).exception(5).args[0] == "the verifier pool is closed"


def test_empty_submit(pool):
    assert pool.submit([]).result(1) == []


def test_a_hang_costs_its_own_sample_only(pool):
    started = time.monotonic()
    results = pool.submit(act("fine", "hang", "fine", "spin", "true", "hang_deaf", "fine")).result(60)
    assert [r.status.value for r in results] == ["ok", "timeout", "ok", "timeout", "ok", "timeout", "ok"]
    assert [r.score for r in results] == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert "reward.timeout_s" in results[1].info["error"]
    assert time.monotonic() - started >= 3.0, "three limits of one second"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("raise", "KeyError: 'no such column'"),
        ("none", "returned None"),
        ("nan", "returned nan"),
        ("inf", "returned inf"),
        ("huge", "returned inf"),
        ("text", "returned the str '1.0'"),
        ("list", "returned a list"),
        ("bad_result", "score is a str"),
        ("nan_part", "returned nan"),
        ("exit", "must return, not exit"),
        ("recursion", "RecursionError"),
        ("crash", "died while scoring this sample: killed by SIGSEGV"),
        ("hard_exit", "exited with code 7"),
        ("memory", "MemoryError.*reward.memory_limit_mb.*the limit is 1024 MB"),
        ("unheard_of", "KeyError: 'unheard_of'"),
    ],
)
def test_failures_are_errors_of_their_sample(pool, action, message):
    before, broken, after = pool.submit(act("fine", action, "fine")).result(60)
    assert before == after == RewardResult(1.0, parts={"misbehave": 1.0})
    assert broken.status is Status.ERROR
    assert broken.score == 0.0
    assert re.search(message, broken.info["error"])


def test_out_of_memory_as_last_sample_of_a_chunk(pool):
    assert pool.submit(act("memory")).result(30)[0].status is Status.ERROR
    assert pool.submit(act("fine")).result(30)[0].score == 1.0


def test_unparsable_passes(pool):
    result = pool.submit(act("unparsable")).result(30)[0]
    assert result.status is Status.UNPARSABLE
    assert result.info["error"] == "the row is broken"


def test_options_async_neighbours_and_several_terms(pool):
    terms = (
        Term("length", f"{USER}:length", weight=2.0, options={"scale": 0.5}),
        Term("slow_but_fine", f"{USER}:slow_but_fine", weight=-1.0),
        Term("with_neighbour", f"{USER}:with_neighbour"),
        Term("math"),
    )
    result = pool.submit([Item(terms, RewardInput("p", "42", "42"))]).result(30)[0]
    assert result.parts == {"length": 1.0, "slow_but_fine": 0.5, "with_neighbour": 0.25, "math": 1.0}
    assert result.score == pytest.approx(2.0 - 0.5 + 0.25 + 1.0)


def test_environment_is_small_and_extended_by_name(monkeypatch):
    monkeypatch.setenv("SECRET_THING", "1")
    monkeypatch.setenv("JUDGE_KEY", "2")
    monkeypatch.setenv("RLCORE_REWARD_ENV", "JUDGE_KEY")
    with VerifierPool(timeout_s=20.0) as own:
        seen = json.loads(own.submit(act("environment")).result(60)[0].info["env"])
    assert "JUDGE_KEY" in seen
    assert "PATH" in seen
    assert "SECRET_THING" not in seen


def test_working_directory_and_relative_paths(tmp_path):
    (tmp_path / "here.py").write_text("import os\ndef f(sample):\n    return float(os.path.isfile('here.py'))\n")
    with VerifierPool(timeout_s=20.0, cwd=str(tmp_path)) as own:
        assert own.submit([Item((Term("f", "here.py:f"),), RewardInput("p", "r"))]).result(60)[0].score == 1.0


def test_names_registered_in_imported_files():
    item = Item((Term("registered_in_file"),), RewardInput("p", "r"))
    with VerifierPool(timeout_s=20.0, imports=[f"{USER}:length"]) as own:
        assert own.submit([item]).result(60)[0].score == 0.25
    with VerifierPool(timeout_s=20.0) as own:
        result = own.submit([item]).result(60)[0]
    assert result.status is Status.ERROR
    assert "no reward is named 'registered_in_file'" in result.info["error"]


def test_items_that_cannot_be_sent_fail_their_future_only(pool):
    bad = Item(MATH, RewardInput("p", "1", "1", metadata={"lock": threading.Lock()}))
    with pytest.raises(TypeError, match="pickle"):
        pool.submit([bad]).result(30)
    assert pool.submit([math("1", "1")]).result(30)[0].score == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "1E999999999",
        r"\boxed{10^{999999999}}",
        r"9^{9^{9^{9}}}",
        r"\boxed{9^{9^{9999}}}",
        r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
        r"\boxed{" + r"\frac{1}{" * 200 + "2" + "}" * 200 + "}",
        r"\boxed{" + r"\sqrt{" * 35 + "x" + "}" * 35 + "}",
        r"\boxed{99999999!}",
        r"\boxed{((9999!)!)!}",
        r"\boxed{(x+y+z+w)^{9999}}",
        r"\boxed{\sum_{n=1}^{9999999} \frac{1}{n^2}}",
        r"\boxed{\int_0^1 x^{x^{x}} dx}",
        r"\boxed{\prod_{k=1}^{99999} k}",
        r"\boxed{\binom{9999999}{4999999}}",
        r"\boxed{__import__('os').system('touch hacked')}",
        "9" * 100_000,
        r"\boxed{" + "9" * 900 + "!}",
        "$" * 20_000,
        "<think>" * 10_000,
        r"\boxed{" * 10_000,
        "the answer is " * 10_000,
        "1," * 20_000,
        " " * 100_000 + "1",
        "((((" * 10_000,
        "\x00\ud800\udfff",
    ],
    ids=lambda r: r[:24].strip() or "blank",
)
def test_hostile_answers_neither_hang_nor_win(pool, response):
    hostile, after = pool.submit([math(response), math(r"\sqrt{5}")]).result(60)
    assert hostile.score == 0.0
    assert hostile.status in (Status.OK, Status.TIMEOUT, Status.ERROR)
    assert after == RewardResult(1.0, parts={"math": 1.0}, info={"extracted": r"\sqrt{5}"})


def test_many_groups_at_once(pool):
    groups = [[math(str(i), "7") for i in range(8)] for _ in range(64)]
    for future in [pool.submit(group) for group in groups]:
        assert [result.score for result in future.result(30)] == [float(i == 7) for i in range(8)]


def test_seconds_of_each_sample(pool):
    seconds: list[float] = [9.0]
    items = [*act("fine", "hang", "hard_exit"), Item((Term("sleep", f"{USER}:slow_but_fine"),), RewardInput("p", "r"))]
    pool.submit(items, seconds).result(60)
    assert len(seconds) == 4
    assert seconds[0] < seconds[1]
    assert seconds[1] == pytest.approx(1.0)
    assert 0 <= seconds[2] < 1.0
    assert seconds[3] >= 0.01


def test_smoke_passes_scores_and_refuses_failures(pool):
    assert pool.smoke(act("fine"))[0].score == 1.0
    assert pool.smoke(act("unparsable"))[0].status is Status.UNPARSABLE
    for action, message in [("raise", "no such column"), ("none", "None"), ("text", "str"), ("hang", "no verdict")]:
        with pytest.raises(RewardError, match=f"check before the start failed.*misbehave.*{message}"):
            pool.smoke(act(action))
    with pytest.raises(RewardError, match=r"no_file\.py does not exist"):
        pool.smoke([Item((Term("f", "no_file.py:f"),), RewardInput("p", "r"))])
    with pytest.raises(RewardError, match="did you mean 'math'"):
        pool.smoke([Item((Term("mth"),), RewardInput("p", "r"))])


def test_smoke_lets_none_pass_where_it_will_be_masked(pool):
    for terms in (None, (Term("misbehave", f"{USER}:misbehave"), Term("length", f"{USER}:length"))):
        [item] = act("none")
        item = item if terms is None else Item(terms, item.input)
        assert pool.smoke([item], none_counts=False)[0].status is Status.ERROR
        with pytest.raises(RewardError, match="returned None"):
            pool.smoke([item])
    with pytest.raises(RewardError, match="no such column"):
        pool.smoke(act("raise"), none_counts=False)


def test_an_import_inside_a_reward_takes_its_time(tmp_path):
    """Longer than the limit of a sample, and once more by another name, nested, and one that fails."""
    (tmp_path / "heavy_inner.py").write_text("import time\ntime.sleep(1.5)\n")
    (tmp_path / "heavy.py").write_text("import time, heavy_inner\ntime.sleep(1.5)\n")
    (tmp_path / "broken.py").write_text("import time\ntime.sleep(1.5)\nraise ImportError('an extra is missing')\n")
    (tmp_path / "lazy.py").write_text(
        "import time\n"
        "def f(sample):\n    import heavy\n    return 1.0\n"
        "def g(sample):\n    try:\n        import broken\n    except ImportError:\n        return 0.5\n"
        "def h(sample):\n    try:\n        import broken\n    except ImportError:\n        time.sleep(60)\n"
    )
    with VerifierPool(timeout_s=1.0, cwd=str(tmp_path)) as own:
        for name, score in (("f", 1.0), ("g", 0.5)):
            [result] = own.submit([Item((Term(name, f"lazy.py:{name}"),), RewardInput("p", "r"))]).result(60)
            assert (result.status, result.score) == (Status.OK, score)
        [late] = own.submit([Item((Term("h", "lazy.py:h"),), RewardInput("p", "r"))]).result(30)
        assert late.status is Status.TIMEOUT


def test_close_leaves_no_process_and_fails_what_waits():
    own = VerifierPool(num_processes=2, timeout_s=60.0)
    own.submit(act("fine")).result(60)
    running = own.submit(act("hang"))
    waiting = [own.submit(act("hang")) for _ in range(4)]
    time.sleep(0.3)
    pids = all_pids(own)
    assert len(pids) == 3
    own.close()
    own.close()
    assert gone(pids)
    assert own._zygote.process.returncode == 0
    for future in (running, *waiting):
        assert isinstance(future.exception(5), RewardError)
    assert not [t for t in own._threads if t.is_alive()]


@pytest.mark.parametrize("victim", ["zygote", "worker"])
def test_survives_a_kill_from_outside(victim):
    with VerifierPool(timeout_s=20.0) as own:
        own.submit(act("fine")).result(60)
        pids = all_pids(own)
        os.kill(pids[0] if victim == "zygote" else pids[1], signal.SIGKILL)
        assert gone(pids[1:])
        assert [r.score for r in own.submit(act("fine", "fine")).result(60)] == [1.0, 1.0]
        assert all_pids(own)[1:] != pids[1:]


def test_a_zygote_killed_at_work_is_not_the_samples_fault():
    with VerifierPool(timeout_s=20.0) as own:
        own.submit(act("fine")).result(60)
        (first_zygote, worker) = all_pids(own)
        slow = Item((Term("sleep", f"{USER}:sleepy"),), RewardInput("p", "r"))
        future = own.submit([slow])
        time.sleep(0.3)
        os.kill(first_zygote, signal.SIGKILL)
        assert future.result(60)[0].score == 1.0
        assert gone([first_zygote, worker])


def test_processes_end_when_their_owner_is_killed(tmp_path):
    import subprocess
    import sys

    script = (
        "import time\nfrom rlcore.rewards.pool import *\nfrom rlcore.types import RewardInput\n"
        "pool = VerifierPool(timeout_s=60)\n"
        "pool.submit([Item((Term('math'),), RewardInput('p', '1', '1'))]).result()\n"
        "print(pool.pids()['zygote'], *pool.pids()['workers'], flush=True)\ntime.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    owner.kill()
    owner.wait()
    assert gone(pids)
    owner.stdout.close()


def test_descriptors_do_not_leak_over_many_respawns():
    with VerifierPool(timeout_s=20.0) as own:
        own.submit(act("fine")).result(60)
        before = len(os.listdir("/proc/self/fd"))
        assert {r.status for r in own.submit(act(*["hard_exit"] * 20)).result(60)} == {Status.ERROR}
        own.submit(act("fine")).result(60)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        assert len(all_pids(own)) == 2


@pytest.mark.parametrize(("key", "value"), [("num_processes", 0), ("timeout_s", 0.0), ("memory_limit_mb", -1)])
def test_impossible_limits(key, value):
    with pytest.raises(ValueError, match=key):
        VerifierPool(**{key: value})
