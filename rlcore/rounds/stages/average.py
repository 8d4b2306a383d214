"""Averages the weights of models with one architecture, as in Llama 3 (arXiv 2407.21783 section 4.1.5)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import ClassVar

from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.storage.average import average


@dataclass
class AverageConfig(StageConfig):
    models: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # weights of the models; empty: equal

    KIND: ClassVar = "average"
    PRODUCES: ClassVar = Made.model
    CONSUMES: ClassVar = {"models": (Made.model,)}
    SEEDED: ClassVar = False


def run(context: StageContext) -> Artefact:
    config: AverageConfig = context.config
    models = context.inputs["models"]
    shares = {entry: config.weights[entry] for entry in range(len(config.weights))}
    sources = context.node.inputs["models"]
    counts = {entry: sum(s.entry == entry for s in sources) for entry in shares}
    weights = [shares[s.entry] / counts[s.entry] for s in sources] if shares else None
    folder = context.draft.directory / "model"
    shutil.rmtree(folder, ignore_errors=True)  # left by an earlier start
    average([model.path for model in models], folder, weights)
    return context.draft.finish_folder(folder, {"models": [model.hash for model in models]})
