"""Inputs of a stage, and the weights that actors have between stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlcore.data.rewriting.evolution import RewritingConfig
from rlcore.data.selection.best_of_n import SelectionConfig, SelectionMethod, Unscored
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.sft import SftConfig
from tests.rounds.stages.cases import SAMPLE, rows
from tests.rounds.world import Killed, Stand, train


def test_ids_stay_unique_when_what_was_joined_is_joined_again(tmp_path):
    """`pool` of round 2 has `p0#0.0` and, of the second round, `p0#0.0+1`; that of round 3 has both too."""
    everything = SelectionConfig(method=SelectionMethod.all)
    stages = {
        "sample": replace(SAMPLE, num_samples=2),
        "pool": RejectionSampleConfig(samples=["sample@all"], select=replace(everything, unscored=Unscored.lowest)),
        "whole": RejectionSampleConfig(
            samples=["pool@all", "sample"], select=replace(everything, unscored=Unscored.lowest), rounds=[3]
        ),
    }
    made = Stand(tmp_path, stages, count=3).run()
    ids = [row["sample_id"] for row in rows(made[3, "whole"])]
    assert len(ids) == 20 + 40 + 60 + 20
    assert len(set(ids)) == len(ids)


def test_a_prompt_of_two_artefacts_is_one(tmp_path):
    """Put back in both rounds: samples of one uid are one group, and nobody takes a prompt twice."""
    config = RewriteConfig(data="train", rewriting=RewritingConfig(put_back=True))
    stages = {
        "evolve": config,
        "pool": FilterStageConfig(data=["evolve@all", "train"]),
        "sample": replace(SAMPLE, prompts="pool", num_samples=2),
    }
    say = lambda p: "New task:" if p.uid[1] in "123" else f"New task: {p.uid}"  # noqa: E731
    made = Stand(tmp_path, stages, count=2, say=say).run()
    uids = [row["uid"] for row in rows(made[2, "pool"])]
    assert (
        sorted(uids)
        == sorted({*uids})
        == sorted({f"p{i}" for i in range(10)} | {f"p{i}~evolve-r{r}.0" for r in (1, 2) for i in (0, 4, 5, 6, 7, 8, 9)})
    )
    assert made[2, "pool"].report["counts"] == {"dropped_repeated_prompt": 3 + 3}
    ids = [row["sample_id"] for row in rows(made[2, "sample"])]
    assert len(set(ids)) == len(ids) == 2 * len(uids)


def chain():
    return {
        "one": SftConfig(data=["answers"], train=train(3)),
        "two": SftConfig(data=["answers"], start="one", train=train(3)),
        "look": EvaluateConfig(model="two"),
    }


def test_weights_stay_where_they_are_between_stages(tmp_path):
    stand = Stand(tmp_path, chain())
    stand.run()
    assert stand.live.num_loads == 0
    assert not stand.live.world.policy.loaded
    assert stand.live.world.policy.resets == 1  # before `two`: what `one` taught its optimizer is forgotten


def test_where_weights_are_rounded_for_export_they_are_loaded_again(tmp_path):
    """bfloat16 or adapters: the policy goes on from what is on disk, as after a restart."""
    stand = Stand(tmp_path, chain(), exact=False)
    stand.run()
    assert [path.parent.name[:7] for path in stand.live.world.policy.loaded] == ["r01-one"]
    assert stand.live.world.policy.resets == 0


def test_a_stage_that_fails_leaves_nobody_believing_in_its_weights(tmp_path):
    stand = Stand(tmp_path, chain())
    left = 5

    def at(place):
        nonlocal left
        left -= place == "update"
        if not left:
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    assert stand.live.policy_weights == ""
