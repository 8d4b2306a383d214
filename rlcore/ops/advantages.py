"""Token-level advantages from a critic, and sample-level advantages relative to the group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlcore.ops.checks import as_mask, at_least_float32, require_rank, require_same_shape, require_tokens
from rlcore.ops.masking import keep
from rlcore.ops.segments import discounted_sums


def gae(
    rewards: Float[Tensor, "B T"], values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float, lam: float
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimation over action tokens.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lam A_{t+1}
        R_t     = A_t + V_t

    where t + 1 is the next masked-in token of the row, and V and A after the last one are 0 (the episode ends).

    Args:
        rewards: [B, T]; ignored outside the mask.
        values: [B, T], the critic's V_t; ignored outside the mask.
        mask: [B, T] bool, True at action tokens. A gap (tool output) costs no discount.
        gamma: discount per action token.
        lam: 0 is the one-step temporal difference, 1 is return minus value.

    Returns:
        (advantages, returns), both [B, T] float32 (float64 if an input is), 0 outside the mask.

    Raises:
        ValueError: shapes differ, are not [B, T], or the mask is not one of 0 and 1.

    Source: arXiv 1506.02438, equations 11 to 16.
    """
    mask = require_tokens(mask, rewards=rewards, values=values)
    rewards, values = at_least_float32(rewards)[mask], at_least_float32(values)[mask]
    offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    advantages = flat_gae(rewards, values, offsets, gamma, lam)
    out = advantages.new_zeros(2, *mask.shape)
    out[0][mask], out[1][mask] = advantages, advantages + values
    return out[0], out[1]


def flat_gae(
    rewards: Float[Tensor, " N"], values: Float[Tensor, " N"], offsets: Int[Tensor, " rows"], gamma: float, lam: float
) -> Float[Tensor, " N"]:
    """Advantages of `gae` over the action tokens alone: row b is `offsets[b]` to `offsets[b + 1]` of the flat tensors.

    Returns:
        [N] float32 (float64 if an input is).
    """
    following = torch.nn.functional.pad(values[1:], (0, 1))[: len(values)]
    following[offsets[1:][offsets.diff() > 0] - 1] = 0.0  # the episode ends
    return discounted_sums(rewards + gamma * following - values, offsets, gamma * lam)


def discounted_returns(rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float) -> Float[Tensor, "B T"]:
    """Discounted sum of the current and later rewards, over action tokens.

        R_t = r_t + gamma R_{t+1}

    where t + 1 is the next masked-in token of the row and R after the last one is 0.

    Args:
        rewards: [B, T]; ignored outside the mask.
        mask: [B, T] bool, True at action tokens. A gap costs no discount.
        gamma: discount per action token.

    Returns:
        [B, T] float32 (float64 for float64 input), 0 outside the mask.

    Raises:
        ValueError: shapes differ, are not [B, T], or the mask is not one of 0 and 1.

    Source: Sutton and Barto, Reinforcement Learning, 2018, equation 3.9.
    """
    # with V = 0 and lam = 1 the advantage is the return
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


