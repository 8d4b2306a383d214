from __future__ import annotations

import pytest

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply
from rlcore.rounds import status
from rlcore.types import Pair, Prompt, RewardResult, Sample, Status


def sample(i: int, reward: RewardResult | float | None, uid: str = "p", source: str = "web") -> Sample:
    reward = RewardResult(reward) if isinstance(reward, float) else reward
    return Sample(Prompt(uid, (1,), "q", source=source), f"s{i}", f"t{i}", (1,), reward=reward)


def run(rows: list[Sample], **config) -> tuple[list[str], dict[str, int]]:
    kept, report = apply(tables.from_samples(rows), [config])
    return kept["sample_id"].to_pylist(), status.dropped(report.to_json())


def test_score():
    rows = [
        sample(0, 0.2),
        sample(1, 0.9),
        sample(2, None),
        sample(3, RewardResult(0.0, Status.TIMEOUT)),
        sample(4, 0.5),
    ]
    kept, reasons = run(rows, kind="score", min=0.5, max=0.8)
    assert kept == ["s4"]
    assert reasons == {"not scored": 1, "status timeout": 1, "score below 0.5": 1, "score above 0.8": 1}


def test_score_by_part():
    rows = [sample(0, RewardResult(1.0, parts={"fluency": 0.2})), sample(1, RewardResult(0.0, parts={"fluency": 0.9}))]
    rows.append(sample(2, 1.0))
    assert run(rows, kind="score", part="fluency", min=0.5) == (["s1"], {"has no fluency": 1, "fluency below 0.5": 1})


def pairs(*scores: tuple[float | None, float | None], strengths: tuple = ()) -> list[Pair]:
    made = []
    for i, (chosen, rejected) in enumerate(scores):
        strength = strengths[i] if strengths else None
        one, other = sample(2 * i, chosen, f"p{i}"), sample(2 * i + 1, rejected, f"p{i}")
        made.append(Pair(one.prompt, one, other, strength))
    return made


@pytest.mark.parametrize(
    ("config", "kept", "reasons"),
    [
        ({"kind": "margin", "min": 0.25}, ["p0"], {"margin below 0.25": 3, "rejected not scored": 1}),
        ({"kind": "margin", "max": 0.25}, ["p1", "p2", "p3"], {"margin above 0.25": 1, "rejected not scored": 1}),
        ({"kind": "tie"}, ["p0", "p1", "p3"], {"tie": 1, "rejected not scored": 1}),
        ({"kind": "tie", "tolerance": 0.125}, ["p0", "p3"], {"tie": 2, "rejected not scored": 1}),
        ({"kind": "margin", "by": "strength", "min": 2}, ["p1"], {"margin below 2": 1, "no strength": 3}),
        ({"kind": "score", "min": 0.3, "side": "chosen"}, ["p0", "p1", "p2", "p4"], {"chosen score below 0.3": 1}),
    ],
)
def test_pairs(config, kept, reasons):
    rows = pairs((1.0, 0.5), (0.5, 0.375), (0.5, 0.5), (0.0, 0.5), (1.0, None), strengths=(1.0, 3.0, None, None, None))
    table, report = apply(tables.from_pairs(rows), [config])
    assert table["uid"].to_pylist() == kept
    assert status.dropped(report.to_json()) == reasons


def test_difficulty_of_samples_and_prompts():
    failed = RewardResult(0.0, Status.ERROR)
    scores = {"easy": [1.0, 1.0], "mid": [1.0, 0.0, failed], "hard": [0.0, 0.0], "none": [failed, None]}
    rows = [sample(i, s, uid) for uid, several in scores.items() for i, s in enumerate(several)]
    config = {"kind": "difficulty", "low": 0.1, "high": 0.9}
    kept, report = apply(tables.from_samples(rows), [config])
    assert set(kept["uid"].to_pylist()) == {"mid"}
    assert kept.num_rows == 3  # all samples of the prompt, the failed one too
    assert status.dropped(report.to_json()) == {"fewer than 1 scored samples": 2, "too hard": 2, "too easy": 2}
    prompts = tables.from_prompts([Prompt(uid, (1,), "q") for uid in [*scores, "unseen"]])
    kept, report = apply(prompts, [config], FilterContext(samples=tables.from_samples(rows)))
    assert kept["uid"].to_pylist() == ["mid"]
    assert status.dropped(report.to_json())["fewer than 1 scored samples"] == 2
    with pytest.raises(ValueError, match="needs the scored samples"):
        apply(prompts, [config])


def test_prompt_cap_per_source():
    rows = [sample(10 * i + k, None, f"u{i}", "web" if i < 10 else "math") for i in range(14) for k in range(2)]

    def kept(**config) -> list[str]:
        table, _ = apply(tables.from_samples(rows), [{"kind": "prompt_cap", **config}])
        assert table.num_rows == 2 * len(set(table["uid"].to_pylist()))  # a prompt goes as a whole
        return sorted(set(table["uid"].to_pylist()))

    def sizes(uids: list[str]) -> tuple[int, int]:
        web = sum(int(u[1:]) < 10 for u in uids)
        return web, len(uids) - web

    assert sizes(kept(at_most=5)) == (5, 4)
    assert sizes(kept(share=0.5)) == (5, 2)
    assert sizes(kept(at_most=5, per_source={"web": 7, "math": 0})) == (7, 0)
    assert kept(at_most=5, seed=1) == kept(at_most=5, seed=1)
    assert len({tuple(kept(at_most=5, seed=s)) for s in range(5)}) > 1
    table = tables.from_samples(rows[::-1])
    again, _ = apply(table, [{"kind": "prompt_cap", "at_most": 5}])
    assert sorted(set(again["uid"].to_pylist())) == kept(at_most=5)


@pytest.mark.parametrize(("keep", "expected"), [("first", ["s0", "s1", "s4"]), ("best", ["s1", "s3", "s4"])])
def test_samples_per_prompt(keep, expected):
    rows = [sample(0, 0.1), sample(1, 0.5), sample(2, None), sample(3, 0.9), sample(4, 0.0, "q")]
    assert run(rows, kind="samples_per_prompt", at_most=2, keep=keep)[0] == expected


def test_samples_per_prompt_at_random():
    rows = [sample(i, None) for i in range(20)]
    found = {s: run(rows, kind="samples_per_prompt", at_most=3, keep="random", seed=s)[0] for s in (0, 1, 0)}
    assert all(len(kept) == 3 for kept in found.values())
    assert found[0] != found[1]
