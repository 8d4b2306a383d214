from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rlcore import metrics as M
from rlcore.agents.config import EnvironmentConfig, Overlong
from rlcore.agents.environments import EnvironmentPool
from rlcore.agents.rollouts import AgentRollout, OverlongRollout
from rlcore.agents.setup import describe, make_player
from rlcore.data.sources.config import DataConfig
from rlcore.data.sources.render import MESSAGES
from rlcore.interfaces import RolloutAbandoned, Sampling
from rlcore.types import Prompt, Status
from tests.agents.conftest import ScriptedEngine, with_template

CASES = Path(__file__).parent / "cases.py"
CALCULATOR = EnvironmentConfig(fn=f"{CASES}:Calculator", concurrency=8, step_timeout_s=20.0)
RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>[^<]*<\|im_end\|>\n<\|im_start\|>assistant\n$", re.DOTALL)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": %d, "b": %d}}\n</tool_call>'


def adds(text: str) -> str:
    """A model that calls the tool for `a + b`, and repeats its result."""
    if found := RESULT.search(text):
        return f"It is {found[1]}."
    a, b = map(int, re.findall(r"(\d+) \+ (\d+)\?", text)[-1])
    return "Let me see.\n" + CALL % (a, b)


@cache
def described(fn: str, chat: bool):
    """Once per class: its process imports transformers for the schemas."""
    return describe(replace(CALCULATOR, fn=fn), chat)


@contextmanager
def agents(tokenizer, answer: Callable[[str], str], config: EnvironmentConfig = CALCULATOR, chat: bool = True):
    engine = ScriptedEngine(tokenizer, answer)
    data = DataConfig(chat_template=chat)
    player = make_player(config, described(config.fn, chat), data, tokenizer, 2000)
    rollouts = AgentRollout(engine, config, player, lambda: EnvironmentPool(config))
    try:
        yield rollouts, engine
    finally:
        rollouts.close()


