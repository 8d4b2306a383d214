"""Advantage functions: rewards -> a weight for every trained token. `algorithm.advantage` selects one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.ops.advantages import discounted_returns, gae, group_advantages
from rlcore.ops.masking import keep, masked_sum
from rlcore.registry import ADVANTAGES, advantage, load_file


@dataclass(frozen=True)
class AdvantageInputs:
    """Input of an advantage function: B samples of a step, padded on the right to T tokens.

    An invalid row has no score: its advantages are set to 0, and statistics should exclude it.
    """

    scores: Tensor  # [B] float64, reward minus the length penalty; 0 where invalid
    valid: Tensor  # [B] bool, False where scoring failed
    group_ids: Tensor  # [B] int64, equal for the samples of one prompt
    mask: Tensor  # [B, T] bool, True for trained tokens
    token_rewards: Tensor  # [B, T] float64, the score at the last trained token, minus the KL penalty of every token
    values: Tensor | None  # [B, T] float32, the critic's
    old_logprobs: Tensor | None  # [B, T] float32, trainer, at batch start
    ref_logprobs: Tensor | None  # [B, T] float32
    config: AlgorithmConfig  # with the current `kl_coef` of the KL controller

    @property
    def totals(self) -> Tensor:
        """[B] float64, sum of the row's token rewards: the score minus the KL penalty of the whole response."""
        # a row without trained tokens cannot carry its score in token rewards, but belongs to its group
        return torch.where(self.mask.any(1), masked_sum(self.token_rewards, self.mask, 1), self.scores)

    def spread(self, per_row: Tensor) -> Tensor:
        """Expands [B] to [B, T]: the row's number on all its trained tokens, 0 elsewhere."""
        return keep(per_row[:, None].expand(self.mask.shape), self.mask)

    def needed(self, name: str) -> Tensor:
        """The optional field `name`.

        Raises:
            ValueError: it was not computed.
        """
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"algorithm.advantage={self.config.advantage} needs {name}, the batch has none")
        return tensor


# -> [B, T] advantages, or (advantages, returns); returns are the critic's targets
AdvantageFunction = Callable[[AdvantageInputs], Tensor | tuple[Tensor, Tensor]]


def find_advantage(config: AlgorithmConfig) -> AdvantageFunction:
    """The function named by `config.advantage`, after importing `config.files`.

    Raises:
        RegistryError: a file that cannot be imported, or an unknown function.
    """
    for path in config.files:
        load_file(path, "algorithm")
    return ADVANTAGES.get(config.advantage)


@advantage("group")
def group(inputs: AdvantageInputs) -> Tensor:
    """Advantage relative to the other samples of the prompt: GRPO, Dr.GRPO, RLOO (`config.baseline`, `config.scale`).

    Rewards are those of whole responses: with the KL in the reward they are `r_i - kl_coef * sum_t kl_it`, as in RLOO
    and MDLOO. See `ops.advantages.group_advantages`.
    """
    config = inputs.config
    per_row = group_advantages(
        inputs.totals, inputs.group_ids, config.baseline.value, config.scale.value, valid=inputs.valid
    )
    return inputs.spread(per_row)


@advantage("gae")
def generalised(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation against the critic (`config.gamma`, `config.lam`); see `ops.advantages.gae`.

    Raises:
        ValueError: the batch has no values.
    """
    return gae(inputs.token_rewards, inputs.needed("values"), inputs.mask, inputs.config.gamma, inputs.config.lam)


@advantage("returns")
def returns(inputs: AdvantageInputs) -> Tensor:
    """Discounted future rewards without baseline: REINFORCE; whitened over the batch: REINFORCE++ (2501.03262)."""
    return discounted_returns(inputs.token_rewards, inputs.mask, inputs.config.gamma)


@advantage("nash_md")
def nash_md(inputs: AdvantageInputs) -> Tensor:
    """Nash-MD-PG: win rate against a mixture of policy and reference, minus the KL penalty.

        A_i  = sum_j w_ij P(y_i > y_j) - 1/2 - kl_coef (log pi_old(y_i) - log pi_ref(y_i)),     j != i of the prompt
        w_ij ~ (pi_ref(y_j) / pi_old(y_j))^m,    sum_j w_ij = 1,    m = config.nash_mixture
        P    = 1, 1/2 or 0 as the score of y_i is above, equal to or below that of y_j

    In the paper y_j is drawn from the geometric mixture `pi' ~ pi^(1-m) pi_ref^m`. Here it is one of the existing
    samples of pi, weighted by `pi' / pi` up to a constant that the normalisation removes: self-normalised importance
    sampling, biased by O(1/G) and equal to the paper's expectation in the limit of many samples (log-ratios of long
    responses vary so much that few of them carry the weight). At m = 0 it is unbiased self-play. The paper's learned
    preference model is replaced by a comparison of scores. The KL term is used if `config.kl_in` is `reward` (the
    paper's `kl_kind` is k1); with `loss` it is a term of the loss instead. The only sample of a prompt has no opponent
    and gets 0.

    Raises:
        ValueError: the batch has no old or no reference log-probs.

    Source: Munos et al. 2023, arXiv 2312.00886 section 7: the mixture is Nash-MD's regularised policy, the baseline 1/2
    and the KL term are those of the policy-gradient estimate.
    """
    old, ref = (keep(inputs.needed(name), inputs.mask).double() for name in ("old_logprobs", "ref_logprobs"))
    log_weights = inputs.config.nash_mixture * (ref - old).sum(1)
    same = (inputs.group_ids[:, None] == inputs.group_ids) & ~torch.eye(len(old), dtype=torch.bool)
    opponents = same & inputs.valid & inputs.valid[:, None]  # [B, B], row i: its opponents j
    has_one = opponents.any(1)
    table = log_weights.expand(opponents.shape).masked_fill(~opponents, -torch.inf)
    weights = keep(torch.softmax(keep(table, has_one[:, None]), 1), opponents)
    ahead = (torch.sign(inputs.scores[:, None] - inputs.scores) + 1) / 2
    penalty = inputs.scores - inputs.totals
    return inputs.spread(keep((weights * ahead).sum(1) - 0.5 - penalty, has_one))
