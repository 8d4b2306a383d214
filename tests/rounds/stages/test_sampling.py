"""Stages that sample: generate, rewrite, evaluate; on the in-process world."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from actors.commands.rounds import reads_of
from actors.config.compose import compose
from actors.run_folder import binding, plain
from rlcore.data.rewriting.evolution import RewritingConfig
from rlcore.data.sources.readers import DataError
from rlcore.loops.sampling import RewardFailure
from rlcore.loops.stop import Interrupted
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.plan.config import Made, ScoreBy
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.generate import GenerateConfig, chosen
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.score import ScoreConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.templates import AnswerConfig
from rlcore.types import RewardResult, Status
from tests.fakes import prompts
from tests.rounds.world import Killed, Stand, train


def calls(stand):
    return [event for event in stand.log if event[0] == "generate"]


def rows(artefact):
    return artefact.table().to_pylist()


def test_a_committee_in_one_table(tmp_path):
    config = GenerateConfig(models=["start", "other", "start"], num_samples=3, prompts_per_chunk=4)
    stand = Stand(tmp_path, {"sample": config})
    made = stand.run()[1, "sample"]
    found = rows(made)
    assert len(found) == 3 * 10 * 3
    assert len({row["sample_id"] for row in found}) == len(found)
    assert made.report["members"] == 3
    start, other, again = (found[i : i + 30] for i in (0, 30, 60))
    assert {row["model"] for row in start} == {row["model"] for row in again} != {row["model"] for row in other}
    # one member after the other, each with draws of its own
    assert [row["response"] for row in start] != [row["response"] for row in again]
    assert stand.live.world.weights.version == 2  # from 0
    assert stand.live.num_loads == 2  # other, and start again
    assert len({seed for _, _, _, seed in calls(stand)}) == 9


def test_what_a_sample_says_of_itself(tmp_path):
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_samples=2)})
    made = stand.run()[1, "sample"]
    assert [row["sample_id"] for row in rows(made)[:3]] == ["p0#0.0", "p0#0.1", "p1#0.0"]
    for row in rows(made):
        assert row["score"] == float(row["response"] == row["reference"])
        assert row["status"] == "ok"
        assert row["response_ids"] == [int(row["response"]), 11]
    scores = [row["score"] for row in rows(made)]
    assert made.report["mean_score"] == pytest.approx(np.mean(scores))
    assert made.report["response_tokens"] == 2 * made.num_rows
    assert made.report["solved_prompts"] == len({r["uid"] for r in rows(made) if r["score"] == 1}) / 10


def test_without_scores(tmp_path):
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_samples=2, score=False)})
    made = stand.run()[1, "sample"]
    assert all(row["score"] is None and row["status"] is None for row in rows(made))
    assert "mean_score" not in made.report
    assert [row["uid"] for row in rows(made)] == [f"p{i}" for i in range(10) for _ in range(2)]
    assert not [event for event in stand.log if event[0] == "reward"]


def test_greedy_where_the_stage_says_so(tmp_path):
    made = Stand(tmp_path, {"sample": GenerateConfig(num_samples=5, temperature=0.0)}).run()[1, "sample"]
    by_prompt = {row["uid"]: set() for row in rows(made)}
    for row in rows(made):
        by_prompt[row["uid"]].add(row["response"])
    assert all(len(said) == 1 for said in by_prompt.values())


def test_adaptive_until_a_prompt_has_enough(tmp_path):
    config = GenerateConfig(num_samples=4, enough=2, max_samples=12, prompts_per_chunk=6)
    stand = Stand(tmp_path, {"sample": config})
    found = rows(stand.run()[1, "sample"])
    drawn = Counter(row["uid"] for row in found)
    assert len(set(drawn.values())) > 1  # a hard one got more than an easy one
    for uid, count in drawn.items():
        good = [row["score"] >= 1 for row in found if row["uid"] == uid]
        assert 4 <= count <= 12
        assert sum(good) >= 2 or count == 12
        assert count == 4 or sum(good[: count - 4]) < 2  # it had not enough before its last turn
    ids = [row["sample_id"] for row in found]
    assert len(set(ids)) == len(ids)
    assert max(num for _, _, num, _ in calls(stand)) == 4


@pytest.mark.parametrize("stage", [GenerateConfig(num_samples=2), EvaluateConfig(), RlConfig()])
def test_prompts_that_the_engines_do_not_take_are_left_out_and_counted(tmp_path, stage):
    long = [replace(p, token_ids=p.token_ids * 5) if i < 3 else p for i, p in enumerate(prompts(10))]
    stand = Stand(tmp_path, {"a": stage}, prompts=long, max_prompt_tokens=4)
    made = stand.run()[1, "a"]
    assert made.report["dropped_prompt_too_long"] == 3
    assert {uid for _, uids, *_ in calls(stand) for uid in uids} <= {f"p{i}" for i in range(3, 10)}
    with pytest.raises(DataError, match="stage a: all 10 prompts of `prompts` have more than 0 tokens"):
        Stand(tmp_path / "none", {"a": stage}, max_prompt_tokens=0).run()


def test_only_the_chunk_at_work_is_generated_again(tmp_path):
    config = GenerateConfig(models=["start", "other"], num_samples=2, prompts_per_chunk=2)
    whole = Stand(tmp_path / "whole", {"sample": config})
    wanted = whole.run()[1, "sample"].hash
    stand, left = Stand(tmp_path / "killed", {"sample": config}), 14

    def at(place):
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    assert len(calls(stand)) == 6  # five of the first member's chunks, one of the second's; the seventh is lost
    assert stand.run()[1, "sample"].hash == wanted
    assert calls(stand) == calls(whole)
    assert stand.live.world.weights.version == 0  # the first member was not sent again


def test_a_part_that_was_torn_is_made_again(tmp_path):
    config = GenerateConfig(num_samples=2, prompts_per_chunk=5)
    wanted = Stand(tmp_path / "whole", {"sample": config}).run()[1, "sample"].hash
    stand = Stand(tmp_path / "torn", {"sample": config})
    stand.at = lambda place: len(calls(stand)) and stand.stop()
    with pytest.raises(Interrupted):
        stand.run()
    (part,) = (tmp_path / "torn" / "artefacts").glob("*.draft/parts/part-00000.parquet")
    part.write_bytes(part.read_bytes()[:50])
    stand.at = lambda place: None
    assert stand.run()[1, "sample"].hash == wanted
    assert len(calls(stand)) == 3


def test_rounds_go_through_the_prompts_before_any_comes_again(tmp_path):
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_prompts=4, num_samples=1)}, count=5)
    made = stand.run()
    seen = [row["uid"] for n in range(1, 6) for row in rows(made[n, "sample"])]
    assert len(seen) == 20
    assert len(set(seen[:8])) == 8
    assert Counter(seen) == Counter({f"p{i}": 2 for i in range(10)})


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_the_order_of_prompts(count):
    table = pa.table({"uid": list(range(10))})
    drawn = [chosen(table, count, 5, r)["uid"].to_pylist() for r in range(1, 31)]
    assert all(len(set(one)) == len(one) == count for one in drawn)
    flat = Counter(uid for one in drawn for uid in one)
    assert max(flat.values()) - min(flat.values()) <= 1
    assert chosen(table, None, 5, 2).equals(table)
    assert chosen(table, 11, 5, 2).equals(table)


def test_rewards_that_fail_end_the_stage_with_a_reason(tmp_path):
    def judge(group, t):
        return RewardResult(0.0, Status.TIMEOUT, info={"error": "too slow"})

    stand = Stand(tmp_path, {"sample": GenerateConfig()}, judge=judge, reward=RewardConfig(max_failed_share=0.1))
    with pytest.raises(RewardFailure, match="80 of 80 samples could not be scored"):
        stand.run()


# ---- evaluate


def test_accuracy_of_what_was_trained(tmp_path):
    stages = {
        "before": EvaluateConfig(num_samples=4, temperature=1.0),
        "sft": SftConfig(data=["answers"], train=train(30, peak=4.0)),
        "after": EvaluateConfig(model="sft"),
        "some": EvaluateConfig(model="sft", max_prompts=3),
    }
    made = Stand(tmp_path, stages).run()
    before, after, some = (made[1, name].report for name in ("before", "after", "some"))
    assert before["accuracy"] < 0.5 < after["accuracy"]
    assert after["accuracy"] == after["eval/heldout/mean@1"] == 1.0
    assert 0 < before["eval/heldout/pass@4"] <= 1
    assert (before["prompts"], some["prompts"]) == (10, 3)


def test_an_evaluation_is_the_same_in_every_round(tmp_path):
    made = Stand(tmp_path, {"look": EvaluateConfig(num_samples=4, temperature=1.0)}, count=3).run()
    assert len({one.key for one in made.values()}) == 1
    assert len({one.folder for one in made.values()}) == 1  # measured once


# ---- rewrite


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
