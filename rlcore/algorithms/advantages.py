"""Advantage functions: rewards -> a weight for every trained token. `algorithm.advantage` selects one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from rlcore.algorithms.config import AlgorithmConfig, KLPlace
from rlcore.algorithms.shaping import kl_per_token
from rlcore.ops.advantages import flat_gae, group_advantages
from rlcore.ops.masking import keep
from rlcore.ops.segments import discounted_sums, row_sums
from rlcore.ragged import CHUNK, trim
from rlcore.registry import ADVANTAGES, advantage, load_file, origin
from rlcore.types import TrainBatch


@dataclass(frozen=True)
class AdvantageInputs:
    """Input of an advantage function: B samples of a step, N tokens in all, one sample after the other.

    Row b is `offsets[b]` to `offsets[b + 1]` of every [N] tensor. An invalid row has no score: its advantages are set
    to 0, and statistics should exclude it. [N] tensors are made when they are read, because those of long samples fill
    gigabytes: a function of `totals` needs none.
    """

    scores: Tensor  # [B] float64, reward minus the length penalty; 0 where invalid
    valid: Tensor  # [B] bool, False where scoring failed
    group_ids: Tensor  # [B] int64, equal for the samples of one prompt
    rollout_ids: Tensor  # [B] int64, equal for the rows of one rollout; statistics count each rollout once
    totals: Tensor  # [B] float64, the score minus the KL penalty of the whole rollout
    batch: TrainBatch  # the same rows
    config: AlgorithmConfig  # with the current `kl_coef` of the KL controller

    @cached_property
    def offsets(self) -> Tensor:
        """[B + 1] int64."""
        return torch.tensor(self.batch.offsets)

    @cached_property
    def mask(self) -> Tensor:
        """[N] bool, True for trained tokens."""
        return torch.tensor(self.batch.loss_mask, dtype=torch.bool)

    @cached_property
    def token_rewards(self) -> Tensor:
        """[N] float64, the score at the last trained token of its row, minus the KL penalty of every token."""
        rows, ends = self._trained_offsets.diff() > 0, self._trained_offsets[1:]
        rewards = torch.zeros(self.mask.shape, dtype=torch.float64)
        rewards[self.mask.nonzero().squeeze(1)[ends[rows] - 1]] = self.scores[rows]
        return rewards if (penalties := self.kl_penalties()) is None else rewards - penalties

    @property
    def values(self) -> Tensor | None:
        """[N] float32, the critic's."""
        return self._tokens("values")

    @property
    def old_logprobs(self) -> Tensor | None:
        """[N] float32, trainer, at batch start."""
        return self._tokens("old_logprobs")

    @property
    def ref_logprobs(self) -> Tensor | None:
        """[N] float32."""
        return self._tokens("ref_logprobs")

    def needed(self, name: str) -> Tensor:
        """The optional tensor `name`.

        Raises:
            ValueError: it was not computed.
        """
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"algorithm.advantage={self.config.advantage} needs {name}, the batch has none")
        return tensor

    @cached_property
    def first_rows(self) -> Tensor:
        """[B] bool, True for one row of each rollout."""
        first = torch.ones_like(self.valid)
        first[1:] = self.rollout_ids[1:] != self.rollout_ids[:-1]
        return first

    def rollout_sums(self, per_row: Tensor) -> Tensor:
        """[B], sums of [B] over the rows of each rollout, for all of them."""
        _, index = torch.unique(self.rollout_ids, return_inverse=True)
        return torch.zeros_like(per_row).index_add(0, index, per_row)[index]

    def shared(self, per_row: Tensor) -> Tensor:
        """[B], the number of the first row of a rollout for all of its rows."""
        return per_row[self.first_rows][self.first_rows.cumsum(0) - 1]

    def spread(self, per_row: Tensor) -> Tensor:
        """Expands [B] to [N]: the row's number on all its trained tokens, 0 elsewhere."""
        return keep(per_row.repeat_interleave(self.offsets.diff()), self.mask)

    def row_sums(self, per_token: Tensor) -> Tensor:
        """[B] float64, sums of [N] over the trained tokens of each row."""
        return row_sums(keep(per_token, self.mask).double(), self.offsets)

    def discounted_sums(self, per_token: Tensor, factor: float) -> Tensor:
        """[N] float64: the sum from every trained token to the last one of its row, each step times `factor`; 0
        elsewhere. Tokens that are not trained (tool output) cost no discount.
        """
        return self._at_trained(discounted_sums(per_token[self.mask].double(), self._trained_offsets, factor))

    def gae(self) -> tuple[Tensor, Tensor]:
        """Advantages and returns of `ops.advantages.gae`, [N] float64."""
        rewards, values = self.token_rewards[self.mask], self.needed("values")[self.mask].double()
        found = flat_gae(rewards, values, self._trained_offsets, self.config.gamma, self.config.lam)
        return self._at_trained(found), self._at_trained(found + values)

    def kl_penalties(self) -> Tensor | None:
        """[N] float64, `kl_coef` times the KL estimate at the trained tokens of valid rows; None if `kl_in` is not
        `reward`.
        """
        config = self.config
        if config.kl_in is not KLPlace.reward or not config.kl_coef:
            return None
        old, ref = self.needed("old_logprobs"), self.needed("ref_logprobs")
        return config.kl_coef * kl_per_token(old, ref, self.spread(self.valid), config.kl_estimator, config.kl_clamp)

    def chunks(self) -> Iterator[tuple[slice, AdvantageInputs]]:
        """Consecutive rows, few tokens at a time: their row numbers and their inputs."""
        for rows, part in self.batch.chunks():
            names = ("scores", "valid", "group_ids", "rollout_ids", "totals")
            of_rows = {name: getattr(self, name)[rows] for name in names}
            yield rows, replace(self, batch=part, **of_rows)

    @cached_property
    def _trained_offsets(self) -> Tensor:
        """[B + 1], of rows without the tokens that are not trained."""
        return torch.nn.functional.pad(torch.tensor(self.batch.loss_counts).cumsum(0), (1, 0))

    def _at_trained(self, numbers: Tensor) -> Tensor:
        return numbers.new_zeros(self.mask.shape).masked_scatter(self.mask, numbers)

    def _tokens(self, name: str) -> Tensor | None:
        array = getattr(self.batch, name)
        return None if array is None else torch.tensor(array)


