from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rlcore.agents.config import EnvironmentConfig, ToolFormat
from rlcore.agents.environments import EnvironmentFailure, EnvironmentPool, ToolError
from rlcore.agents.setup import describe
from rlcore.agents.tools import InvalidEnvironment
from rlcore.types import Status

CASES = Path(__file__).parent / "cases.py"
CONFIG = EnvironmentConfig(fn=f"{CASES}:Calculator", concurrency=2, step_timeout_s=20.0)


@asynccontextmanager
async def pool_of(config: EnvironmentConfig = CONFIG):
    pool = EnvironmentPool(config)
    try:
        yield pool
    finally:
        await pool.close()


def play(scenario, config: EnvironmentConfig = CONFIG):
    async def run():
        async with pool_of(config) as pool, pool.environment() as env:
            return await scenario(env)

    return asyncio.run(run())


def test_an_instance_is_reset_and_called():
    async def scenario(env):
        assert await env.reset({"hint": "be quick", "number": 3}) == "be quick"
        assert await env.call("add", {"a": 1, "b": 2.5}) == "3.5"
        assert await env.call("row_of", {"key": "number"}) == "3"
        assert await env.call("slow", {"seconds": 0.01}) == "awake"  # a coroutine
        assert await env.reward() == 1.0
        assert await env.reset({}) is None
        return await env.reward()

    assert play(scenario) == 0.0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("behave", {"how": "raise"}, "ValueError: no such luck"),
        ("add", {"a": 1}, "missing a required argument: 'b'"),
        ("add", {"a": 1, "b": 2, "c": 3}, "unexpected keyword argument 'c'"),
        ("subtract", {}, "there is no tool 'subtract'; the tools are add, row_of, slow, behave"),
        ("reset", {}, "there is no tool 'reset'"),
        ("__init__", {}, "there is no tool"),
    ],
)
def test_an_error_of_a_tool_is_for_the_model(name, arguments, message):
    async def scenario(env):
        await env.reset({})
        with pytest.raises(ToolError, match=message):
            await env.call(name, arguments)
        return await env.call("add", {"a": 1, "b": 1})  # it lives on

    assert play(scenario) == "2"


@pytest.mark.parametrize(
    ("how", "result"),
    [("none", "None"), ("dict", '{"a": [1, 2]}'), ("print", "fine"), ("fork", "fine"), ("fork_hang", "fine")],
)
def test_odd_results(how, result):
    async def scenario(env):
        await env.reset({})
        assert await env.call("behave", {"how": how}) == result
        if how == "print":
            assert env.printed.endswith("the end\n")
            assert len(env.printed) <= 2000
        return await env.call("add", {"a": 1, "b": 1})

    assert play(scenario) == "2"


def test_a_long_result_is_cut():
    async def scenario(env):
        await env.reset({})
        return await env.call("behave", {"how": "long"})

    found = play(scenario, replace(CONFIG, max_result_chars=100))
    assert found == "y" * 100 + "... (99900 more characters)"


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("hang", Status.TIMEOUT, r"Calculator\.behave: no answer within 0.5 s \(environment.step_timeout_s\)"),
        ("exit", Status.ERROR, r"Calculator\.behave: its process exited with code 3"),
        ("sys_exit", Status.ERROR, "exited with code"),
        ("segv", Status.ERROR, "killed by SIGSEGV"),
        ("close_fds", Status.ERROR, "its process"),
        ("garbage", Status.ERROR, "an answer in another form"),
    ],
)
def test_a_failure_has_a_status_and_ends_the_process(how, status, text):
    async def scenario(env):
        await env.reset({})
        with pytest.raises(EnvironmentFailure, match=text) as caught:
            await env.call("behave", {"how": how})
        assert caught.value.status is status
        assert not psutil.pid_exists(env._pid)
        return True

    assert play(scenario, replace(CONFIG, step_timeout_s=0.5 if how == "hang" else 20.0))


def test_too_much_memory_is_an_error_of_the_tool():
    async def scenario(env):
        await env.reset({})
        with pytest.raises(ToolError, match="MemoryError"):
            await env.call("behave", {"how": "memory"})
        return True

    assert play(scenario, replace(CONFIG, memory_limit_mb=1024))