class _Groups:
    """Valid scores [B] by group, and the statistics for baselines and scales: float64, one value per sample [B]."""

    def __init__(self, scores: Tensor, group_ids: Tensor, valid: Tensor) -> None:
        _, self.index = torch.unique(group_ids, return_inverse=True)
        self.scores, self.valid = keep(scores.double(), valid), valid
        self.num_groups = int(self.index.max()) + 1 if self.index.numel() else 0
        self.count = self.sum(valid.double())
        self.mean = self.sum(self.scores) / self.count.clamp(min=1)
        low, high = (self._extreme(kind) for kind in ("amin", "amax"))
        # a group of one sample or of equal scores has advantage 0, also when rounding makes its mean differ from its
        # scores
        self.degenerate = (self.count < 2) | (low == high)

    def sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.num_groups).index_add_(0, self.index, x)[self.index]

    def _extreme(self, kind: str) -> Tensor:
        fill = torch.inf if kind == "amin" else -torch.inf
        filled = torch.where(self.valid, self.scores, fill)
        out = filled.new_full((self.num_groups,), fill)
        return out.scatter_reduce_(0, self.index, filled, kind)[self.index]

    def std(self) -> Tensor:
        squares = self.sum(keep((self.scores - self.mean).square(), self.valid))
        return (squares / (self.count - 1).clamp(min=1)).sqrt()

    def batch_std(self) -> Tensor:
        scores = self.scores[self.valid]
        return scores.std() if scores.numel() > 1 else scores.new_zeros(())

    def nothing_to_compare(self, baseline: str, scale: str) -> Tensor:
        """[B] bool: the baseline or the scale of the sample comes from a single score or from equal scores."""
        lone = self.degenerate if baseline != "none" or scale == "std" else torch.zeros_like(self.valid)
        scores = self.scores[self.valid]
        if scale == "batch_std" and (scores.numel() < 2 or bool(scores.min() == scores.max())):
            return torch.ones_like(lone)
        return lone


BASELINES: dict[str, Callable[[_Groups], Tensor]] = {
    "mean": lambda g: g.mean,
    "leave_one_out": lambda g: (g.sum(g.scores) - g.scores) / (g.count - 1).clamp(min=1),
    "none": lambda g: torch.zeros_like(g.scores),
}
SCALES: dict[str, Callable[[_Groups, float], Tensor]] = {
    "std": lambda g, eps: g.std() + eps,
    "batch_std": lambda g, eps: g.batch_std() + eps,
    "none": lambda g, eps: torch.ones_like(g.scores),
}


def group_advantages(
    scores: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    baseline: str,
    scale: str,
    eps: float = 1e-6,
    valid: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    """Advantage of each sample against the others of its group.

        A_i = (r_i - b_i) / s_i

        baseline  mean           b_i = mean of the group                      GRPO, Dr.GRPO
                  leave_one_out  b_i = mean of the group without i            RLOO
                  none           b_i = 0
        scale     std            s_i = unbiased std of the group + eps        GRPO
                  batch_std      s_i = unbiased std of all scores + eps
                  none           s_i = 1                                      Dr.GRPO, RLOO

    Args:
        scores: [B] rewards r_i.
        group_ids: [B] integers; equal for the samples of one prompt, in any order.
        baseline, scale: names above.
        eps: keeps the division finite.
        valid: [B] bool, False for samples without a score. They take no part in any statistic and get 0; their
            `scores` may be NaN. None: all are valid.

    Returns:
        [B] float32 (float64 for float64 scores). A group with one valid sample or with equal scores gets 0 if its
        baseline or scale comes from the group. With scale "batch_std" all samples get 0 if all scores are equal. (With
        baseline "none" and a scale that does not come from the group, the score itself is scaled, as in plain REINFORCE
        with one sample per prompt.)

    Raises:
        ValueError: shapes differ or are not [B], an unknown name, or a valid score that is not finite.

    Source: GRPO arXiv 2402.03300 section 4.1; Dr.GRPO 2503.20783 section 3; RLOO 2402.14740.
    """
    require_rank(1, scores=scores, group_ids=group_ids, valid=valid)
    require_same_shape(scores=scores, group_ids=group_ids, valid=valid)
    if baseline not in BASELINES or scale not in SCALES:
        raise ValueError(
            f"baseline must be one of {', '.join(BASELINES)} and scale one of {', '.join(SCALES)}; "
            f"they are {baseline!r} and {scale!r}"
        )
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else as_mask(valid)
    if not bool(torch.isfinite(scores[valid]).all()):
        raise ValueError("a valid score is not finite")
    groups = _Groups(scores, group_ids, valid)
    advantages = (groups.scores - BASELINES[baseline](groups)) / SCALES[scale](groups, eps)
    trained = valid & ~groups.nothing_to_compare(baseline, scale)
    return keep(advantages, trained).to(at_least_float32(scores).dtype)
