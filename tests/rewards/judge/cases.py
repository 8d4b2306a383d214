"""Judges with scripted answers, and scorers built on them."""

from concurrent.futures import Future

import numpy as np

from rlcore.data.batching.collate import collate
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import Fallback, RewardConfig, RewardTermConfig
from rlcore.rewards.judge.config import (
    JudgeConfig,
    JudgeReading,
)  # fmt: skip
from rlcore.rewards.judge.prompts import Reply
from rlcore.rewards.scorers import RewardModelScorer
from rlcore.types import Group, Prompt, RewardResult, Trajectory


class Scripted:
    """A completer whose answers a function makes."""

    def __init__(self, answer, seconds=60.0):
        self.answer, self.seconds, self.calls = answer, seconds, []

    def complete(self, prompts, max_tokens, temperature=0.0, choices=()):
        self.calls.append((list(prompts), max_tokens, temperature, tuple(choices)))
        return [r if isinstance(r := self.answer(p), Reply) else Reply(r) for p in prompts]

    def limit_s(self, num_prompts):
        return self.seconds


def longer(talk) -> str:
    """A fair judge: the longer response wins."""
    a, b = sides(talk)
    return "[[C]]" if len(a) == len(b) else f"because\n[[{'A' if len(a) > len(b) else 'B'}]]"


def sides(talk):
    text = talk[0]["content"]
    return tuple(
        text.split(f"[Response {x}]\n")[1].split(f"\n[End of response {x}]")[0] for x in "AB"
    )  # fmt: skip


def group(texts, reference="ref", rewards=(), **metadata) -> Group:
    def sample(k, text):
        return Trajectory(
            uid="u", sample_id=f"u#0.{k}", tokens=np.array([5, 6, 7 + k], np.int32),
            loss_mask=np.array([False, True, True]), rollout_logprobs=np.zeros(3, np.float32),
            versions=np.array([-1, 0, 0], np.int32), num_prompt_tokens=1, finish_reason="stop", text=text,
        )  # fmt: skip

    return Group(Prompt("u", (5,), "2+2=", reference, rewards, metadata), [sample(k, t) for k, t in enumerate(texts)])


def config(**settings) -> JudgeConfig:
    how = settings.pop("how", JudgeReading.text)
    made = JudgeConfig(**settings)
    made.reading.how = how
    return made


def scored(scorer, *groups):
    return [f.result(timeout=30) for f in [scorer.submit(g) for g in groups]]


def reward_model(rewards=lambda batch: batch.padded("tokens").sum(1).astype(np.float32)):
    return RewardModelScorer(rewards, 60.0, lambda groups: collate([t for g in groups for t in g.trajectories]))


class Verifiers:
    """Right is "ok"; remembers what it was asked."""

    def __init__(self, results=None):
        self.results, self.rows = results, []

    def submit(self, group):
        self.rows.append(group.prompt.rewards)
        future = Future()
        default = [RewardResult(float(t.text == "ok"), parts={"math": float(t.text == "ok")})
                   for t in group.trajectories]  # fmt: skip
        future.set_result(self.results or default)
        return future


def composed(verifiers, terms=("math",), fallback=Fallback.none, weights=None, judge=None, **settings):
    made = [RewardTermConfig(name, weight=(weights or {}).get(name, 1.0)) for name in terms]
    return ComposedScorer(verifiers, reward_model(), judge, RewardConfig(terms=made, fallback=fallback, **settings))
