"""Selection of samples as a stage."""

from __future__ import annotations

from rlcore.data.selection.best_of_n import SelectionConfig, SelectionMethod
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from tests.rounds.stages.cases import rows
from tests.rounds.world import Stand


def test_the_best_of_several_artefacts(tmp_path):
    stages = {
        "sample": GenerateConfig(num_samples=4),
        "best": RejectionSampleConfig(samples=["sample@all"]),
        "good": RejectionSampleConfig(
            samples=["sample@all"], select=SelectionConfig(method=SelectionMethod.threshold, threshold=1.0)
        ),
    }
    made = Stand(tmp_path, stages, count=3).run()
    everything = [row for n in (1, 2, 3) for row in rows(made[n, "sample"])]
    best, good = rows(made[3, "best"]), rows(made[3, "good"])
    assert [row["uid"] for row in best] == [f"p{i}" for i in range(10)]
    for row in best:
        assert row["score"] == max(other["score"] for other in everything if other["uid"] == row["uid"])
    assert len(good) == sum(row["score"] == 1 for row in everything)
    assert len({row["sample_id"] for row in good}) == len(good)  # two rounds' samples of a prompt are told apart
    assert made[3, "best"].report["counts"]["samples"] == 120
