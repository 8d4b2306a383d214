"""Evolved prompts and revised responses as a stage."""

from __future__ import annotations

import pytest

from actors.commands.rounds import reads_of
from actors.config.compose import compose
from actors.run_folder import binding, plain
from rlcore.data.rewriting.evolution import RewritingConfig
from rlcore.rounds.plan.config import Made, ScoreBy
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.score import ScoreConfig
from rlcore.templates import AnswerConfig
from tests.rounds.stages.cases import calls, rows
from tests.rounds.world import Killed, Stand


def evolving(**more):
    config = RewriteConfig(data="train", rewriting=RewritingConfig(**more), prompts_per_chunk=4)
    return {"evolve": config}


def test_prompts_are_evolved(tmp_path):
    stand = Stand(tmp_path, evolving(), say=lambda prompt: f"New task: say {prompt.uid[1]} times 7 and {prompt.uid}")
    made = stand.run()[1, "evolve"]
    assert made.made.value == "prompts"
    assert [row["uid"] for row in rows(made)] == [f"p{i}~evolve-r1.0" for i in range(10)]
    assert rows(made)[3]["prompt"] == "Psay 3 times 7 and p3~evolve-r1.0"  # rendered as the data's prompts are
    assert rows(made)[3]["prompt_ids"] == [3, 7, 3, 1, 0]  # the letters are no tokens of this world
    assert made.report["counts"]["evolved"] == 10
    assert made.report["prompts"] == 10
    assert [len(uids) for _, uids, _, _ in calls(stand)] == [4, 4, 2]


def test_evolutions_that_fail_are_counted_and_put_back(tmp_path):
    say = lambda prompt: "New task:" if prompt.uid[1] in "123" else f"New task: {prompt.uid}"  # noqa: E731
    made = Stand(tmp_path, evolving(put_back=True), say=say).run()[1, "evolve"]
    assert made.num_rows == 10
    assert sum(v for name, v in made.report["counts"].items() if name.startswith("dropped_")) == 3
    assert made.report["counts"]["put_back"] == 3
    assert {"p1", "p2", "p3"} < {row["uid"] for row in rows(made)}


def test_requests_that_the_engines_do_not_take(tmp_path):
    stand = Stand(tmp_path, evolving(), say=lambda p: f"New task: {p.uid}", max_prompt_tokens=0)
    made = stand.run()[1, "evolve"]
    assert made.num_rows == 0
    assert made.report["counts"]["too_long"] == 10
    assert not calls(stand)


@pytest.mark.parametrize("put_back", [False, True])
def test_prompts_whose_requests_are_too_long_are_put_back_too(tmp_path, put_back):
    stand = Stand(tmp_path, evolving(put_back=put_back), say=lambda p: f"New task: {p.uid}", max_prompt_tokens=0)
    made = stand.run()[1, "evolve"]
    assert [row["uid"] for row in rows(made)] == [f"p{i}" for i in range(10)] * put_back
    assert (made.report["counts"]["too_long"], made.report["counts"]["put_back"]) == (10, 10 * put_back)


def cutting_off(stand, ends):
    """The engines stop at their limit in what is said to requests whose uid ends so."""
    actors = stand.actors

    def cut(start):
        live = actors(start)
        own = live.world.rollout.generate

        def generate(prompts, sampling):
            for group in own(prompts, sampling):
                if group.prompt.uid.endswith(ends):
                    group.trajectories[0].finish_reason = "length"
                yield group

        live.world.rollout.generate = generate
        return live

    stand.actors = cut
    return stand


def test_evolutions_that_were_cut_off_are_none(tmp_path):
    ends = ("p2~evolve-r1.0", "p7~evolve-r1.0")
    stages = evolving(put_back=True)
    made = cutting_off(Stand(tmp_path / "a", stages, say=lambda p: f"New task: {p.uid}"), ends).run()[1, "evolve"]
    assert {row["uid"] for row in rows(made)} == {f"p{i}" if i in (2, 7) else f"p{i}~evolve-r1.0" for i in range(10)}
    counts = made.report["counts"]
    assert (counts["dropped_cut_off"], counts["put_back"], counts["evolved"]) == (2, 2, 8)
    # the text asked for ends before the cut
    stages["evolve"].rewriting.answer = AnswerConfig(after="New task:", before="###")
    say = lambda p: f"### New task: {p.uid}" + " ### and then" * (p.uid == ends[0])  # noqa: E731
    made = cutting_off(Stand(tmp_path / "b", stages, say=say), ends).run()[1, "evolve"]
    assert {row["uid"] for row in rows(made)} == {"p7" if i == 7 else f"p{i}~evolve-r1.0" for i in range(10)}


def test_what_was_evolved_evolves_again(tmp_path):
    stages = evolving() | {"again": RewriteConfig(data="evolve"), "rl": RlConfig(prompts="evolve")}
    made = Stand(tmp_path, stages, say=lambda p: f"New task: {p.uid} 1").run()
    (first, *_) = rows(made[1, "again"])
    assert first["uid"] == "p0~evolve-r1.0~again-r1.0"
    assert '"generation": 2' in first["metadata"]
    assert '"root": "p0"' in first["metadata"]


