"""`ComposedScorer`: combines verifiers with a reward model or a judge, as terms or as a fallback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from rlcore.interfaces import RewardScorer
from rlcore.rewards.composition import Term, compose
from rlcore.rewards.config import Fallback, RewardConfig
from rlcore.rewards.registry import RewardError, failure
from rlcore.rewards.scorers import JUDGE, REWARD_MODEL, Results, Split, Terms
from rlcore.types import Group, RewardResult, Status


class ComposedScorer:
    """`RewardScorer` over verifiers, a reward model and a judge.

    The weighted sum is that of `composition.compose`, with the parts `reward_model` and `judge` in addition to those of
    the verifiers. `config.fallback` scores a group that no verifier can score: it has no term, or all its samples are
    `unparsable` because the reference is missing or invalid (or failed in another way, if the row has no reference and
    names no reward). Scores of other verifiers (a length penalty) stay in the sum.

    Raises:
        RewardError: the config names a scorer that is None.
    """

    def __init__(
        self,
        verifiers: RewardScorer | None,
        reward_model: RewardScorer | None,
        judge: RewardScorer | None,
        config: RewardConfig,
    ) -> None:
        self._verifiers, self._terms = verifiers, Terms.of(config)
        self._scorers = {REWARD_MODEL: reward_model, JUDGE: judge}
        self._fallback = None if config.fallback is Fallback.none else Term(config.fallback.value)
        if self._fallback:
            self._fallback = replace(self._fallback, weight=config.fallback_weight)
        for name in sorted(self._terms.needed):
            if self._scorers[name] is None:
                raise RewardError(f"reward.terms or reward.fallback name {name!r}, but there is none: {_CURES[name]}")

    def alone(self, name: str) -> RewardScorer:
        """A scorer of only the reward model or the judge.

        Raises:
            RewardError: it is not configured.
        """
        scorer = self._scorers[name]
        if scorer is None:
            raise RewardError(f"{name!r} is to score, but there is none: {_CURES[name]}")
        return scorer

    def submit(self, group: Group) -> Future[Results]:
        """Scores a group; errors of any part reach the future."""
        out: Future[Results] = Future()
        split = self._terms.split(group.prompt)
        calls: dict[str, Future[Results]] = {t.name: self._ask(t.name, group) for t in split.others}
        if split.verified is not None:
            calls[_VERIFIERS] = self._verify(replace(group, prompt=split.verified))
        _when_all(calls, out, lambda results: self._join(group, split, results, out))
        return out

    def _join(self, group: Group, split: Split, results: Mapping[str, Results], out: Future[Results]) -> None:
        verified = results.get(_VERIFIERS)
        fallback = self._fallback
        if fallback is None or not self._unverifiable(group, split, verified):
            out.set_result(_composed(len(group.trajectories), verified, split.others, results))
            return
        # The verifiers cannot score this row: failed terms add nothing and are listed in `info`.
        excused = None if verified is None else [_excused(r, fallback.name) for r in verified]
        if fallback.name in results:  # the fallback scores the row anyway
            out.set_result(_composed(len(group.trajectories), excused, split.others, results))
            return
        others = (*split.others, fallback)

        def finish(late: Mapping[str, Results]) -> None:
            out.set_result(_composed(len(group.trajectories), excused, others, {**results, **late}))

        _when_all({fallback.name: self._ask(fallback.name, group)}, out, finish)

    def _unverifiable(self, group: Group, split: Split, verified: Results | None) -> bool:
        if verified is None:
            return not split.others
        bare = group.prompt.reference is None and not group.prompt.rewards
        return all(r.status is Status.UNPARSABLE or (bare and not r.ok) for r in verified)

    def _ask(self, name: str, group: Group) -> Future[Results]:
        scorer = self._scorers[name]
        return scorer.submit(group) if scorer else _failed(group, f"the row asks for {name!r}: {_CURES[name]}")

    def _verify(self, group: Group) -> Future[Results]:
        if self._verifiers is None:
            return _failed(group, f"the row asks for {', '.join(group.prompt.rewards)}, but no verifiers were started")
        return self._verifiers.submit(group)


_VERIFIERS = "verifiers"
_CURES = {
    REWARD_MODEL: "give cluster.roles.reward.num_workers and a reward model",
    JUDGE: "set reward.judge.kind to engine or endpoint",
}


def _composed(count: int, verified: Results | None, others: Sequence[Term], results: Mapping[str, Results]) -> Results:
    return [_sum(None if verified is None else verified[i], others, [results[t.name][i] for t in others])
            for i in range(count)]  # fmt: skip


def _sum(verified: RewardResult | None, others: Sequence[Term], results: Sequence[RewardResult]) -> RewardResult:
    """Merges the sum of the verifiers with the other terms; parts keep their names."""
    if not others and verified is not None:
        return verified
    if not others:
        return failure("no reward scores this row: name one in reward.terms, or set reward.fallback")
    if verified is None:
        return compose(others, results)
    both = compose([Term(_VERIFIERS), *others], [verified, *results])
    own = {name for name in both.parts if name == _VERIFIERS or name.startswith(_VERIFIERS + "/")}
    parts = {**verified.parts, **{name: part for name, part in both.parts.items() if name not in own}}
    score = both.score if verified.ok else both.score + verified.score  # weights of the terms that did not fail
    return replace(both, score=score, parts=parts)


def _excused(result: RewardResult, by: str) -> RewardResult:
    info = {("unverified" if key == "error" else key): value for key, value in result.info.items()}
    return replace(result, status=Status.OK, info={**info, "fallback": by})


def _failed(group: Group, why: str) -> Future[Results]:
    future: Future[Results] = Future()
    future.set_result([failure(why) for _ in group.trajectories])
    return future


def _when_all(
    calls: Mapping[str, Future[Results]], out: Future[Results], then: Callable[[Mapping[str, Results]], None]
) -> None:
    """Calls `then` with all results on the thread of the last one, or sets the first error on `out`."""
    lock, left = threading.Lock(), [len(calls)]

    def go() -> None:
        try:
            then({name: future.result() for name, future in calls.items()})
        except BaseException as error:
            if not out.done():
                out.set_exception(error)

    def one(_: Future[Results]) -> None:
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            go()

    for future in calls.values():
        future.add_done_callback(one)
    if not calls:
        go()
