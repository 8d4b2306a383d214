"""Makes pairs of chosen and rejected samples. Needs no actor; a restart begins from the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rlcore.data import tables
from rlcore.data.selection.pairing import PairingConfig, make_pairs
from rlcore.rounds.context import StageContext, finish
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
    made, counts = make_pairs(context.samples(), context.config.pairing, context.seeds(), context.live.response_ids)
    return finish(context, tables.from_pairs(made), {"counts": counts})
