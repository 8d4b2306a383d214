"""The environments that come with rlcore, in their processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module

import pytest

from rlcore.agents import ENVIRONMENTS
from rlcore.agents.builtin import MODULES
from rlcore.agents.config import EnvironmentConfig
from rlcore.agents.environments import ToolError
from rlcore.agents.setup import describe
from rlcore.agents.tools import InvalidEnvironment
from tests.agents.test_environments import play

CODE = EnvironmentConfig(fn="code_interpreter", concurrency=1, options={"time_limit_s": 2.0})
GYM = EnvironmentConfig(fn="reasoning_gym", concurrency=1, options={"attempts": 2, "again": "No. {left} left.\n"})
SERVER = '''
from mcp.server import MCPServer

server, log = MCPServer("notes"), []


@server.tool()
def note(text: str) -> str:
    """Writes a note."""
    log.append(text)
    return f"{len(log)} notes"


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("out of paper")


server.run("stdio")
'''


def test_every_name_is_registered_by_its_module():
    assert MODULES["code_interpreter"] == "rlcore.agents.builtin.code"
    assert MODULES["mcp"] == "rlcore.agents.builtin.mcp"
    assert MODULES["reasoning_gym"] == "rlcore.agents.builtin.gym"
    for name, module in MODULES.items():
        import_module(module)
        assert ENVIRONMENTS.get(name).__module__ == module


def test_programs_run_in_the_sandbox():
    async def scenario(env):
        await env.reset({})
        found = [await env.call("python", {"code": code}) for code in ("print(12 ** 20)", "print(1 / 0)", "x = 1")]
        return [*found, await env.call("python", {"code": "open('/etc/passwd').read()"})]

    whole, error, nothing, outside = play(scenario, CODE)
    assert whole == f"{12**20}\n"
    assert "ZeroDivisionError" in error
    assert nothing == ""
    assert "Error" in outside
    assert [s["function"]["name"] for s in describe(CODE, chat=True).schemas] == ["python"]


def test_an_endless_program_ends_at_its_limit():
    async def scenario(env):
        await env.reset({})
        return await env.call("python", {"code": "while True: pass"}), await env.call("python", {"code": "print(1)"})

    late, next_one = play(scenario, CODE)
    assert "time" in late.lower()
    assert next_one == "1\n"


def test_a_gym_task_gives_another_attempt():
    pytest.importorskip("reasoning_gym")
    from rlcore.gym_tasks import open_task

    entry = dict(open_task("chain_sum", {}, None, seed=3)[0])
    row = {"task": "chain_sum", "entry": entry, "prompt": entry["question"], "reference": entry["answer"]}

    async def scenario(env):
        found = []
        for answers in (["wrong", entry["answer"]], [entry["answer"]], ["wrong", "wrong"]):
            await env.reset(row)
            replies = [await env.reply(answer) for answer in answers]
            found.append((replies, await env.reward()))
        return found

    assert play(scenario, GYM) == [(["No. 1 left.\n", None], 0.8), ([None], 1.0), (["No. 1 left.\n", None], 0.0)]


@pytest.fixture
def mcp_config(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    options = {"command": sys.executable, "args": [str(tmp_path / "server.py")]}
    return EnvironmentConfig(fn="mcp", concurrency=1, options=options, memory_limit_mb=0)


def test_tools_of_an_mcp_server(mcp_config):
    async def scenario(env):
        found = []
        for _ in range(2):
            await env.reset({})
            found += [await env.call("note", {"text": text}) for text in ("a", "b")]
        with pytest.raises(ToolError, match="Error executing tool fail"):
            await env.call("fail", {})
        return found

    schemas = describe(mcp_config, chat=True).schemas
    assert [s["function"]["name"] for s in schemas] == ["note", "fail"]
    assert schemas[0]["function"]["parameters"]["properties"]["text"]["type"] == "string"
    assert play(scenario, mcp_config) == ["1 notes", "2 notes"] * 2  # a new server for each rollout
    kept = replace(mcp_config, options={**mcp_config.options, "keep": True, "tools": ["note", "fail"]})
    assert play(scenario, kept) == ["1 notes", "2 notes", "3 notes", "4 notes"]


def test_a_tool_that_the_server_lacks_is_named(mcp_config):
    config = replace(mcp_config, options={**mcp_config.options, "tools": ["note", "draw"]})
    with pytest.raises(InvalidEnvironment, match="the server has no tool draw; it has note, fail"):
        describe(config, chat=True)


def test_options_that_the_class_does_not_take_are_named():
    async def scenario(env):
        from rlcore.agents.environments import EnvironmentFailure

        with pytest.raises(EnvironmentFailure, match="unexpected keyword argument 'colour'"):
            await env.reset({})
        return True

    assert play(scenario, replace(CODE, options={"colour": "red"}))
