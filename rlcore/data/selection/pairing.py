"""Makes preference pairs from scored samples or from reference answers.

Pure and deterministic: the pairs of a prompt depend on its own samples, the settings and the seed. Every dropped
candidate pair has a reason, and the counts add up.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from rlcore.data.selection.best_of_n import Ties, by_prompt, prompt_rng, ranked, score_of
from rlcore.problems import Problem, bounded, check_settings
from rlcore.types import Pair, Prompt, RewardResult, Sample

Encode = Callable[[str], Sequence[int]]  # token ids of a response, including the end token


class PairingMethod(str, enum.Enum):
    """Candidate pairs of a prompt, with its samples ranked by score."""

    best_worst = "best_worst"  # best and worst, second best and second worst, ...
    best_random = "best_random"  # the best with others in random order
    all_pairs = "all_pairs"
    top_bottom = "top_bottom"  # each of the k best with each of the k worst
    adjacent = "adjacent"  # each with those of the next lower score; with `part`: edited > chosen > rejected (Llama 3)
    reference = "reference"  # the reference answer with wrong samples
    first_round = "first_round"  # first round of a tournament (arXiv 2309.06657, section 3.3): n // 2 random pairs
    tournament = "tournament"  # a whole tournament until one winner is left: n - 1 pairs


class PairCap(str, enum.Enum):
    """Selection of at most `pairs_per_prompt` candidates; best_worst and best_random have a fixed order."""

    widest = "widest"  # largest difference first
    random = "random"


class Strength(str, enum.Enum):
    none = "none"
    difference = "difference"  # difference of the two scores
    levels = "levels"  # number of `levels` that the difference reaches


@dataclass
class PairingConfig:
    method: PairingMethod = PairingMethod.best_worst
    pairs_per_prompt: int | None = bounded(1, ge=1)  # None: all
    cap: PairCap = PairCap.widest
    k: int = bounded(2, ge=1)  # k of top_bottom
    part: str = ""  # rank by this part of the rewards (a labelled or predicted attribute) instead of the score
    min_margin: float = bounded(0.0, ge=0)  # scores must differ by more; equal scores never give a pair
    max_length_difference: int | None = bounded(None, ge=0)  # limit on the length of responses, in tokens
    good: float = 1.0  # lowest score of a right sample, for `reference`
    reference_score: float | None = None  # score of a reference answer that becomes a sample; None: unscored
    strength: Strength = Strength.difference
    # Ascending; three levels give the margins 0, 1, 2, 3 of Llama 2 (arXiv 2307.09288, table 27, large margin):
    # negligibly, slightly, just, significantly better
    levels: list[float] = field(default_factory=list)
    ties: Ties = Ties.first  # order of samples with equal scores

    def problems(self, key: str) -> Iterator[Problem]:
        if self.strength is Strength.levels and not self.levels:
            text = "strength=levels needs the differences at which a level begins"
            yield Problem(f"{key}.levels", [], text, "list them")
        if any(not low < high for low, high in zip(self.levels, self.levels[1:], strict=False)):
            yield Problem(f"{key}.levels", list(self.levels), "not in order", "they must ascend")


# reasons of dropped candidates; counted as `dropped_<reason>`
REASONS = ("identical", "tie", "margin", "length", "over_cap")
_SORTED = {PairingMethod.best_worst, PairingMethod.best_random}  # methods with their own order of candidates
Rows = list[tuple[int, int]]


def make_pairs(
    samples: Sequence[Sample], config: PairingConfig, seed: int, encode: Encode | None = None
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs, with prompts in input order, and counts.

    `reference` chooses the samples of the prompt that come from data (`model` is ""), else `prompt.reference`,
    tokenised by `encode`; it rejects samples of a model that scored below `good`. Margins are checked if both sides
    have scores; a reference without score gives a pair without strength.

    Counts: `samples`, `samples_unscored` (ignored), `prompts`, `prompts_without` a pair, `candidates`,
    `pairs`, `dropped_<reason>` for each of REASONS (candidates = pairs + all dropped).

    Raises:
        ValueError: invalid settings, a score that is not finite, or a reference but no `encode`.
    """
    check_settings(config, "pairing")
    values = [_value(sample, config.part) for sample in samples]
    book = _PairCollector(config)
    for uid, rows in by_prompt(samples).items():
        rng = prompt_rng(seed, "pairing", uid)
        known = {row: value for row in rows if (value := values[row]) is not None}
        if config.method is PairingMethod.reference:
            book.take(_with_reference(rows, known, samples, config, encode, rng))
            book.unscored += sum(row not in known and samples[row].model != "" for row in rows)
            continue
        order = ranked(list(known), known, samples, config.ties, rng)
        candidates = _candidates(order, known, config, rng)
        if config.method not in _SORTED:
            shuffled = [candidates[i] for i in rng.permutation(len(candidates))]
            candidates = shuffled if config.cap is PairCap.random else sorted(candidates, key=_width(known))
        book.take([(samples[a], samples[b], known[a], known[b]) for a, b in candidates])
        book.unscored += len(rows) - len(known)
    return book.pairs, book.counts(samples)


