"""How the judge's handle deals prompts over engines and meets their failures; vLLM itself is in tests/integration."""

import math

import numpy as np
import pytest

from actors.generation.judge import JudgeEngine, JudgeError, JudgeWorker
from actors.generation.vllm_engine import Sample
from actors.placement.group import ActorDied, ActorInfo, WorkerError
from actors.placement.restarts import RestartPolicy, WorkerFailed
from rlcore.rewards.judge.config import JudgeEngineConfig
from rlcore.types import Status

INFO = ActorInfo("judge", 0, "here", 1, "ALIVE", "x")


class Characters:
    """One token a character; no chat template unless one is set."""

    unk_token_id, chat_template = 0, None

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [[*([1] if add_special_tokens else []), *map(ord, text)] for text in texts]}

    def apply_chat_template(self, talk, tokenize, add_generation_prompt, **options):
        return "".join(f"<{m['role']}>{m['content']}" for m in talk) + f"<assistant>{options}"


class Engines:
    """A group whose workers answer with their rank and prompt, after the failures in `script`."""

    def __init__(self, size, script=()):
        self.size, self.script, self.calls = size, list(script), []

    name, infos = "judge", ()

    def __len__(self):
        return self.size

    def one(self, rank, method, call, requests, sampling, allowed, limit, timeout_s, phase):
        assert method is JudgeWorker.complete
        assert timeout_s > limit
        self.calls.append((rank, call, [r.index for r in requests], sampling, allowed))
        if self.script:
            raise self.script.pop(0)
        logprobs = {t: -float(i) for i, t in enumerate(allowed)}
        texts = {r.index: "".join(map(chr, r.token_ids[1:])) for r in requests}
        none = np.zeros(0, np.int32)
        return {
            i: Sample(none, none.astype(np.float32), none, "length", f"{rank}:{t}", logprobs)
            for i, t in texts.items() if t != "late"
        }  # fmt: skip


def died():
    return ActorDied("gone", INFO, "judge", 0.0, "")


def raised(cause):
    error = WorkerError("raised", INFO, "judge", 0.0, "")
    error.__cause__ = cause
    return error


def engine(group, restarts=None, tokenizer=None, **settings):
    config = JudgeEngineConfig(path="p", **settings)
    restart = (lambda ranks: None) if restarts is None else restarts.extend
    policy = RestartPolicy(group, restart, config.max_restarts, "max_restarts", lambda text: None)
    return JudgeEngine(group, tokenizer or Characters(), config, 20, policy)


def test_prompts_are_dealt_over_the_engines_and_come_back_in_order():
    group = Engines(2)
    replies = engine(group).complete(["a", "b", "c", "d", "e"], 4, 0.7)
    assert [r.text for r in replies] == ["0:a", "1:b", "0:c", "1:d", "0:e"]
    assert {r.finish_reason for r in replies} == {"length"}
    assert sorted((rank, indices) for rank, _, indices, _, _ in group.calls) == [(0, [0, 2, 4]), (1, [1, 3])]
    assert len({call for _, call, *_ in group.calls}) == 2
    assert {(s.num_samples, s.max_new_tokens, s.temperature) for *_, s, _ in group.calls} == {(1, 4, 0.7)}
    assert engine(group).complete([], 4) == []


def test_late_and_long_prompts_have_statuses():
    late, long, edge = engine(Engines(1)).complete(["late", "x" * 16, "x" * 15], 4)
    assert (late.status, long.status, edge.status) == (Status.TIMEOUT, Status.ERROR, Status.OK)
    assert "17 tokens" in long.error
    assert "max_model_len" in long.error
    assert "deadline_s" in late.error


def test_choices_are_allowed_tokens_and_read_in_their_order():
    group = Engines(1)
    [reply] = engine(group).complete(["p"], 99, 0.9, choices=("B", "A"))
    *_, sampling, allowed = group.calls[0]
    assert allowed == [ord("A"), ord("B")]
    assert (sampling.max_new_tokens, sampling.temperature) == (1, 0.0)
    assert (reply.logprobs, reply.text) == ((-1.0, 0.0), "A")
    assert all(map(math.isfinite, reply.logprobs))
    with pytest.raises(JudgeError, match="'10' is 2 tokens"):
        engine(group).complete(["p"], 1, choices=("10",))


def test_a_dead_engine_is_started_again_and_asked_again():
    restarts = []
    [reply] = engine(Engines(1, [died(), raised(RuntimeError("the loop died"))]), restarts).complete(["a"], 4)
    assert (reply.text, restarts) == ("0:a", [0, 0])


def test_restarts_are_bounded_and_errors_of_the_request_are_not_met_with_one():
    restarts = []
    with pytest.raises(WorkerFailed, match=r"judge\[0\] failed 3 times in 6 hours"):
        engine(Engines(1, [died()] * 9), restarts, max_restarts=2).complete(["a"], 4)
    assert restarts == [0, 0]
    with pytest.raises(WorkerFailed, match=r"cannot serve its request in phase judge: ValueError: bad request$"):
        engine(Engines(1, [raised(ValueError("bad request"))]), restarts).complete(["a"], 4)
    assert restarts == [0, 0]


def test_chat_templates():
    chat = Characters()
    chat.chat_template = "t"
    made = engine(Engines(1), tokenizer=chat, chat_options={"think": False})
    made.max_model_len = 200
    [text] = made.complete(["hi"], 4)
    assert text.text == "0:" + "<user>hi<assistant>{'think': False}"[1:]  # no start token of its own before a template
    base = engine(Engines(1), tokenizer=chat, chat_template=False)
    assert base.complete([[{"role": "user", "content": "hi"}]], 4)[0].text == "0:hi\n\n"
    with pytest.raises(JudgeError, match="the tokenizer of p has none"):
        engine(Engines(1), chat_template=True)
