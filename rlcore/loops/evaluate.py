"""Evaluation on held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb

from rlcore.data.sources.config import EVAL_SETS
from rlcore.interfaces import Sampling, World
from rlcore.loops.sampling import sample_and_score, scored
from rlcore.rewards.config import RewardConfig
from rlcore.types import Group, Prompt, RewardResult

ALL, HELD_OUT = EVAL_SETS  # names of the mean over several sets, and of the set if `data.eval` gives none


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374,
    eq. 1).

    >>> round(pass_at_k(4, 1, 2), 3)
    0.5
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"need 0 <= correct <= samples and 1 <= k <= samples, got {num_correct}, {num_samples}, k={k}")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def majority(results: Sequence[RewardResult]) -> float | None:
    """1.0 if the most frequent answer is right, a share for ties, None without extracted answers.

    Self-consistency (Wang et al. 2022, arXiv 2203.11171). Answers are compared as text, right ones (a score of at
    least 1) with each other by their score: `1/2` and `0.5` are one answer.

    >>> answers = [RewardResult(1.0, info={"extracted": t}) for t in ("0.5", "1/2")]
    >>> majority([*answers, RewardResult(0.0, info={"extracted": "2"})])
    1.0
    """
    votes: Counter[str | None] = Counter()
    for result in results:
        terms = [result.info, *(v for v in result.info.values() if isinstance(v, Mapping))]  # of a composed reward
        text = next((t["extracted"] for t in terms if t.get("extracted") is not None), None)
        if text is not None:
            votes[None if result.ok and result.score >= 1 else text] += 1
    if not votes:
        return None
    most = max(votes.values())
    return float(votes[None] == most) / sum(count == most for count in votes.values())


def by_set(prompts: Sequence[Prompt], max_prompts: int | None = None) -> dict[str, list[Prompt]]:
    """Held-out prompts by set name (`Prompt.source`), the first `max_prompts` of each.

    Prompts without a set name are in `heldout`.
    """
    sets: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        sets.setdefault(prompt.source or HELD_OUT, []).append(prompt)
    return {name: chosen[:max_prompts] for name, chosen in sets.items()}


def evaluate(
    world: World, prompts: Sequence[Prompt], sampling: Sampling, config: RewardConfig, max_prompts: int | None = None
) -> tuple[dict[str, float], list[Group]]:
    """Samples and scores held-out prompts.

    Args:
        max_prompts: of each set; None: all.

    Returns:
        For each set `eval/<set>/mean@N`; with N > 1 `pass@k` for k = 2, 4, ... and N; `maj@N` where the reward extracts
        answers; the shares `unscored` and `truncated`. For several sets `eval/all/mean@N` too, over all their prompts.
        Unscored samples count as wrong. Right means a score of at least 1. Second, the groups, for a table.

    Raises:
        ValueError: one of several sets is called `all`.
    """
    sets = by_set(prompts, max_prompts)
    if ALL in sets and len(sets) > 1:
        raise ValueError(f"a set of prompts is called {ALL!r}, the name of the mean over all sets: rename it")
    groups = sample_and_score(world, [p for chosen in sets.values() for p in chosen], sampling, config, phase="eval")
    metrics: dict[str, float] = {}
    for name in sets:
        metrics |= _metrics(name, [g for g in groups if (g.prompt.source or HELD_OUT) == name], sampling.num_samples)
    if len(sets) > 1:
        name = f"mean@{sampling.num_samples}"
        total = sum(metrics[f"eval/{s}/{name}"] * len(chosen) for s, chosen in sets.items())
        metrics[f"eval/{ALL}/{name}"] = total / sum(map(len, sets.values()))
    return metrics, groups


def accuracy(metrics: Mapping[str, float], num_samples: int) -> float:
    """Mean score over all held-out prompts, from the metrics of `evaluate`."""
    names = [name for name in metrics if name.startswith("eval/") and name.endswith(f"/mean@{num_samples}")]
    return metrics[f"eval/{ALL}/mean@{num_samples}" if len(names) > 1 else names[0]]


def _metrics(name: str, groups: Sequence[Group], n: int) -> dict[str, float]:
    results = [[scored(t) for t in g.rollouts] for g in groups]
    total = max(sum(map(len, results)), 1)
    metrics = {
        f"mean@{n}": sum(r.score for rs in results for r in rs if r.ok) / total,
        "unscored": sum(not r.ok for rs in results for r in rs) / total,
        "truncated": sum(t.finish_reason == "length" for g in groups for t in g.rollouts) / total,
    }
    if n > 1:
        solved = [sum(r.ok and r.score >= 1 for r in rs) for rs in results]
        for k in sorted({n, *(2**i for i in range(1, n.bit_length()) if 2**i <= n)}):
            metrics[f"pass@{k}"] = sum(pass_at_k(n, c, k) for c in solved) / max(len(solved), 1)
        voted = [vote for rs in results if (vote := majority(rs)) is not None]
        if voted:
            metrics[f"maj@{n}"] = sum(voted) / len(results)
    return {f"eval/{name}/{key}": value for key, value in metrics.items()}