def test_the_name_of_the_stage_is_part_of_what_it_makes(tmp_path):
    """uids hold it: under another name the stage makes something else."""
    stages = evolving() | {"other_name": evolving()["evolve"]}
    made = Stand(tmp_path, stages, say=lambda p: f"New task: {p.uid}").run()
    assert [row["uid"] for row in rows(made[1, "other_name"])] == [f"p{i}~other_name-r1.0" for i in range(10)]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("data.chat_template=true", {"evolve", "ask"}),
        ("data.system_prompt=Be brief.", {"evolve"}),
        ("data.max_prompt_tokens=77", {"evolve"}),
    ],
)
def test_how_requests_are_rendered_is_in_the_keys(override, stages):
    """Of prompts from a source of its own, which the run's `data` does not change."""
    config = {"evolve": RewriteConfig(), "ask": ScoreConfig(by=ScoreBy.model), "sample": GenerateConfig()}
    configs = [compose(["data.source=jsonl", "data.train=a.jsonl", *more]) for more in ([], [override])]
    flats = [binding(plain(one)) for one in configs]
    nodes = [Node(1, name, config[name], {}, Made.samples)
             for name, kind in (("evolve", "rewrite"), ("ask", "score"), ("sample", "generate"))]  # fmt: skip
    reads = [
        {node.stage: reads_of(node, flat, one) for node in nodes} for flat, one in zip(flats, configs, strict=True)
    ]
    assert {name for name in config if reads[0][name] != reads[1][name]} == stages


def test_evolutions_of_two_rounds_do_not_share_a_uid(tmp_path):
    made = Stand(tmp_path, evolving(), count=2, say=lambda p: f"New task: {p.uid} {p.text[-3:]}").run()
    uids = [row["uid"] for one in made.values() for row in rows(one)]
    assert len(set(uids)) == len(uids)


def revising(**more):
    sample = GenerateConfig(num_samples=2)
    return {"sample": sample, "revise": RewriteConfig(data="sample", prompts_per_chunk=7, **more)}


def test_responses_are_criticised_and_revised(tmp_path):
    say = lambda p: "Critique: wrong." if p.uid.endswith(".c") else f"Revision: {p.uid[1]}"  # noqa: E731
    stand = Stand(tmp_path, revising(), say=say)
    made = stand.run()
    found, before = rows(made[1, "revise"]), {r["sample_id"]: r for r in rows(made[1, "sample"])}
    counts = made[1, "revise"].report["counts"]
    assert counts["requests"] == counts["critique_requests"] == counts["critique_critiques"] == 20
    assert counts["revised"] == len(found) == 20 - counts["dropped_unchanged"]
    for row in found:
        old = before[row["sample_id"].removesuffix("~revise-r1")]
        assert row["uid"] == old["uid"]
        assert row["response"] == row["reference"] != old["response"]
        assert row["response_ids"] == [int(row["reference"]), 11]
        assert row["score"] == 1.0


def test_revisions_that_were_cut_off_are_not_learnt(tmp_path):
    """They would be, with an end token behind half a sentence; a critique that was cut off is one still."""
    say = lambda p: "Critique: wrong." if p.uid.endswith(".c") else f"Revision: {p.uid[1]} {p.uid[-1]}"  # noqa: E731
    whole = Stand(tmp_path / "whole", revising(), say=say).run()[1, "revise"]
    critiques = cutting_off(Stand(tmp_path / "critiques", revising(), say=say), ".c").run()[1, "revise"]
    assert critiques.hash == whole.hash
    found = cutting_off(Stand(tmp_path / "cut", revising(), say=say), "0~revise-r1").run()[1, "revise"]
    assert [row["sample_id"] for row in rows(found)] == [f"p{i}#0.1~revise-r1" for i in range(10)]
    assert found.report["counts"]["dropped_cut_off"] == 10


def test_revisions_without_scores(tmp_path):
    say = lambda p: "Critique: wrong." if p.uid.endswith(".c") else f"Revision: {p.uid[1]}"  # noqa: E731
    found = rows(Stand(tmp_path, revising(score=False), say=say).run()[1, "revise"])
    assert found
    assert all(row["score"] is None for row in found)


def test_a_rewriting_that_was_killed_goes_on(tmp_path):
    say = lambda p: f"New task: {p.uid} {p.uid[1]}"  # noqa: E731
    whole = Stand(tmp_path / "whole", evolving(), say=say)
    wanted = whole.run()[1, "evolve"]
    stand, left = Stand(tmp_path / "killed", evolving(), say=say), 6

    def at(place):
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    found = stand.run()[1, "evolve"]
    assert (found.hash, found.report["counts"]) == (wanted.hash, wanted.report["counts"])
    assert calls(stand) == calls(whole)
