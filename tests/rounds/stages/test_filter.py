"""Filters as a stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from tests.fakes import prompts
from tests.rounds.stages.cases import SAMPLE, rows
from tests.rounds.world import Stand


def test_a_filter_tells_each_reason(tmp_path):
    filters = [
        {"kind": "duplicates", "within_prompt": True}, {"kind": "regex", "of": "response", "pattern": "^1"},
    ]  # fmt: skip
    config = FilterStageConfig(data=["sample"], filters=filters)
    stand = Stand(tmp_path, {"sample": SAMPLE, "filter": config})
    made = stand.run()[1, "filter"]
    found = rows(made)
    assert made.made.value == "samples"
    assert not [row for row in found if row["response"].startswith("1")]
    assert len({(row["uid"], row["response"]) for row in found}) == len(found) < 60
    assert made.report["rows_kept"] == len(found)
    assert made.report["rows_in"] == 60
    assert any("rows kept" in message for message in stand.live.world.tracker.messages)


@pytest.mark.parametrize("against", [["heldout"], ["heldout", "evolve@all"], []])
def test_contamination_with_every_set_named(tmp_path, against):
    """`evolve@all` leads to two artefacts of one stage: both count."""
    world = [replace(p, text=f"the first question of all has the number {p.text} in it") for p in prompts(4)]
    stand = Stand(tmp_path, {}, count=2, prompts=world)
    stand.say = lambda p: f"New task: in round {p.uid[-3]} ask a longer thing about {p.uid[1]} and what follows it"
    filters = [{"kind": "contamination", "n": 5}] if against else []
    clean = FilterStageConfig(data=["evolve@all", "train"], against=against, filters=filters)
    stand.stages = {"evolve": RewriteConfig(data="train"), "clean": clean}
    found = stand.run()[2, "clean"].num_rows
    assert found == {0: 12, 1: 8, 2: 0}[len(against)]
