from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from rlcore import metrics as M
from rlcore.agents.capture import CaptureServer, Session
from rlcore.agents.config import Overlong
from rlcore.agents.renderers import ChatRenderer
from rlcore.interfaces import Sampling
from rlcore.types import Prompt, Status
from tests.agents.cases import ADD
from tests.agents.conftest import ScriptedEngine, with_template
from tests.agents.test_rollouts import CALCULATOR, CASES, adds, agents, prompts


@pytest.fixture(scope="module")
def qwen(plain_tokenizer):
    return with_template(plain_tokenizer, "qwen")


@asynccontextmanager
async def served(tokenizer, answer, host: str = "127.0.0.1", **limits):
    engine, server = ScriptedEngine(tokenizer, answer), CaptureServer(host)

    async def ask(context, most):
        prompt = Prompt("p", tuple(context.tolist()), "")
        return engine.submit(prompt, Sampling(1, most)).result().trajectories[0]

    limits = {"max_tokens": 2000, "max_new_tokens": 400, "max_turns": 8} | limits
    session = Session(lambda tools: ChatRenderer(tokenizer, tools), ask, **limits)
    await server.start()
    try:
        async with server.session(session) as url:
            yield url, session, server
    finally:
        await server.close()


def post(url: str, body: object, key: str = "") -> dict:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", data, headers), timeout=30) as reply:
        return json.loads(reply.read())


def error_of(call) -> tuple[int, dict]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        call()
    return caught.value.code, json.loads(caught.value.read())["error"]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def test_the_openai_client_plays_two_turns_and_its_tokens_are_trained(qwen):
    from openai import OpenAI

    async def scenario():
        async with served(qwen, adds) as (url, session, _):

            def play():
                client = OpenAI(base_url=url, api_key="none")
                assert [m.id for m in client.models.list()] == ["policy"]
                messages = [user("What is 3 + 4?")]
                first = client.chat.completions.create(model="policy", messages=messages, tools=[ADD], logprobs=True)
                (call,) = first.choices[0].message.tool_calls
                assert (first.choices[0].finish_reason, call.function.name) == ("tool_calls", "add")
                assert json.loads(call.function.arguments) == {"a": 3, "b": 4}
                assert all(entry.logprob == -0.25 for entry in first.choices[0].logprobs.content)
                messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "7"}]
                second = client.chat.completions.create(model="policy", messages=messages, tools=[ADD])
                assert second.choices[0].message.content == "It is 7."
                assert second.choices[0].finish_reason == "stop"
                assert second.choices[0].logprobs is None
                return first.usage.completion_tokens + second.usage.completion_tokens

            sampled = await asyncio.to_thread(play)
            return session.record.trajectories(Prompt("p", (), ""), "p#0.0", "stop"), sampled

    (trajectory,), sampled = asyncio.run(scenario())
    assert trajectory.loss_mask.sum() == sampled
    text = qwen.decode(trajectory.tokens)
    assert text.count("<|im_start|>assistant\n") == 2
    assert "<tool_response>\n7\n</tool_response>" in text
    assert trajectory.text == "It is 7."
    assert (trajectory.versions[trajectory.loss_mask] == 3).all()


def test_a_branch_is_a_trajectory_of_its_own_from_the_same_tokens(qwen):
    async def scenario():
        async with served(qwen, lambda text: f"turn {text.count('<|im_start|>assistant')}") as (url, session, _):
            history = [user("Begin.")]
            first = (await asyncio.to_thread(post, url, {"messages": history}))["choices"][0]["message"]
            for branch in ("left", "right"):
                await asyncio.to_thread(post, url, {"messages": [*history, first, user(branch)]})
            await asyncio.to_thread(post, url, {"messages": [user("Another agent.")]})
            return session.record.trajectories(Prompt("p", (), ""), "p#0.0", "stop")

    left, right, other = asyncio.run(scenario())
    assert left.loss_mask.sum() > right.loss_mask.sum() > 0
    shared = right.num_prompt_tokens
    assert not right.loss_mask[:shared].any()
    begun = int(np.flatnonzero(left.loss_mask)[0])
    np.testing.assert_array_equal(left.tokens[: begun + 3], right.tokens[: begun + 3])  # the first turn's tokens
    assert "Another agent." in qwen.decode(other.tokens)
    assert other.rollout_id == left.rollout_id


