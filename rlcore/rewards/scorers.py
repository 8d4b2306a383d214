"""Rewards of many kinds for one group: verifiers first, then a reward model or a judge, composed as `composition` says.

Who waits for whom: `submit` never waits. A `Batcher`'s threads wait for groups, and for their one call at a time; a
composed future is completed by whichever part ends last.
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
    """Calls a function on lists of items: those that arrive while a call is under way travel together in the next.

    An error of the call reaches every future of it. A call that outlives its deadline fails its futures, those that
    wait and all later ones, with `ScorerLate`.

    Args:
        name: for errors.
        call: one result for each item, in order.
        limit_s: seconds that a call on these items may take.
        threads: calls at the same time.
        ready: blocks until a call may begin; its wait counts against no limit.
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
        self._lock = threading.Lock()  # between a submission and the failure of all that wait
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
        """Lets the threads end once nothing waits."""
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
    """`RewardScorer` of a reward model. Groups that arrive while a call is under way travel together in the next.

    Args:
        rewards: [B] float32 of a batch, as `interfaces.RewardModel.rewards`.
        limit_s: seconds that one call may take.
        batch: of groups, one row for each sample in order. `rlcore.data.batching.collate.collate` of their
            trajectories, for a reward model that shares the policy's tokenizer.
        ready: see `Batcher`; for a reward model on the GPUs of the rollout engines.
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
        """In the order of the groups and of their samples. A reward that is not finite is an error of its sample."""
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
    """`RewardScorer` of a judge: its ratings, or win rates among the samples of a group or against the reference.

    Pairwise, `parts["flips"]` is the share of a sample's comparisons whose two orders contradict each other.
    """

    def __init__(self, completer: Completer, config: JudgeConfig, threads: int = 2) -> None:
        self.config = config
        self.pointwise, self.pairwise = PointwiseJudge(completer, config), PairwiseJudge(completer, config)
        self._seen: Metrics = {}
        self._lock = threading.Lock()  # of `_seen`
        self._batcher = Batcher(JUDGE, self.score, lambda g: limit_s(completer, config, self._count(g)), threads)

    def submit(self, group: Group) -> Future[Results]:
        return self._batcher.submit(group)

    def score(self, groups: Sequence[Group]) -> list[Results]:
        """In the order of the groups and of their samples."""
        return self._rate(groups) if self.config.mode is JudgeMode.pointwise else self._compare(groups)

    def metrics(self) -> Metrics:
        """`pairwise.position_bias` of what was compared since the last call; empty where nothing was compared."""
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
        """Samples to compare; the reference counts as the one behind the last."""
        count = len(group.trajectories)
        if self.config.against is JudgeAgainst.group:
            return pairs_of(count, self.config.max_pairs)
        return [(i, count) for i in range(count)] if group.prompt.reference is not None else []

    def _comparisons(self, group: Group, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        prompt, texts = question_of(group.prompt, self.config), [t.text for t in group.trajectories]
        if self.config.against is JudgeAgainst.reference:  # it competes, and is not shown as the right answer
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
            why = f"no pair left for it: raise reward.judge.max_pairs={self.config.max_pairs}"
        return failure(why, Status.UNPARSABLE)

    def _count(self, groups: Sequence[Group]) -> int:
        if self.config.mode is JudgeMode.pointwise:
            return sum(len(g.trajectories) for g in groups) * len(self.config.rubrics)
        return 2 * sum(len(self._pairs(g)) for g in groups)


@dataclass(frozen=True, slots=True)
class Split:
    """What scores one row."""

    verified: Prompt | None  # as the verifiers should see it; None: not at all
    others: tuple[Term, ...]  # of RESERVED


@dataclass(frozen=True)
class Terms:
    """The terms of a config, dealt out to verifiers, reward model and judge."""

    verifiers: bool  # the config has a term that is a verifier
    others: dict[str, Term] = field(default_factory=dict)  # reserved names of the config, with their weights
    needed: frozenset[str] = frozenset()  # reserved names that the config asks for, the fallback's included

    @classmethod
    def of(cls, config: RewardConfig) -> Terms:
        own = [t for t in config.terms if t.fn is None and t.name in RESERVED] if config.fn is None else []
        others = {t.name: Term(t.name, weight=t.weight) for t in own}
        fallback = [] if config.fallback is Fallback.none else [config.fallback.value]
        return cls(config.fn is not None or len(config.terms) > len(own), others, frozenset([*others, *fallback]))

    def split(self, prompt: Prompt) -> Split:
        """A row that names rewards is scored by those, any other by the config's terms."""
        if not prompt.rewards:
            return Split(prompt if self.verifiers else None, tuple(self.others.values()))
        others = tuple(self.others.get(n) or Term(n) for n in prompt.rewards if n in RESERVED)
        named = tuple(n for n in prompt.rewards if n not in RESERVED)
        return Split(replace(prompt, rewards=named) if named else None, others)


def verifier_config(config: RewardConfig) -> RewardConfig:
    """The config as verifiers are started with it: without the reserved terms; where none other is left, with the
    default one, which no row reaches that does not name it.
    """
    if config.fn is not None:
        return config
    terms = [t for t in config.terms if t.fn is not None or t.name not in RESERVED]
    return replace(config, terms=terms or [RewardTermConfig()])
