"""A custom advantage: ranks instead of rewards. A custom loss: a quadratic penalty instead of a clip."""

import torch
from torch import Tensor

import rlcore
from rlcore.algorithms.advantages import AdvantageInputs
from rlcore.algorithms.policy_gradient import LossInputs
from rlcore.ops.masking import keep, masked_mean
from rlcore.ops.policy_losses import log_ratio


@rlcore.advantage("ranks")
def ranks(x: AdvantageInputs) -> Tensor:
    """(Samples of the same prompt that this one beats - samples that beat it) / number of others: -1 to 1."""
    same_prompt = (x.group_ids[:, None] == x.group_ids) & x.valid  # [B, B]
    ahead = torch.sign(x.scores[:, None] - x.scores) * same_prompt
    return ahead.sum(1) / (same_prompt.sum(1) - 1).clamp(min=1)


@rlcore.policy_loss("leash")
def leash(x: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """`-w A + (log w)^2 / (2 clip_high)`: no token loses its gradient; the penalty grows as w moves away from 1."""
    log_w = log_ratio(x.logprobs, x.old_logprobs, x.mask)
    pull = log_w.square() / (2 * x.config.clip_high)
    return pull - log_w.exp() * keep(x.advantages, x.mask), {"pull": masked_mean(pull.detach(), x.mask)}