class _PairCollector:
    """The pairs, and the reasons of dropped candidates."""

    def __init__(self, config: PairingConfig) -> None:
        self.pairs: list[Pair] = []
        self.unscored = 0
        self._config, self._dropped = config, Counter[str]()
        self._candidates = self._served = 0

    def take(self, candidates: Sequence[tuple[Sample, Sample, float | None, float | None]]) -> None:
        """Candidates of one prompt, as (better, worse, scores)."""
        room = len(candidates) if self._config.pairs_per_prompt is None else self._config.pairs_per_prompt
        made = 0
        for better, worse, high, low in candidates:
            margin = None if high is None or low is None else high - low
            reason = self._reason(better, worse, margin) or ("over_cap" if made == room else "")
            if reason:
                self._dropped[reason] += 1
                continue
            strength = None if margin is None else _strength(margin, self._config)
            self.pairs.append(Pair(better.prompt, better, worse, strength))
            made += 1
        self._candidates += len(candidates)
        self._served += made > 0

    def counts(self, samples: Sequence[Sample]) -> dict[str, int]:
        prompts = len({sample.prompt.uid for sample in samples})
        return {
            "samples": len(samples),
            "samples_unscored": self.unscored,
            "prompts": prompts,
            "prompts_without": prompts - self._served,
            "candidates": self._candidates,
            "pairs": len(self.pairs),
            **{f"dropped_{reason}": self._dropped[reason] for reason in REASONS},
        }

    def _reason(self, better: Sample, worse: Sample, margin: float | None) -> str:
        if better.text.strip() == worse.text.strip():
            return "identical"
        if margin is not None and margin <= self._config.min_margin:
            return "margin" if margin else "tie"
        longest = self._config.max_length_difference
        if longest is not None and abs(len(better.token_ids) - len(worse.token_ids)) > longest:
            return "length"
        return ""


def _candidates(order: list[int], scores: Mapping[int, float], config: PairingConfig, rng: np.random.Generator) -> Rows:
    """`order` is ranked, best first; so is every pair."""
    num, place = len(order), {row: i for i, row in enumerate(order)}
    match config.method:
        case PairingMethod.best_worst:
            return [(order[i], order[-1 - i]) for i in range(num // 2)]
        case PairingMethod.best_random:
            return [(order[0], order[1 + i]) for i in rng.permutation(num - 1)] if order else []
        case PairingMethod.all_pairs:
            return list(combinations(order, 2))
        case PairingMethod.top_bottom:
            bottom = range(max(num - config.k, 0), num)
            return [(order[i], order[j]) for i in range(min(config.k, num)) for j in bottom if i < j]
        case PairingMethod.adjacent:
            steps = sorted(set(scores.values()), reverse=True)
            step = {row: steps.index(scores[row]) for row in order}
            return [(a, b) for a, b in combinations(order, 2) if step[b] == step[a] + 1]
    met: Rows = []
    left = [order[i] for i in rng.permutation(num)]
    while len(left) > 1:
        games = [(min(game, key=place.__getitem__), max(game, key=place.__getitem__)) for game in _neighbours(left)]
        met += games
        left = [winner for winner, _ in games] + left[2 * len(games) :]  # a sample without opponent advances
        if config.method is PairingMethod.first_round:
            break
    return met


def _neighbours(rows: list[int]) -> Rows:
    return list(zip(rows[::2], rows[1::2], strict=False))


def _width(scores: Mapping[int, float]) -> Callable[[tuple[int, int]], tuple[float, int, int]]:
    return lambda pair: (scores[pair[1]] - scores[pair[0]], *pair)


def _with_reference(
    rows: list[int],
    known: Mapping[int, float],
    samples: Sequence[Sample],
    config: PairingConfig,
    encode: Encode | None,
    rng: np.random.Generator,
) -> list[tuple[Sample, Sample, float | None, float | None]]:
    prompt = samples[rows[0]].prompt
    wrong = [row for row in rows if samples[row].model != "" and row in known and known[row] < config.good]
    wrong = [wrong[i] for i in rng.permutation(len(wrong))]
    told = [samples[row] for row in rows if samples[row].model == ""]
    if wrong and not told and prompt.reference is not None:
        told = [_reference(prompt, prompt.reference, config.reference_score, encode)]
    if config.cap is PairCap.widest:
        wrong.sort(key=lambda row: (known[row], row))
    return [(right, samples[row], _value(right, config.part), known[row]) for row in wrong for right in told]


def _reference(prompt: Prompt, text: str, score: float | None, encode: Encode | None) -> Sample:
    if encode is None:
        raise ValueError(
            f"pairing: method=reference needs the tokens of prompt {prompt.uid!r}'s reference: pass `encode`, or "
            "samples with the answers of the data"
        )
    reward = None if score is None else RewardResult(score)
    return Sample(prompt, f"{prompt.uid}#reference", text, tuple(encode(text)), reward=reward)


def _value(sample: Sample, part: str) -> float | None:
    score = score_of(sample)
    if not part or score is None or sample.reward is None:
        return score
    value = sample.reward.parts.get(part)
    if value is not None and not math.isfinite(value):
        raise ValueError(f"sample {sample.sample_id!r} has the part {part}={value}: scores must be finite")
    return value


def _strength(margin: float, config: PairingConfig) -> float | None:
    if config.strength is Strength.none:
        return None
    if config.strength is Strength.levels:
        return float(sum(margin >= level for level in config.levels))
    return margin