# -> advantages, or (advantages, returns); returns are the critic's targets. Each is [N], or [B] for the same number on
# all trained tokens of a row
AdvantageFunction = Callable[[AdvantageInputs], Tensor | tuple[Tensor, Tensor]]
F = TypeVar("F", bound=AdvantageFunction)
_ROW_BY_ROW: set[AdvantageFunction] = set()


def row_by_row(function: F) -> F:
    """Marks an advantage function whose result for a row depends on no other row. It is called on a few rows at a time,
    more than once with `algorithm.whiten`, so that a step of long samples needs little memory.
    """
    _ROW_BY_ROW.add(function)
    return function


Result = tuple[AdvantageInputs, list[Tensor]]  # of some rows: their inputs; advantages and perhaps returns, [n] float64


def evaluate(function: AdvantageFunction, inputs: AdvantageInputs) -> Callable[[], Iterator[Result]]:
    """An iteration over the results, a few rows at a time; they are 0 where nothing is trained. It can be repeated.

    Raises (the iteration as well):
        ValueError: a result is neither [N] nor [B], or is not finite.
    """
    whole = None if function in _ROW_BY_ROW else _pair(function(inputs), inputs, function)

    def iterate() -> Iterator[Result]:
        every = max(16, inputs.batch.num_tokens // CHUNK // 16)  # a trim takes time in proportion to all samples
        for index, (rows, part) in enumerate(inputs.chunks(), 1):
            if index % every == 0:
                trim()
            if whole is None:
                found = _pair(function(part), part, function)
            else:
                tokens = slice(*inputs.batch.offsets[[rows.start, rows.stop]].tolist())
                found = [x[tokens if len(x) == inputs.batch.num_tokens else rows] for x in whole]
            names = zip(found, ("advantages", "returns"), strict=False)
            yield part, [_checked(x, part, rows.start, f"{name} of {origin(function)}") for x, name in names]

    return iterate


def _pair(
    found: Tensor | tuple[Tensor, Tensor], inputs: AdvantageInputs, function: AdvantageFunction
) -> list[Tensor]:
    pair = list(found) if isinstance(found, tuple) else [found]
    for x, name in zip(pair, ("advantages", "returns"), strict=False):
        if x.shape not in ((inputs.batch.num_tokens,), (len(inputs.batch),)):
            sizes = f"{len(inputs.batch)} rows of {inputs.batch.num_tokens} tokens in all"
            raise ValueError(f"{name} of {origin(function)} have shape {tuple(x.shape)}, the batch has {sizes}")
    return pair


def _checked(found: Tensor, part: AdvantageInputs, first_row: int, name: str) -> Tensor:
    per_token = found if len(found) == part.batch.num_tokens else found.repeat_interleave(part.offsets.diff())
    kept = keep(per_token.detach().double(), part.spread(part.valid))
    bad = (~torch.isfinite(kept)).nonzero()
    if len(bad):
        row = int(torch.searchsorted(part.offsets, bad[0], right=True)) - 1
        raise ValueError(f"{name} are not finite in row {first_row + row}")
    return kept


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
    baseline, scale = inputs.config.baseline.value, inputs.config.scale.value
    valid = inputs.valid & inputs.first_rows
    return inputs.shared(group_advantages(inputs.totals, inputs.group_ids, baseline, scale, valid=valid))


@advantage("gae")
@row_by_row
def generalised(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation against the critic (`config.gamma`, `config.lam`); see `ops.advantages.gae`.

    Raises:
        ValueError: the batch has no values.
    """
    return inputs.gae()


@advantage("returns")
@row_by_row
def returns(inputs: AdvantageInputs) -> Tensor:
    """Discounted future rewards without baseline: REINFORCE; whitened over the batch: REINFORCE++ (2501.03262)."""
    return inputs.discounted_sums(inputs.token_rewards, inputs.config.gamma)


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
    ratios = [x.row_sums(x.needed("ref_logprobs").double() - x.needed("old_logprobs")) for _, x in inputs.chunks()]
    log_weights = inputs.config.nash_mixture * inputs.rollout_sums(torch.cat(ratios))
    table = _by_group(inputs.group_ids)
    present = (table >= 0) & (inputs.valid & inputs.first_rows)[table]
    opponents = present[:, :, None] & present[:, None] & ~torch.eye(table.shape[1], dtype=torch.bool)  # [P, G, G]
    has_one = opponents.any(2)
    logits = log_weights[table][:, None].expand(opponents.shape).masked_fill(~opponents, -torch.inf)
    weights = keep(torch.softmax(keep(logits, has_one[:, :, None]), 2), opponents)
    scores = inputs.scores[table]
    ahead = (torch.sign(scores[:, :, None] - scores[:, None]) + 1) / 2
    penalty = (inputs.scores - inputs.totals)[table]
    found = keep((weights * ahead).sum(2) - 0.5 - penalty, has_one)
    return inputs.shared(torch.zeros_like(inputs.scores).index_copy(0, table[table >= 0], found[table >= 0]))


def _by_group(group_ids: Tensor) -> Tensor:
    """[P, G] rows of every group, in order; -1 after the end of a smaller one."""
    groups, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)[1:]
    order = torch.argsort(groups, stable=True)
    places = torch.arange(len(order)) - (counts.cumsum(0) - counts)[groups[order]]
    table = torch.full((len(counts), int(counts.max())), -1)
    table[groups[order], places] = order
    return table
