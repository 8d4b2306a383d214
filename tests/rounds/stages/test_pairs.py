"""Pairs of samples as a stage."""

from __future__ import annotations

from rlcore.data.selection.pairing import PairingConfig, PairingMethod
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.score import ScoreConfig
from tests.rounds.stages.cases import NOTHING, SAMPLE, rows
from tests.rounds.world import Stand


def test_pairs_of_samples_and_of_references(tmp_path):
    reference = PairingConfig(method=PairingMethod.reference, pairs_per_prompt=None)
    stages = {
        "sample": GenerateConfig(num_samples=6),
        "scored": PairsConfig(samples=["sample"]),
        "against": PairsConfig(samples=["sample"], pairing=reference),
    }
    made = Stand(tmp_path, stages).run()
    for row in rows(made[1, "scored"]):
        assert row["chosen_response"] == row["reference"] != row["rejected_response"]
        assert row["strength"] == 1.0
    found = rows(made[1, "against"])
    assert {row["chosen_response_ids"][-1] for row in found} == {11}  # the end token is part of what is learnt
    assert all(row["chosen_response_ids"][0] == int(row["reference"]) for row in found)
    assert all(row["chosen_response"] == row["reference"] != row["rejected_response"] for row in found)


def test_no_rows_are_an_artefact_too(tmp_path):
    stages = {
        "sample": SAMPLE, "nothing": NOTHING, "rank": ScoreConfig(samples=["nothing"]),
        "best": RejectionSampleConfig(samples=["rank"]), "annotate": PairsConfig(samples=["rank"]),
        "revise": RewriteConfig(data="best"),
        "again": FilterStageConfig(data=["annotate"], filters=[{"kind": "tie"}]),
    }  # fmt: skip
    made = Stand(tmp_path, stages).run()
    assert [made[1, name].num_rows for name in stages if name != "sample"] == [0] * 6