def test_a_rewritten_history_begins_a_new_trajectory(qwen):
    async def scenario():
        async with served(qwen, lambda _: "first words") as (url, session, _):
            reply = (await asyncio.to_thread(post, url, {"messages": [user("Begin.")]}))["choices"][0]["message"]
            summary = [user("Begin."), {**reply, "content": "a summary"}, user("Go on.")]
            await asyncio.to_thread(post, url, {"messages": summary})
            return session.record

    record = asyncio.run(scenario())
    assert record.breaks == 1
    assert "a summary" in qwen.decode(record.contexts[1].begin)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not JSON"),
        ([1], "must be an object"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": ""}]}, "a role of"),
        ({"messages": [user("?")], "n": 2}, "n must be 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of type text"),
        ({"messages": [user("?")], "tools": "add"}, "tools must be a list"),
        ({"messages": [user("?")], "max_tokens": -1}, "positive"),
    ],
)
def test_a_malformed_request_is_refused_by_name(qwen, body, text):
    async def scenario():
        async with served(qwen, lambda _: "ok") as (url, session, _):
            found = await asyncio.to_thread(error_of, lambda: post(url, body))
            assert not session.record.contexts
            return found

    status, error = asyncio.run(scenario())
    assert status == 400
    assert text in error["message"]


def test_no_room_and_no_turns_left_are_errors_of_openais_form(qwen):
    async def scenario():
        async with served(qwen, lambda _: "ok", max_tokens=60, max_turns=2) as (url, session, _):
            first = await asyncio.to_thread(error_of, lambda: post(url, {"messages": [user("word " * 100)]}))
            assert (await asyncio.to_thread(post, url, {"messages": [user("?")], "max_tokens": 1}))["choices"][0][
                "finish_reason"
            ] == "length"
            second = await asyncio.to_thread(error_of, lambda: post(url, {"messages": [user("?")]}))
            return first, second, session.overlong

    first, second, overlong = asyncio.run(scenario())
    assert first[1]["code"] == "context_length_exceeded"
    assert second[1]["code"] == "max_turns"
    assert overlong


def test_unknown_sessions_and_wrong_keys_are_refused(qwen):
    async def scenario():
        async with served(qwen, lambda _: "ok", host="0.0.0.0") as (url, _, server):
            local, body = url.replace("0.0.0.0", "127.0.0.1"), {"messages": [user("?")]}
            wrong = await asyncio.to_thread(error_of, lambda: post(local, body, "guess"))
            assert (await asyncio.to_thread(post, local, body, server.token))["choices"]
            other = await asyncio.to_thread(
                error_of, lambda: post(local.replace("/session/", "/session/x"), body, server.token)
            )
            return wrong, other

    wrong, other = asyncio.run(scenario())
    assert (wrong[0], wrong[1]["code"]) == (401, "invalid_api_key")
    assert (other[0], other[1]["code"]) == (404, "session_not_found")


@pytest.mark.parametrize(("fn", "score"), [("adder", 2.0), ("openai_agent", 1.0)])
def test_rollout_functions_are_captured(qwen, fn, score):
    with agents(qwen, adds, replace(CALCULATOR, fn=f"{CASES}:{fn}")) as (rollouts, engine):
        groups = list(rollouts.generate(prompts(3), Sampling(2, 400)))
        metrics = M.values(rollouts.metrics())
    for group in groups:
        for t in group.trajectories:
            assert t.reward.ok, t.reward
            assert t.reward.score == score
            assert t.text == f"It is {group.prompt.reference}."
            assert t.tokens.tolist() in [[*context, *ids] for context, ids in engine.seen]
            assert qwen.decode(t.tokens[t.loss_mask]).count("<|im_end|>") == 2
    assert (metrics["agent/turns"], metrics["agent/calls"], metrics["agent/breaks"]) == (2, 1, 0)


def test_a_function_that_never_calls_is_a_failure(qwen):
    with agents(qwen, adds, replace(CALCULATOR, fn=f"{CASES}:idle", retries=0)) as (rollouts, _):
        (group,) = rollouts.generate(prompts(1), Sampling(1, 400))
    assert group.trajectories[0].reward.status is Status.ERROR
    assert "without a call of the model" in group.trajectories[0].reward.info["error"]


def test_limits_of_a_session_are_those_of_the_config(qwen):
    config = replace(CALCULATOR, fn=f"{CASES}:talker", max_turns=5, on_overlong=Overlong.keep)
    with agents(qwen, lambda _: "ok", config) as (rollouts, engine):
        (group,) = rollouts.generate(prompts(1), Sampling(1, 400))
    (t,) = group.trajectories
    assert (len(engine.seen), t.finish_reason, t.reward) == (5, "length", None)


def test_an_error_of_the_engines_is_no_failure_of_the_agent(qwen):
    def fails(_: str) -> str:
        raise RuntimeError("the engine is gone")

    with (
        agents(qwen, fails, replace(CALCULATOR, fn=f"{CASES}:adder")) as (rollouts, _),
        pytest.raises(RuntimeError, match="the engine is gone"),
    ):
        list(rollouts.generate(prompts(1), Sampling(1, 400)))
