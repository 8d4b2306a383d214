"""Selects samples of each prompt. Needs no actor; a restart begins from the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.selection.best_of_n import SelectionConfig, select
from rlcore.rounds.context import StageContext, finish
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact


@dataclass
class RejectionSampleConfig(StageConfig):
    samples: list[str] = field(default_factory=list)
    select: SelectionConfig = field(default_factory=SelectionConfig)

    KIND: ClassVar = "rejection_sample"
    PRODUCES: ClassVar = Made.samples
    CONSUMES: ClassVar = {"samples": (Made.samples,)}


def run(context: StageContext) -> Artefact:
    kept, counts = select(context.samples(), context.config.select, context.seeds())
    table = tables.from_samples(kept)
    mean = pc.mean(table["score"]).as_py() if kept else None
    return finish(context, table, {"counts": counts, "mean_score": mean})
