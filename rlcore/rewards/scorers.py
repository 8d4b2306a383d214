"""Scorers of a reward model and of a judge, and the assignment of reward terms to scorers.

Concurrency: `submit` never blocks. The threads of a `Batcher` wait for groups and run one call each at a time. The part
that ends last completes a composed future.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from rlcore.metrics import Metrics, merge
from rlcore.problems import UserError
from rlcore.rewards.composition import Term
from rlcore.rewards.config import Fallback, RewardConfig, RewardTermConfig
from rlcore.rewards.judge.ask import limit_s
from rlcore.rewards.judge.config import JudgeAgainst, JudgeConfig, JudgeMode
from rlcore.rewards.judge.pairwise import PairwiseJudge, Verdict, pairs_of, position_bias, win_rates
from rlcore.rewards.judge.pointwise import PointwiseJudge
from rlcore.rewards.judge.prompts import Comparison, Completer, Question, question_of, reference_of
from rlcore.rewards.registry import RewardError, failure
from rlcore.types import Float32, Group, Prompt, RewardResult, Status, TrainBatch

REWARD_MODEL, JUDGE = "reward_model", "judge"
RESERVED = (REWARD_MODEL, JUDGE)
T = TypeVar("T")
R = TypeVar("R")
Results = list[RewardResult]


class ScorerLate(UserError, RuntimeError):
    """A scorer did not answer before its deadline."""


class Batcher(Generic[T, R]):
    """Calls a function on batches of items: items that arrive during a call are batched in the next one.

    An error of a call reaches all its futures. A call that misses its deadline fails its futures, the waiting and all
    later ones, with `ScorerLate`.

    Args:
        name: for error messages.
        call: one result for each item, in order.
        limit_s: returns the time limit of a call on these items, in seconds.
        threads: number of concurrent calls.
        ready: blocks until a call may begin; this wait is not part of the time limit.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[list[T]], Sequence[R]],
        limit_s: Callable[[list[T]], float],
        threads: int = 1,
        ready: Callable[[], None] | None = None,
    ) -> None:
        self._name, self._call, self._limit_s, self._ready = name, call, limit_s, ready
        self._waiting: queue.Queue[tuple[T, Future[R]] | None] = queue.Queue()
        self._late: ScorerLate | None = None
        self._lock = threading.Lock()  # protects submissions against the failure of all waiting futures
        self._threads = [
            threading.Thread(target=self._serve, daemon=True, name=f"{name}-{i}") for i in range(max(1, threads))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: T) -> Future[R]:
        future: Future[R] = Future()
        with self._lock:
            if self._late is not None:
                future.set_exception(self._late)
            else:
                self._waiting.put((item, future))
        return future

    def close(self) -> None:
        """Stops the threads once no item is waiting."""
        for _ in self._threads:
            self._waiting.put(None)

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            if self._ready is not None:
                self._ready()
            taken = [first]
            share = max(1, self._waiting.qsize() // len(self._threads))
            while len(taken) <= share:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                taken.append(more)
            self._answer([item for item, _ in taken], [future for _, future in taken])

    def _answer(self, items: list[T], futures: list[Future[R]]) -> None:
        watch: threading.Timer | None = None
        try:
            watch = threading.Timer(limit := self._limit_s(items), self._give_up, (futures, limit))
            watch.daemon = True
            watch.start()
            for future, result in zip(futures, self._call(items), strict=True):
                with suppress(InvalidStateError):  # it was late
                    future.set_result(result)
        except Exception as error:
            _fail(futures, error)
        finally:
            if watch is not None:
                watch.cancel()

    def _give_up(self, futures: list[Future[R]], limit: float) -> None:
        late = ScorerLate(f"reward: no answer of {self._name} after {limit:.0f} s for {len(futures)} groups")
        with self._lock:
            self._late = late
            with suppress(queue.Empty):
                while True:
                    if (waiting := self._waiting.get_nowait()) is not None:
                        futures = [*futures, waiting[1]]
        _fail(futures, late)
        self.close()


def _fail(futures: Sequence[Future[R]], error: BaseException) -> None:
    for future in futures:
        with suppress(InvalidStateError):
            future.set_exception(error)


class RewardModelScorer:
    """`RewardScorer` of a reward model. Groups that arrive during a call are batched in the next one.

    Args:
        rewards: [B] float32 of a batch, as `interfaces.RewardModel.rewards`.
        limit_s: time limit of one call, in seconds.
        batch: converts groups to a batch with one row per sample, in order: `rlcore.data.batching.collate.collate` of
            their trajectories for a reward model with the tokenizer of the policy.
        ready: see `Batcher`; used by a reward model that shares GPUs with the rollout engines.
    """

    def __init__(
        self,
        rewards: Callable[[TrainBatch], Float32],
        limit_s: float,
        batch: Callable[[Sequence[Group]], TrainBatch],
        ready: Callable[[], None] | None = None,
    ) -> None:
        self._rewards, self._batch = rewards, batch
        self._batcher = Batcher(REWARD_MODEL, self.score, lambda groups: limit_s, ready=ready)

    def submit(self, group: Group) -> Future[Results]:
        return self._batcher.submit(group)

    def score(self, groups: Sequence[Group]) -> list[Results]:
        """Results by group and sample, in order. A reward that is not finite is an error of its sample."""
        sizes = [len(g.trajectories) for g in groups]
        if not sum(sizes):
            return [[] for _ in groups]
        scores = self._rewards(self._batch(groups))
        if scores.shape != (sum(sizes),):
            raise RewardError(f"the reward model gave rewards of shape {scores.shape} for {sum(sizes)} samples")
        results = iter([_finite(float(x)) for x in scores])
        return [[next(results) for _ in range(size)] for size in sizes]

    def close(self) -> None:
        self._batcher.close()


def _finite(score: float) -> RewardResult:
    return RewardResult(score) if math.isfinite(score) else failure(f"the reward model gave {score}")


class JudgeScorer:
    """`RewardScorer` of a judge: ratings, or win rates among the samples of a group or against the reference.

    In pairwise mode `parts["flips"]` is the share of a sample's comparisons with contradicting orders.
    """

    def __init__(self, completer: Completer, config: JudgeConfig, threads: int = 2) -> None:
        self.config = config
        self.pointwise, self.pairwise = PointwiseJudge(completer, config), PairwiseJudge(completer, config)
        self._seen: Metrics = {}
        self._lock = threading.Lock()  # protects `_seen`
        self._batcher = Batcher(JUDGE, self.score, lambda g: limit_s(completer, config, self._count(g)), threads)

    def submit(self, group: Group) -> Future[Results]:
        return self._batcher.submit(group)

    def score(self, groups: Sequence[Group]) -> list[Results]:
        """Results by group and sample, in order."""
        return self._rate(groups) if self.config.mode is JudgeMode.pointwise else self._compare(groups)

    def metrics(self) -> Metrics:
        """`pairwise.position_bias` of the comparisons since the last call; empty without comparisons."""
        with self._lock:
            seen, self._seen = self._seen, {}
        return seen

    def close(self) -> None:
        self._batcher.close()

    def _rate(self, groups: Sequence[Group]) -> list[Results]:
        asked = [
            Question(question_of(g.prompt, self.config), t.text, reference_of(g.prompt))
            for g in groups
            for t in g.trajectories
        ]
        results = iter(self.pointwise.rate(asked))
        return [[next(results) for _ in group.trajectories] for group in groups]

    def _compare(self, groups: Sequence[Group]) -> list[Results]:
        pairs = [self._pairs(group) for group in groups]
        verdicts = self.pairwise.compare([c for group, todo in zip(groups, pairs, strict=True) for c in
                                          self._comparisons(group, todo)])  # fmt: skip
        with self._lock:
            self._seen = merge([self._seen, position_bias(verdicts)])
        results, at = [], 0
        for group, todo in zip(groups, pairs, strict=True):
            results.append(self._group_results(group, todo, verdicts[at : at + len(todo)]))
            at += len(todo)
        return results

    def _pairs(self, group: Group) -> list[tuple[int, int]]:
        """Samples to compare; the index after the last sample means the reference."""
        count = len(group.trajectories)
        if self.config.against is JudgeAgainst.group:
            return pairs_of(count, self.config.max_pairs)
        return [(i, count) for i in range(count)] if group.prompt.reference is not None else []

    def _comparisons(self, group: Group, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        prompt, texts = question_of(group.prompt, self.config), [t.text for t in group.trajectories]
        if self.config.against is JudgeAgainst.reference:  # it competes, so the prompt must not show it
            return [Comparison(prompt, texts[i], group.prompt.reference or "") for i, _ in pairs]
        return [Comparison(prompt, texts[i], texts[j], reference_of(group.prompt)) for i, j in pairs]

    def _group_results(self, group: Group, pairs: list[tuple[int, int]], verdicts: Sequence[Verdict]) -> Results:
        shares = win_rates(len(group.trajectories) + 1, pairs, verdicts)
        results = []
        for k, own in enumerate(shares[:-1]):
            mine = [v for pair, v in zip(pairs, verdicts, strict=True) if k in pair]
            if own:
                flips = sum(v.flipped for v in mine) / len(mine)
                told = {"comparisons": len(own), "not_judged": len(mine) - len(own)}
                results.append(RewardResult(sum(own) / len(own), parts={"flips": flips}, info=told))
            elif mine:
                bad = mine[0]
                results.append(failure(f"{len(mine)} comparisons, none judged: {bad.error}", bad.status, **bad.info))
            else:
                results.append(self._nothing_to_compare(group))
        return results

    def _nothing_to_compare(self, group: Group) -> RewardResult:
        if self.config.against is JudgeAgainst.reference:
            why = "the row has no reference to compare with (reward.judge.against=reference)"
        elif len(group.trajectories) < 2:
            why = "a pairwise judge needs two samples of a prompt: raise samples_per_prompt, or judge.mode=pointwise"
        else:
            why = f"no pair for this sample: raise reward.judge.max_pairs={self.config.max_pairs}"
        return failure(why, Status.UNPARSABLE)

    def _count(self, groups: Sequence[Group]) -> int:
        if self.config.mode is JudgeMode.pointwise:
            return sum(len(g.trajectories) for g in groups) * len(self.config.rubrics)
        return 2 * sum(len(self._pairs(g)) for g in groups)


@dataclass(frozen=True, slots=True)
class Split:
    """The scorers of one row."""

    verified: Prompt | None  # the prompt for the verifiers; None: no verifiers
    others: tuple[Term, ...]  # names of RESERVED


@dataclass(frozen=True)
class Terms:
    """Assigns the terms of a config to verifiers, reward model and judge."""

    verifiers: bool  # true if a term is a verifier
    others: dict[str, Term] = field(default_factory=dict)  # reserved names of the config -> weights
    needed: frozenset[str] = frozenset()  # reserved names in the config, including the fallback

    @classmethod
    def of(cls, config: RewardConfig) -> Terms:
        own = [t for t in config.terms if t.fn is None and t.name in RESERVED] if config.fn is None else []
        others = {t.name: Term(t.name, weight=t.weight) for t in own}
        fallback = [] if config.fallback is Fallback.none else [config.fallback.value]
        return cls(config.fn is not None or len(config.terms) > len(own), others, frozenset([*others, *fallback]))

    def split(self, prompt: Prompt) -> Split:
        """The scorers of a row: the rewards that it names, otherwise the terms of the config."""
        if not prompt.rewards:
            return Split(prompt if self.verifiers else None, tuple(self.others.values()))
        others = tuple(self.others.get(n) or Term(n) for n in prompt.rewards if n in RESERVED)
        named = tuple(n for n in prompt.rewards if n not in RESERVED)
        return Split(replace(prompt, rewards=named) if named else None, others)


def verifier_config(config: RewardConfig) -> RewardConfig:
    """The config for verifiers, without reserved terms. If no term is left it has the default one, which only rows that
    name it use.
    """
    if config.fn is not None:
        return config
    terms = [t for t in config.terms if t.fn is not None or t.name not in RESERVED]
    return replace(config, terms=terms or [RewardTermConfig()])
