"""Selects samples for training: best of n, top k, thresholds, statistical rejection sampling.

Pure and deterministic: the selection for a prompt depends on its own samples, the settings and the seed, not on other
prompts. Every dropped sample has a reason, and the counts add up.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlcore.problems import Problem, bounded, check_settings
from rlcore.types import Sample


class SelectionMethod(str, enum.Enum):
    best = "best"  # best of n, as in Llama 2 and 3 and Apple's iTeC
    top_k = "top_k"
    threshold = "threshold"  # all good samples; with max_per_prompt=1 and cap=random a single good one
    rso = "rso"  # statistical rejection sampling, arXiv 2309.06657
    all = "all"


class Ties(str, enum.Enum):
    """Order of two samples with equal scores."""

    first = "first"  # input order
    shortest = "shortest"  # fewest response tokens, then input order
    longest = "longest"
    random = "random"


class Cap(str, enum.Enum):
    best = "best"
    random = "random"


class Unscored(str, enum.Enum):
    """Treatment of samples without a reward or with a status other than ok."""

    drop = "drop"
    error = "error"
    lowest = "lowest"  # ranks below every score and never passes a threshold


@dataclass
class SelectionConfig:
    method: SelectionMethod = SelectionMethod.best
    k: int = bounded(1, ge=1)  # samples per prompt that top_k keeps or rso accepts
    threshold: float | None = None  # lowest score of a good sample, for every method; required by `threshold`
    beta: float = bounded(0.5, gt=0, le=math.inf)  # temperature of rso: near 0 the best, infinity: uniform
    max_per_prompt: int | None = bounded(None, ge=1)  # limit on the samples per prompt after the method
    cap: Cap = Cap.best  # which samples the limit keeps
    cap_by_difficulty: bool = False  # scale the limit by the share of bad samples (arXiv 2407.13690)
    distinct: bool = False  # only the best-ranked sample of each response text, ignoring surrounding blanks
    ties: Ties = Ties.first
    unscored: Unscored = Unscored.drop

    def problems(self, key: str) -> Iterator[Problem]:
        if self.method is SelectionMethod.threshold and self.threshold is None:
            text = "method=threshold needs the lowest good score"
            yield Problem(f"{key}.threshold", None, text, "give a number")
        if self.cap_by_difficulty and (self.threshold is None or self.max_per_prompt is None):
            cure = "set max_per_prompt, and the threshold of good samples"
            yield Problem(f"{key}.cap_by_difficulty", True, "it needs a cap and a threshold", cure)


# reasons of dropped samples; `select` counts each as `dropped_<reason>`
REASONS = ("unscored", "copy", "below_threshold", "not_best", "not_top_k", "not_accepted", "over_cap")


def select(samples: Sequence[Sample], config: SelectionConfig, seed: int) -> tuple[list[Sample], dict[str, int]]:
    """The kept samples in input order, and counts.

    Counts: `samples` given, `selected`, `dropped_<reason>` for each of REASONS (samples = selected + all dropped),
    `prompts`, and `prompts_without` any kept sample.

    Raises:
        ValueError: invalid settings, a score that is not finite, or an unscored sample with `unscored=error`.
    """
    reasons = explain(samples, config, seed)
    kept = [sample for sample, reason in zip(samples, reasons, strict=True) if not reason]
    dropped = Counter(reasons)
    prompts = {sample.prompt.uid for sample in samples}
    counts = {"samples": len(samples), "selected": len(kept)}
    counts |= {f"dropped_{reason}": dropped[reason] for reason in REASONS}
    without = len(prompts) - len({sample.prompt.uid for sample in kept})
    return kept, counts | {"prompts": len(prompts), "prompts_without": without}


def explain(samples: Sequence[Sample], config: SelectionConfig, seed: int) -> list[str]:
    """For each sample the reason of its drop, "" if it is kept. Raises the errors of `select`."""
    check_settings(config, "selection")
    scores = [_score_or(sample, config.unscored) for sample in samples]
    reasons = [""] * len(samples)
    for uid, rows in by_prompt(samples).items():
        rng = prompt_rng(seed, "selection", uid)
        for row, reason in _of_prompt(rows, samples, scores, config, rng).items():
            reasons[row] = reason
    return reasons


def _of_prompt(
    rows: list[int],
    samples: Sequence[Sample],
    scores: Sequence[float | None],
    config: SelectionConfig,
    rng: np.random.Generator,
) -> dict[int, str]:
    """Reasons of the dropped rows."""
    dropped = {row: "unscored" for row in rows if scores[row] is None}
    known = {row: score for row in rows if (score := scores[row]) is not None}
    if config.method is SelectionMethod.rso and config.unscored is Unscored.lowest:
        dropped |= {row: "unscored" for row, score in known.items() if score == -math.inf}  # exp(-inf) is 0
    left = [row for row in ranked(list(known), known, samples, config.ties, rng) if row not in dropped]
    if config.distinct:
        left = _split(left, _first_of_text(left, samples), "copy", dropped)
    limit = config.threshold
    if limit is not None:
        left = _split(left, {row for row in left if known[row] >= limit}, "below_threshold", dropped)
    left = _taken(left, known, config, rng, dropped)
    cap = len(left) if config.max_per_prompt is None else config.max_per_prompt
    if config.cap_by_difficulty and limit is not None and known:
        share = sum(score < limit for score in known.values()) / len(known)
        cap = max(math.ceil(cap * share), 1)
    if len(left) > cap:
        order = left if config.cap is Cap.best else [left[i] for i in rng.permutation(len(left))]
        _split(left, set(order[:cap]), "over_cap", dropped)
    return dropped


def _taken(
    left: list[int],
    scores: Mapping[int, float],
    config: SelectionConfig,
    rng: np.random.Generator,
    dropped: dict[int, str],
) -> list[int]:
    """`left` is ranked, best first."""
    if config.method is SelectionMethod.best:
        return _split(left, set(left[:1]), "not_best", dropped)
    if config.method is SelectionMethod.top_k:
        return _split(left, set(left[: config.k]), "not_top_k", dropped)
    if config.method is SelectionMethod.rso:
        accepted = rejection_sample([scores[row] for row in left], config.k, config.beta, rng)
        return _split(left, {left[i] for i in accepted}, "not_accepted", dropped)
    return left


def _split(rows: list[int], keep: set[int], reason: str, dropped: dict[int, str]) -> list[int]:
    dropped.update({row: reason for row in rows if row not in keep})
    return [row for row in rows if row in keep]


def rejection_sample(scores: Sequence[float], num: int, beta: float, rng: np.random.Generator) -> list[int]:
    """Statistical rejection sampling (Liu et al., arXiv 2309.06657, Algorithm 1): accepted positions in order of
    acceptance.

    Passes over the candidates accept each with probability `exp((r - r_max) / beta)`, r_max the highest reward of the
    remaining ones, until `num` are accepted or none is left; accepted candidates leave the pool. If few of many
    candidates are accepted, candidates from pi have the distribution `pi(y|x) exp(r(x, y) / beta)` up to its norm
    (equation 4). The order of candidates is shuffled, so that no model of a committee has an advantage.

    Raises:
        ValueError: beta is not above 0, or a score is not finite.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta}: above 0")
    if not all(map(math.isfinite, scores)):  # no candidate would ever be accepted
        raise ValueError("scores must be finite")
    pool = [int(i) for i in rng.permutation(len(scores))]
    accepted: list[int] = []
    while pool and len(accepted) < num:
        highest = max(scores[i] for i in pool)
        draws = rng.random(len(pool))
        chances = np.exp((np.array([scores[i] for i in pool]) - highest) / beta)
        passed = [i for i, draw, chance in zip(pool, draws, chances, strict=True) if draw < chance]
        accepted += passed[: num - len(accepted)]
        gone = set(passed)
        pool = [i for i in pool if i not in gone]
    return accepted


