from __future__ import annotations

import pytest

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply
from rlcore.rounds.plan.config import BUILT_IN, Made
from rlcore.rounds.plan.graph import plan
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.rounds.status import DONE, HALF, OUTDATED, TODO, Measured, dropped, gains, render, survey
from rlcore.rounds.store.store import ArtefactStore
from rlcore.types import Prompt, Sample

STAGES = {
    "gen": [GenerateConfig(models=["sft@previous|start"])] * 2,
    "best": [RejectionSampleConfig(samples=["gen"])] * 2,
    "sft": [SftConfig(data=["best"])] * 2,
    "eval": [EvaluateConfig(model="sft")] * 2,
}
PLAN = plan(STAGES, 2, BUILT_IN)


def samples(n):
    return tables.from_samples(Sample(Prompt(f"p{i}", (1,), ""), f"s{i}", "", (1,)) for i in range(n))


def made(store, node, key, finish=True, parents=None, report=None, rows=3):
    draft = store.begin(
        key, stage=node.stage, round=node.round, kind=node.kind, made=node.made, config={}, parents=parents or {}
    )
    if node.made is Made.samples:
        draft.write_part(0, samples(rows))
        return draft.finish_records(report or {}) if finish else None
    if node.made is Made.report:
        return draft.finish_report(report)
    (draft.directory / "checkpoints" / "step-000050").mkdir(parents=True)
    (draft.directory / "m").mkdir()
    (draft.directory / "m" / "w").write_text("x" * 1234 + key)
    return draft.finish_folder(draft.directory / "m", {}) if finish else None


def test_gains_are_over_the_round_before():
    reports = [
        Measured(2, "eval", {"accuracy": 0.75, "win_rate": 0.5}),
        Measured(1, "eval", {"accuracy": 0.5, "n": 3}),
        Measured(4, "eval", {"accuracy": 0.25}),
        Measured(2, "other", {"accuracy": 1.0}),
    ]
    found = [(g.round, g.stage, g.metric, g.value, g.gain) for g in gains(reports)]
    assert found == [
        (1, "eval", "accuracy", 0.5, None),
        (2, "eval", "accuracy", 0.75, 0.25),
        (2, "eval", "win_rate", 0.5, None),
        (2, "other", "accuracy", 1.0, None),
        (4, "eval", "accuracy", 0.25, -0.5),
    ]


def test_the_first_round_is_compared_with_the_start_on_the_same_prompts():
    reports = [
        Measured(1, "baseline", {"accuracy": 0.25}, "held", start=True),
        Measured(1, "eval", {"accuracy": 0.5}, "held"),
        Measured(1, "hard", {"accuracy": 0.5}, "others"),
        Measured(2, "eval", {"accuracy": 0.625}, "held"),
    ]
    assert [(g.stage, g.gain) for g in gains(reports)] == [
        ("baseline", None), ("eval", 0.25), ("hard", None), ("eval", 0.125),
    ]  # fmt: skip


def test_what_is_no_figure_is_no_gain():
    assert gains([Measured(1, "e", {"accuracy": None, "win_rate": "high", "mean_reward": True})]) == []
    assert gains([]) == []


def test_what_was_dropped():
    assert dropped({"counts": {"samples": 9, "dropped_tie": 2, "dropped_margin": 5, "dropped_copy": 0}}) == {
        "margin": 5,
        "tie": 2,
    }
    assert list(dropped({"dropped_x": 3, "dropped_long": 1, "dropped_a": 1})) == ["x", "a", "long"]
    _, filtered = apply(samples(5), [{"kind": "duplicates"}], FilterContext())
    assert sum(dropped(filtered.to_json()).values()) == 5 - filtered.rows_kept > 0
    assert dropped({"accuracy": 1.0}) == {}


