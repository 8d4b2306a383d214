"""Generation of samples as a stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rlcore.data.sources.readers import DataError
from rlcore.loops.sampling import RewardFailure
from rlcore.loops.stop import Interrupted
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.generate import GenerateConfig, chosen
from rlcore.rounds.stages.rl import RlConfig
from rlcore.types import RewardResult, Status
from tests.fakes import prompts
from tests.rounds.stages.cases import calls, rows
from tests.rounds.world import Killed, Stand


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