def by_prompt(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Row numbers of the samples of each prompt, in input order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        groups[sample.prompt.uid].append(row)
    return dict(groups)


def prompt_rng(seed: int, *names: str) -> np.random.Generator:
    """A random generator per prompt (and further names), equal in every process."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def score_of(sample: Sample) -> float | None:
    """The score of a sample; None without a score or if scoring failed.

    Raises:
        ValueError: a score that is not finite.
    """
    if sample.reward is None or not sample.reward.ok:
        return None
    if not math.isfinite(sample.reward.score):
        raise ValueError(f"sample {sample.sample_id!r} has the score {sample.reward.score}: scores must be finite")
    return sample.reward.score


def ranked(
    rows: Sequence[int],
    scores: Mapping[int, float],
    samples: Sequence[Sample],
    ties: Ties,
    rng: np.random.Generator,
) -> list[int]:
    """The rows sorted by score, best first."""
    place = {row: i for i, row in enumerate(rows)}
    if ties is Ties.random:
        place = {row: int(i) for row, i in zip(rows, rng.permutation(len(rows)), strict=True)}
    sign = {Ties.shortest: 1, Ties.longest: -1}.get(ties, 0)
    return sorted(rows, key=lambda row: (-scores[row], sign * len(samples[row].token_ids), place[row]))


def _score_or(sample: Sample, unscored: Unscored) -> float | None:
    score = score_of(sample)
    if score is not None or unscored is Unscored.drop:
        return score
    if unscored is Unscored.lowest:
        return -math.inf
    state = "no reward" if sample.reward is None else f"a reward of status {sample.reward.status.value}"
    raise ValueError(f"sample {sample.sample_id!r} has {state}: score it first, or set unscored=drop or lowest")


def _first_of_text(rows: Sequence[int], samples: Sequence[Sample]) -> set[int]:
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(samples[row].text.strip(), row)
    return set(first.values())


@dataclass(frozen=True, slots=True)
class Tally:
    """Samples of one prompt so far, and the number of good ones."""

    drawn: int = 0
    good: int = 0


@dataclass
class AdaptivePlan:
    """Number of samples for each prompt in the next round of generation, from the results so far.

    A prompt stops with `enough` good samples or at its budget. Before that it gets the expected number of samples it
    needs: `ceil((enough - good) / rate)` with `rate = (good + 1) / (drawn + 2)`, the posterior mean under an even prior
    (Laplace's rule of succession), within `per_round` and the budget.

    >>> plan = AdaptivePlan(first=4, enough=2, max_samples=16, per_round=8)
    >>> plan.next({"a": Tally(drawn=4, good=3), "b": Tally(drawn=4, good=1), "c": Tally()})
    {'b': 3, 'c': 4}
    """

    first: int = bounded(4, ge=1)  # samples for a prompt without samples
    enough: int = bounded(1, ge=1)  # good samples that a prompt needs
    max_samples: int = bounded(64, ge=1)  # budget per prompt
    per_round: int = bounded(16, ge=1)  # maximum per prompt and round

    def next(self, tallies: Mapping[str, Tally]) -> dict[str, int]:
        """Samples to draw by uid, without prompts that need none. Empty: generation is finished.

        Raises:
            ValueError: settings below 1, or a tally with more good samples than drawn ones.
        """
        check_settings(self, "adaptive plan")
        return {uid: num for uid, tally in tallies.items() if (num := self._needed(uid, tally))}

    def _needed(self, uid: str, tally: Tally) -> int:
        if not 0 <= tally.good <= tally.drawn:
            raise ValueError(f"prompt {uid!r} has {tally.good} good samples of {tally.drawn} drawn")
        missing, budget = self.enough - tally.good, max(self.max_samples - tally.drawn, 0)
        if missing <= 0:
            return 0
        if not tally.drawn:
            return min(self.first, budget)
        expected = -(-missing * (tally.drawn + 2) // (tally.good + 1))
        return min(expected, self.per_round, budget)
