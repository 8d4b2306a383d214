"""The parity check of a run that samples ahead, whose samples are of older weights than the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlcore.data.batching.collate import collate_groups
from rlcore.interfaces import Sampling, World
from rlcore.loops.config import ParityConfig
from rlcore.loops.parity import compare
from rlcore.metrics import Metrics
from rlcore.types import Prompt

PROBE_TOKENS = 64  # the trainer waits for them


def probe(world: World, prompts: Sequence[Prompt], sampling: Sampling, config: ParityConfig) -> Metrics:
    """Samples one short response to each of `config.num_sequences` prompts from the weights just published, and
    compares its log-probs with the policy's. Call it between a publication and the next update.

    Raises:
        ParityError: see `compare`.
    """
    few = replace(sampling, num_samples=1, max_new_tokens=min(sampling.max_new_tokens, PROBE_TOKENS), step=-1)
    with world.tracker.phase("parity"):
        groups = list(world.plain.generate(prompts[: config.num_sequences], few))
        batch = collate_groups(groups)
        return compare(batch.with_arrays(old_logprobs=world.policy.logprobs(batch)), config)
