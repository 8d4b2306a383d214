"""Stages that work on records: score, filter, rejection_sample, pairs; and those that find nothing to work on."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest

from rlcore.data.rewriting.evolution import RewritingConfig
from rlcore.data.selection.best_of_n import SelectionConfig, SelectionMethod, Unscored
from rlcore.data.selection.pairing import PairingConfig, PairingMethod
from rlcore.rounds.plan.config import ScoreBy
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.reward_model import RewardModelStageConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.score import ScoreConfig, cuts
from rlcore.rounds.stages.sft import SftConfig
from rlcore.types import RewardResult
from tests.fakes import prompts
from tests.rounds.world import Killed, Stand, train


def rows(artefact):
    return artefact.table().to_pylist()


SAMPLE = GenerateConfig(num_samples=6, score=False)
NOTHING = FilterStageConfig(
    data=["sample"], filters=[{"kind": "length", "of": "response", "unit": "characters", "min": 99}]
)


class Judge:
    """Ranks the samples of a prompt against each other: it must see them together."""

    def __init__(self):
        self.seen = []

    def submit(self, group):
        self.seen.append(len(group.trajectories))
        order = sorted({int(t.text) for t in group.trajectories})
        future = Future()
        future.set_result([RewardResult(order.index(int(t.text)) / len(order)) for t in group.trajectories])
        return future


# ---- score


def test_by_the_reward(tmp_path):
    made = Stand(tmp_path, {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"])}).run()
    before, after = rows(made[1, "sample"]), rows(made[1, "rank"])
    assert [row["sample_id"] for row in before] == [row["sample_id"] for row in after]
    assert all(row["score"] is None for row in before)
    assert [row["score"] for row in after] == [float(row["response"] == row["reference"]) for row in after]
    assert made[1, "rank"].report["mean_score"] == pytest.approx(sum(r["score"] for r in after) / 60)


def test_by_a_judge_that_sees_all_samples_of_a_prompt(tmp_path):
    judge = Judge()
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], by=ScoreBy.judge, samples_per_chunk=7)}
    made = Stand(tmp_path, stages, scorer=judge).run()
    assert judge.seen == [6] * 10
    assert len(made[1, "rank"].parts()) == 5  # two prompts of six each reach seven samples
    assert {row["status"] for row in rows(made[1, "rank"])} == {"ok"}


def test_a_judge_sees_a_committees_samples_of_a_prompt_together(tmp_path):
    """Members follow each other in what was generated, and rounds in what is joined."""
    judge = Judge()
    stages = {
        "sample": replace(SAMPLE, models=["start", "other"], num_samples=3, prompts_per_chunk=4),
        "rank": ScoreConfig(samples=["sample@all"], by=ScoreBy.judge, samples_per_chunk=7, rounds=[2]),
    }
    made = Stand(tmp_path, stages, count=2, scorer=judge).run()
    assert judge.seen == [12] * 10
    found = rows(made[2, "rank"])
    assert [row["uid"] for row in found] == [f"p{i}" for i in range(10) for _ in range(12)]
    assert len({row["sample_id"] for row in found}) == 120


def test_without_a_judge(tmp_path):
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], by=ScoreBy.judge)}
    with pytest.raises(RuntimeError, match="no judge is running"):
        Stand(tmp_path, stages).run()


def scored_by_a_model(**more):
    reward = RewardModelStageConfig(data=["annotate"], held_out=0.0)
    reward.training = replace(reward.training, epochs=20, pairs_per_step=64, learning_rate=1.0)
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "reward": reward,
        "rank": ScoreConfig(samples=["sample"], by=ScoreBy.reward_model, reward_model="reward", **more),
    }


def test_by_a_reward_model(tmp_path):
    stand = Stand(tmp_path, scored_by_a_model())
    made = stand.run()
    found, truth = rows(made[1, "rank"]), rows(made[1, "sample"])
    chosen = {row["uid"]: (row["chosen_response"], row["rejected_response"]) for row in rows(made[1, "annotate"])}
    score = {(row["uid"], row["response"]): row["score"] for row in found}
    assert all(score[uid, good] > score[uid, bad] for uid, (good, bad) in chosen.items())
    assert [row["sample_id"] for row in found] == [row["sample_id"] for row in truth]
    assert '"reward": ' in found[0]["parts"]
    assert stand.live.num_loads == 0  # the model that was trained a moment ago is still held
    assert made[1, "reward"].report["reward_model/accuracy"] == 1.0


def test_another_reward_model_is_loaded_once(tmp_path):
    stages = scored_by_a_model(samples_per_chunk=8)
    stages["late"] = replace(stages["reward"], held_out=0.01)  # the same data, another key
    stages["rank"].reward_model = "reward"
    stages["late"].data = ["annotate"]
    stages["again"] = replace(stages["rank"], reward_model="late", samples_per_chunk=9)
    stand = Stand(tmp_path, {name: stages[name] for name in ("sample", "annotate", "reward", "late", "rank", "again")})
    made = stand.run()
    assert made[1, "reward"].hash == made[1, "late"].hash  # nobody was held out
    assert stand.live.num_loads == 0
    stages["late"].training = replace(stages["late"].training, epochs=2)
    stand.run()
    assert stand.live.num_loads == 0  # it was trained here
    fresh = Stand(tmp_path, stages | {"third": replace(stages["rank"], samples_per_chunk=10)})
    fresh.run()
    assert fresh.live.num_loads == 1


def test_only_the_chunk_at_work_is_scored_again(tmp_path):
    stages = {"sample": SAMPLE, "rank": ScoreConfig(samples=["sample"], samples_per_chunk=12)}
    left = 41

    def judge(group, t):
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return RewardResult(float(t.text == group.prompt.reference))

    stand = Stand(tmp_path / "killed", stages, judge=judge)
    with pytest.raises(Killed):
        stand.run()
    before = len([e for e in stand.log if e[0] == "reward"])
    made = stand.run()
    after = [e[1] for e in stand.log if e[0] == "reward"][before:]
    assert before == 7
    assert after == [f"p{i}" for i in range(6, 10)]  # three chunks of two prompts were there
    assert made[1, "rank"].hash == Stand(tmp_path / "whole", stages).run()[1, "rank"].hash


def test_chunks_end_where_a_prompt_ends():
    table = pa_table(["a", "a", "a", "b", "c", "c"])
    assert cuts(table, 2) == [(0, 3), (3, 3)]
    assert cuts(table, 100) == [(0, 6)]
    assert cuts(table.slice(0, 0), 2) == []


def pa_table(uids):
    import pyarrow as pa

    return pa.table({"uid": uids})


# ---- filter, rejection_sample, pairs


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


# ---- nothing left


def test_no_rows_are_an_artefact_too(tmp_path):
    stages = {
        "sample": SAMPLE, "nothing": NOTHING, "rank": ScoreConfig(samples=["nothing"]),
        "best": RejectionSampleConfig(samples=["rank"]), "annotate": PairsConfig(samples=["rank"]),
        "revise": RewriteConfig(data="best"),
        "again": FilterStageConfig(data=["annotate"], filters=[{"kind": "tie"}]),
    }  # fmt: skip
    made = Stand(tmp_path, stages).run()
    assert [made[1, name].num_rows for name in stages if name != "sample"] == [0] * 6


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("sft", SftConfig(data=["nothing"], train=train())),
        ("dpo", PreferenceStageConfig(data=["annotate"], train=train())),
        ("kto", PreferenceStageConfig(data=["nothing"], loss="kto", train=train())),
        ("reward", RewardModelStageConfig(data=["annotate"])),
    ],
)
def test_nothing_to_train_on_is_said_by_name(tmp_path, stage, config):
    stages = {"sample": SAMPLE, "nothing": NOTHING, "annotate": PairsConfig(samples=["nothing"]), stage: config}
    with pytest.raises(ValueError, match=f"{stage}: there is nothing to train on"):
        Stand(tmp_path, stages).run()
