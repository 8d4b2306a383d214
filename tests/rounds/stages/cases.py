"""Stages and readings of their results, for the tests of several stages."""

from __future__ import annotations

import torch

from rlcore.data import tables
from rlcore.data.selection.pairing import PairingConfig
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig
from rlcore.types import Prompt, Sample
from tests.fakes import read_model
from tests.rounds.world import train

SAMPLE = GenerateConfig(num_samples=6, score=False)
NOTHING = FilterStageConfig(
    data=["sample"], filters=[{"kind": "length", "of": "response", "unit": "characters", "min": 99}]
)


def calls(stand):
    return [event for event in stand.log if event[0] == "generate"]


def rows(artefact):
    return artefact.table().to_pylist()


def updates(stand):
    return [event for event in stand.log if event[0] in ("update", "fit")]


def chance_of_answer(artefact):
    """Mean chance of the right digit."""
    return float(torch.softmax(read_model(artefact.path), -1)[torch.arange(10), torch.arange(10)].mean())


def samples(name, count):
    return tables.from_samples(Sample(Prompt(f"{name}{i}", (1,), ""), f"{name}{i}", "", (1,)) for i in range(count))


def preferring(**more):
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "tune": PreferenceStageConfig(data=["annotate"], train=train(6, per_step=16), **more),
    }