def test_a_reset_that_raises_is_a_failure():
    async def scenario(env):
        with pytest.raises(EnvironmentFailure, match=r"Broken\.reset: RuntimeError: no board"):
            await env.reset({})
        return env.dead and not psutil.pid_exists(env._pid)

    assert play(scenario, replace(CONFIG, fn=f"{CASES}:Broken"))


def test_a_registered_name_is_found_in_the_files():
    async def scenario(env):
        await env.reset({})
        return await env.call("add", {"a": 1, "b": 1})

    assert play(scenario, replace(CONFIG, fn="calculator", files=[str(CASES)])) == "2"


def test_processes_are_reused_bounded_and_all_end():
    async def scenario():
        async with pool_of() as pool:
            zygote, pids, at_once = pool._zygote.process.pid, set(), [0, 0]

            async def one():
                async with pool.environment() as env:
                    at_once[0] += 1
                    at_once[1] = max(at_once)
                    pids.add(env._pid)
                    await env.reset({})
                    await env.call("slow", {"seconds": 0.2})
                    at_once[0] -= 1

            await asyncio.gather(*(one() for _ in range(8)))
        return zygote, pids, at_once[1]

    zygote, pids, most = asyncio.run(scenario())
    assert most == 2
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in (zygote, *pids))


def test_a_killed_zygote_is_replaced():
    async def scenario():
        async with pool_of() as pool:
            os.kill(pool._zygote.process.pid, 9)
            for _ in range(2):  # the first process may still have been forked by the old one
                async with pool.environment() as env:
                    await env.reset({})
                    found = await env.call("add", {"a": 1, "b": 1})
        return found

    assert asyncio.run(scenario()) == "2"


def test_a_cancelled_call_leaves_no_process():
    async def scenario():
        async with pool_of() as pool:

            async def one(seen):
                async with pool.environment() as env:
                    seen.append(env)
                    await env.reset({})
                    await env.call("behave", {"how": "hang"})

            seen: list = []
            task = asyncio.create_task(one(seen))
            await asyncio.sleep(1.0)
            task.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - begun, psutil.pid_exists(seen[0]._pid)

    seconds, alive = asyncio.run(scenario())
    assert seconds < 10
    assert not alive


def test_description_of_a_class():
    found = describe(CONFIG, chat=True)
    assert [s["function"]["name"] for s in found.schemas] == ["add", "row_of", "slow", "behave"]
    assert (found.name, found.reply, found.get_reward) == ("Calculator", False, True)
    found = describe(replace(CONFIG, fn=f"{CASES}:Guess"), chat=False)
    assert (list(found.schemas), found.reply, found.get_reward) == ([], True, False)


@pytest.mark.parametrize(
    ("changes", "chat", "text"),
    [
        ({"fn": f"{CASES}:Calculater"}, True, r"no function 'Calculater' \(did you mean 'Calculator'"),
        ({"fn": "nowhere.py:Env"}, True, "nowhere.py does not exist"),
        ({"fn": "calculater"}, True, "no environment is named 'calculater'"),
        ({}, False, r"tools of Calculator \(add, row_of, slow, behave\) are shown to the model by a chat template"),
        ({"tools": ToolFormat.text}, True, "needs an environment with reply"),
    ],
)
def test_what_cannot_play_is_refused_at_start(changes, chat, text):
    with pytest.raises(InvalidEnvironment, match=text):
        describe(replace(CONFIG, **changes), chat)


def test_another_interpreter_has_its_own_packages(tmp_path):
    """A wrapper of this one: what the environment sees of it, and not of this process's sys.path."""
    python, file = tmp_path / "python", tmp_path / "env.py"
    python.write_text(f'#!/bin/sh\nWRAPPED=yes exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    file.write_text(
        "import os, sys\nclass Env:\n    def reset(self): pass\n"
        "    def reply(self, text):\n        return f\"{os.environ.get('WRAPPED')} {'/nowhere' in sys.path}\"\n"
    )

    async def scenario(env):
        await env.reset({})
        return await env.reply("")

    sys.path.append("/nowhere")
    try:
        config = replace(CONFIG, fn=f"{file}:Env")
        assert play(scenario, config) == "None True"
        assert play(scenario, replace(config, python=str(python))) == "yes False"
    finally:
        sys.path.remove("/nowhere")
    with pytest.raises(InvalidEnvironment, match=r"environment\.python=/no/python cannot be started"):
        describe(replace(config, python="/no/python"), chat=False)