def prompts(count: int, **row) -> list[Prompt]:
    texts = [f"What is {i} + {2 * i}?" for i in range(count)]
    return [
        Prompt(f"p{i}", (), text, str(3 * i), metadata={**row, MESSAGES: [{"role": "user", "content": text}]})
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def qwen(plain_tokenizer):
    return with_template(plain_tokenizer, "qwen")


def test_turns_and_tools_make_one_trajectory_of_exact_tokens(qwen):
    with agents(qwen, adds) as (rollouts, engine):
        groups = list(rollouts.generate(prompts(3), Sampling(2, 400, step=5)))
        metrics = M.values(rollouts.metrics())
    assert sorted(g.prompt.uid for g in groups) == ["p0", "p1", "p2"]
    for group in groups:
        assert [t.sample_id for t in group.trajectories] == [f"{group.prompt.uid}#5.{k}" for k in (0, 1)]
        for t in group.trajectories:
            assert t.rollout_id == t.sample_id
            assert t.text == f"It is {group.prompt.reference}."
            assert [turn["role"] for turn in t.turns] == ["assistant", "tool", "assistant"]
            assert t.turns[1] == {"role": "tool", "text": group.prompt.reference, "name": "add"}
            assert (t.reward.score, t.reward.parts) == (1.0, {"environment": 1.0})
            sampled = np.flatnonzero(t.loss_mask)
            assert (t.rollout_logprobs[sampled] == -0.25).all()
            assert (t.rollout_logprobs[~t.loss_mask] == 0).all()
            assert (t.versions == np.where(t.loss_mask, 3, -1)).all()
            # what was sampled is in the trajectory, after the context in which it was sampled
            assert t.tokens.tolist() in [[*context, *ids] for context, ids in engine.seen]
            assert t.tokens[: sampled[0]].tolist() in [list(context) for context, _ in engine.seen]
            assert qwen.decode(t.tokens[t.loss_mask]).count("<|im_end|>") == 2  # each turn's end was sampled
    assert metrics["agent/turns"] == 2
    assert metrics["agent/calls"] == 1
    assert metrics["agent/breaks"] == 0
    assert metrics["agent/tool_errors"] == 0


def test_the_environment_gets_the_row(qwen):
    def asks(text: str) -> str:
        return "done" if "<tool_response>" in text else CALL.replace("add", "row_of").replace(
            '{"a": %d, "b": %d}', '{"key": "answer"}'
        )

    with agents(qwen, asks) as (rollouts, _):
        rollouts._player = replace(rollouts._player, columns={"reference": "answer"})
        (group,) = rollouts.generate(prompts(1), Sampling(1, 400))
    assert group.trajectories[0].turns[1]["text"] == "0"


def test_an_observation_is_part_of_the_prompt(qwen):
    with agents(qwen, lambda _: "ok") as (rollouts, engine):
        (group,) = rollouts.generate(prompts(1, hint=" Use <|im_end|> no paper."), Sampling(1, 400))
    (trajectory,) = group.trajectories
    assert "What is 0 + 0? Use <|im_end|> no paper.<|im_end|>" in qwen.decode(list(engine.seen[0][0]))
    assert list(engine.seen[0][0]).count(qwen.eos_token_id) == 2  # of the system message and of the user's
    assert trajectory.turns[0] == {"role": "environment", "text": " Use <|im_end|> no paper."}


def test_a_malformed_call_is_answered(qwen):
    def clumsy(text: str) -> str:
        return "sorry" if "<tool_response>" in text else "<tool_call>\n{add(1, 2)}\n</tool_call>"

    with agents(qwen, clumsy) as (rollouts, _):
        (group,) = rollouts.generate(prompts(1), Sampling(1, 400))
        metrics = M.values(rollouts.metrics())
    assert group.trajectories[0].turns[1]["text"].startswith("error: the call is not JSON")
    assert metrics["agent/tool_errors"] == 1


def test_text_mode_plays_until_reply_ends_it(plain_tokenizer):
    def bisects(text: str) -> str:
        lines = text.split("\n")[1:]
        low, high, guess = 0, 15, 7
        for line in lines:
            if line.endswith("higher"):
                low = guess + 1
            elif line.endswith("lower"):
                high = guess - 1
            guess = (low + high) // 2
        return str(guess)

    config = replace(CALCULATOR, fn=f"{CASES}:Guess", max_turns=6)
    with agents(plain_tokenizer, bisects, config, chat=False) as (rollouts, _):
        ids = tuple(plain_tokenizer("guess:", add_special_tokens=False)["input_ids"])
        prompt = Prompt("p", ids, "guess:", metadata={"number": 10})
        (group,) = rollouts.generate([prompt], Sampling(1, 8))
    (t,) = group.trajectories
    assert [turn["text"] for turn in t.turns] == ["\n", "7", "higher\n", "11", "lower\n", "9", "higher\n", "10"]
    assert t.finish_reason == "stop"
    assert t.reward is None  # it has no get_reward: the reward of the config scores the text


def test_a_rewriting_template_makes_several_trajectories_of_one_rollout(plain_tokenizer):
    tokenizer = with_template(plain_tokenizer, "rewriting")

    def thinks(text: str) -> str:
        turns = text.count("<|im_start|>assistant")
        return f"<think>turn {turns}</think>\n" + (CALL % (1, turns) if turns < 3 else "done")

    with agents(tokenizer, thinks) as (rollouts, engine):
        (group,) = rollouts.generate(prompts(1), Sampling(2, 400))
        metrics = M.values(rollouts.metrics())
    assert len(group.trajectories) == 6
    assert [t.sample_id for t in group.trajectories[:3]] == ["p0#0.0", "p0#0.0.1", "p0#0.0.2"]
    assert {t.rollout_id for t in group.trajectories} == {"p0#0.0", "p0#0.1"}
    assert len(group.rollouts) == 2
    assert metrics["agent/breaks"] == 4
    for t in group.trajectories:  # each turn is trained in the very context in which it was sampled
        seen = [(list(c), ids) for c, ids in engine.seen]
        start = t.num_prompt_tokens
        assert (t.tokens[:start].tolist(), t.tokens[start:].tolist()) in seen
        assert t.loss_mask[start:].all()


@pytest.mark.parametrize("on_overlong", Overlong)
@pytest.mark.parametrize("limit", [{"max_turns": 3}, {"max_tokens": 1200}])
def test_limits(qwen, on_overlong, limit):
    config = replace(CALCULATOR, on_overlong=on_overlong, **({"max_turns": 100} | limit))
    with agents(qwen, lambda _: CALL % (1, 1), config) as (rollouts, engine):
        if on_overlong is Overlong.fail:
            with pytest.raises(OverlongRollout, match=r"p0#0\.0 ended after .* turns .*environment\.max_turns"):
                list(rollouts.generate(prompts(1), Sampling(1, 400)))
            return
        (group,) = rollouts.generate(prompts(1), Sampling(1, 400))
        metrics = M.values(rollouts.metrics())
    (t,) = group.trajectories
    assert (t.finish_reason, t.masked) == ("length", on_overlong is Overlong.mask)
    assert metrics["agent/overlong"] == 1
    if "max_turns" in limit:
        assert len(engine.seen) == 3
    else:
        assert all(len(context) < 1200 for context, _ in engine.seen)
    assert t.loss_mask[-1]  # results after the last turn are left out


def test_a_failed_environment_is_a_status_after_its_retries(qwen):
    def breaks(text: str) -> str:
        how = "exit" if "What is 1 " in text else "none"
        return "done" if "<tool_response>" in text else CALL.replace("add", "behave").replace(
            '{"a": %d, "b": %d}', f'{{"how": "{how}"}}'
        )

    with agents(qwen, breaks, replace(CALCULATOR, retries=2)) as (rollouts, engine):
        groups = {g.prompt.uid: g for g in rollouts.generate(prompts(2), Sampling(1, 400))}
        metrics = M.values(rollouts.metrics())
    (bad,), (good,) = groups["p1"].trajectories, groups["p0"].trajectories
    assert bad.reward.status is Status.ERROR
    assert "exited with code 3" in bad.reward.info["error"]
    assert not bad.loss_mask.any()
    assert good.reward.ok
    assert (metrics["agent/retries"], metrics["agent/failed"]) == (2, 1)
    assert len(engine.seen) == 3 + 2


def test_two_hundred_sleeping_tools_take_as_long_as_one(qwen):
    config = replace(CALCULATOR, fn=f"{CASES}:Sleeper", concurrency=200)

    def naps(text: str) -> str:
        return "done" if "<tool_response>" in text else CALL.replace("add", "nap").replace('{"a": %d, "b": %d}', "{}")

    with agents(qwen, naps, config) as (rollouts, _):
        list(rollouts.generate(prompts(200), Sampling(1, 400)))  # processes are forked once
        begun = time.monotonic()
        groups = list(rollouts.generate(prompts(200), Sampling(1, 400)))
        seconds = time.monotonic() - begun
    assert len(groups) == 200
    assert seconds < 60  # one after the other: 400 s; tests/bench/agents.py has the figure


def test_abandoned_calls_end_and_later_ones_work(qwen):
    def hangs(text: str) -> str:
        if "<tool_response>" in text or "What is 0 " in text:
            return "done"
        return CALL.replace("add", "behave").replace('{"a": %d, "b": %d}', '{"how": "hang"}')

    with agents(qwen, hangs) as (rollouts, _):
        calls = rollouts.generate(prompts(3), Sampling(1, 400))
        assert next(calls).prompt.uid == "p0"
        rollouts.abandon()
        with pytest.raises(RolloutAbandoned):
            list(calls)
        assert len(list(rollouts.generate(prompts(1), Sampling(4, 400)))) == 1
