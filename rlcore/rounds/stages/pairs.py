"""Makes pairs of chosen and rejected samples. Needs no actor; a restart begins from the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rlcore.data import tables
from rlcore.data.selection.pairing import PairingConfig, make_pairs
from rlcore.data.tokenizer import encode
from rlcore.rounds.context import StageContext, finish, joined, prompts_together
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact


@dataclass
class PairsConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    pairing: PairingConfig = field(default_factory=PairingConfig)

    KIND: ClassVar = "pairs"
    PRODUCES: ClassVar = Made.pairs
    CONSUMES: ClassVar = {"samples": (Made.samples,)}


def run(context: StageContext) -> Artefact:
    config: PairsConfig = context.config
    pairing: PairingConfig = config.pairing
    tokenizer = context.live.tokenizer

    def tokens(text: str) -> tuple[int, ...]:
        return (*encode(tokenizer, [text], special=False)[0], int(tokenizer.eos_token_id))

    samples = tables.to_samples(prompts_together(joined(context.inputs["samples"])))
    made, counts = make_pairs(samples, pairing, context.seeds(), tokens)
    return finish(context, tables.from_pairs(made), {"counts": counts})