def test_states(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made(store, PLAN[0], "g1")
        made(store, PLAN[1], "old-b1")
        made(store, PLAN[2], "s1", finish=False)
        made(store, PLAN[4], "old-g2")
        lines = survey(PLAN, {(1, "gen"): "g1", (1, "best"): "b1", (1, "sft"): "s1", (1, "eval"): "e1"}, store)
        assert [line.state for line in lines] == [DONE, OUTDATED, HALF, TODO, OUTDATED, TODO, TODO, TODO]
        assert (lines[2].half.steps, lines[2].half.parts) == (50, 0)


def test_the_tree(tmp_path):
    with ArtefactStore(tmp_path) as store:
        start = store.adopt_table("heldout", tables.from_prompts([Prompt("p", (1,), "")]), Made.prompts)
        counts = {"counts": {"dropped_not_best": 1200, "dropped_copy": 30, "dropped_tie": 2, "dropped_x": 1}}
        keys = {}
        for node in PLAN[:5]:
            keys[node.key] = f"{node.stage}-{node.round}"
            parents = {"prompts": [start]} if node.stage == "eval" else {}
            report = {"best": counts, "eval": {"accuracy": 0.5}}.get(node.stage)
            made(store, node, keys[node.key], report=report, parents=parents, rows=1500)
        keys[2, "best"] = "best-2"
        made(store, PLAN[5], "best-2", finish=False)
        made(store, PLAN[1], "stale")
    text = render(PLAN, keys, ArtefactStore(tmp_path, read_only=True), width=130)
    lines = text.splitlines()
    assert lines[0] == "5 of 8 stages done"
    assert all(len(line) <= 130 for line in lines)
    assert "\x1b" not in text
    words = [line.split() for line in lines]

    def line_of(stage, number):
        return [" ".join(w) for w in words if stage in w][number - 1]

    assert "round 1" in lines[1]
    assert "gen generate done 1,500 rows" in line_of("gen", 1)
    assert "dropped 1,200 not best, 30 copy, 2 tie, 1 for others" in line_of("best", 1)
    assert "sft sft done 1.24 KB" in line_of("sft", 1)
    assert "eval evaluate done" in line_of("eval", 1)
    assert "accuracy 0.5" in line_of("eval", 1)
    assert "best rejection_sample half-done 1 part" in line_of("best", 2)
    assert line_of("sft", 2).endswith("sft sft to do")
    table = lines.index(next(line for line in lines if line.startswith("round ")))
    assert words[table] == ["round", "stage", "metric", "value", "gain", "seconds"]
    assert words[table + 1][:4] == ["1", "eval", "accuracy", "0.5000"]
    assert words[table + 2][0] == "2"
    assert lines[-1] == "Artefacts with other settings: 1."


def test_the_last_model_is_named_once_it_is_there(tmp_path):
    (first, last) = (node for node in PLAN if node.stage == "sft")
    with ArtefactStore(tmp_path) as store:
        made(store, first, "s1")
        assert "\nmodel" not in render(PLAN, {first.key: "s1"}, store)
        made(store, last, "s2")
        text = render(PLAN, {first.key: "s1", last.key: "s2"}, store)
    assert text.endswith(f"\nmodel  {tmp_path}/r02-sft-s2/model\n")


def test_the_gain_of_a_round(tmp_path):
    with ArtefactStore(tmp_path) as store:
        keys = {}
        for node, value in zip([n for n in PLAN if n.stage == "eval"], (0.25, 0.375), strict=True):
            keys[node.key] = f"e{node.round}"
            made(store, node, keys[node.key], report={"accuracy": value})
        text = render(PLAN, keys, store)
    assert "accuracy 0.375 (+0.1250)" in text
    assert ["2", "eval", "accuracy", "0.3750", "+0.1250"] in [line.split()[:5] for line in text.splitlines()]


def test_what_two_rounds_share_is_told_and_counted_once(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made(store, PLAN[0], "same")
        text = render(PLAN, {(1, "gen"): "same", (2, "gen"): "same"}, store)
    assert "the same as r01-gen-same" in text
    assert "2 of 8 stages done" in text


def test_nothing_yet(tmp_path):
    text = render(PLAN, {}, ArtefactStore(tmp_path / "none", read_only=True))
    assert text.startswith("0 of 8 stages done")
    assert text.count("to do") == 8
    assert "metric" not in text


def test_damage_is_told(tmp_path):
    with ArtefactStore(tmp_path) as store:
        one = made(store, PLAN[0], "g1")
    one.parts()[0].unlink()
    text = render(PLAN, {(1, "gen"): "g1"}, ArtefactStore(tmp_path, read_only=True), width=400)
    assert "0 of 8" in text
    assert "part-00000.parquet is missing" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit(tmp_path, width):
    with ArtefactStore(tmp_path) as store:
        made(store, PLAN[1], "b", report={"counts": {f"dropped_{'x' * 40}{i}": 9 for i in range(9)}})
        text = render(PLAN, {(1, "best"): "b"}, store, width=width)
    assert max(map(len, text.splitlines())) <= width
