from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.rounds.plan.config import BUILT_IN, Made
from rlcore.rounds.plan.graph import GraphError, plan, resolve
from rlcore.rounds.stages.average import AverageConfig
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.rewrite import RewriteConfig
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.sft import SftConfig


def stages(count, **configs):
    """Each config in every round; a list gives one for each."""
    return {name: c if isinstance(c, list) else [c] * count for name, c in configs.items()}


def reads(nodes, key, field):
    (node,) = [n for n in nodes if n.key == key]
    return [s.key for s in node.inputs[field]]


def problems(count=1, builtins=BUILT_IN, unread=(), **configs):
    return resolve(stages(count, **configs), count, builtins, unread)[1]


def llama3(count):
    """Rejection sampling, SFT on all rounds' best, DPO with averaging: arXiv 2407.21783, section 4.1."""
    return stages(
        count,
        generate=GenerateConfig(models=["average@previous|start"]),
        best=RejectionSampleConfig(samples=["generate"]),
        pairs=PairsConfig(samples=["generate"]),
        sft=SftConfig(data=["answers", "best@all"], start="start"),
        dpo=PreferenceStageConfig(data=["pairs"], start="sft"),
        average=AverageConfig(models=["sft", "dpo@all"]),
        evaluate=EvaluateConfig(model="average"),
    )


def test_a_recipe_of_three_rounds():
    nodes = plan(llama3(3), 3, BUILT_IN)
    order = ["generate", "best", "pairs", "sft", "dpo", "average", "evaluate"]
    assert [n.key for n in nodes] == [(r, s) for r in (1, 2, 3) for s in order]
    assert [n.made for n in nodes[:7]] == [
        Made.samples, Made.samples, Made.pairs, Made.model, Made.model, Made.model, Made.report,
    ]  # fmt: skip
    assert reads(nodes, (1, "generate"), "models") == [(0, "start")]
    assert reads(nodes, (3, "generate"), "models") == [(2, "average")]
    assert reads(nodes, (3, "sft"), "data") == [(0, "answers"), (1, "best"), (2, "best"), (3, "best")]
    assert reads(nodes, (2, "average"), "models") == [(2, "sft"), (1, "dpo"), (2, "dpo")]
    assert reads(nodes, (2, "dpo"), "reference") == []


def test_entries_tell_which_reference_led_where():
    (node,) = [n for n in plan(llama3(3), 3, BUILT_IN) if n.key == (3, "sft")]
    assert [s.entry for s in node.inputs["data"]] == [0, 1, 1, 1]
    assert [s.made for s in node.inputs["data"]] == [Made.samples] * 4


def test_the_order_follows_references_then_the_list():
    nodes = plan(
        stages(
            1,
            evaluate=EvaluateConfig(model="dpo"),
            dpo=PreferenceStageConfig(data=["pairs"], start="sft"),
            sft=SftConfig(data=["answers"]),
            pairs=PairsConfig(samples=["answers"]),
        ),
        1,
        BUILT_IN,
    )
    assert [n.stage for n in nodes] == ["sft", "pairs", "dpo", "evaluate"]


def test_rounds_in_which_a_stage_runs():
    nodes = plan(
        stages(
            4,
            sft=SftConfig(data=["answers"], rounds=[1, 3]),
            dpo=RlConfig(start="sft@latest"),
            old=EvaluateConfig(model="sft@previous", rounds=[2, 3, 4]),
            first=EvaluateConfig(model="sft@1"),
        ),
        4,
        BUILT_IN,
    )
    assert [reads(nodes, (r, "dpo"), "start") for r in (1, 2, 3, 4)] == [
        [(1, "sft")],
        [(1, "sft")],
        [(3, "sft")],
        [(3, "sft")],
    ]
    assert [reads(nodes, (r, "old"), "model") for r in (2, 3, 4)] == [[(1, "sft")], [(1, "sft")], [(3, "sft")]]
    assert reads(nodes, (4, "first"), "model") == [(1, "sft")]


def test_the_first_alternative_that_exists():
    nodes = plan(
        stages(3, sft=SftConfig(data=["answers"], rounds=[2]), rl=RlConfig(start="rl@previous|sft|start")), 3, BUILT_IN
    )
    assert [reads(nodes, (r, "rl"), "start") for r in (1, 2, 3)] == [[(0, "start")], [(1, "rl")], [(2, "rl")]]
    nodes = plan(stages(2, sft=SftConfig(data=["answers"], rounds=[2]), rl=RlConfig(start="sft|start")), 2, BUILT_IN)
    assert [reads(nodes, (r, "rl"), "start") for r in (1, 2)] == [[(0, "start")], [(2, "sft")]]


def test_latest_and_all_leave_out_what_waits_for_the_reader():
    """A committee of all models so far, which train on what the committee says: Apple's iTeC."""
    nodes = plan(
        stages(
            3,
            generate=GenerateConfig(models=["start", "sft@all", "sft@latest|start"]),
            sft=SftConfig(data=["generate"], start="sft@latest|start"),
        ),
        3,
        BUILT_IN,
    )
    assert [n.stage for n in nodes] == ["generate", "sft"] * 3
    assert reads(nodes, (1, "generate"), "models") == [(0, "start"), (0, "start")]
    assert reads(nodes, (3, "generate"), "models") == [(0, "start"), (1, "sft"), (2, "sft"), (2, "sft")]
    assert [reads(nodes, (r, "sft"), "start") for r in (1, 2, 3)] == [[(0, "start")], [(1, "sft")], [(2, "sft")]]


def test_of_two_that_ask_for_each_others_latest_the_later_reads_this_rounds():
    both = {
        "a": SftConfig(data=["answers"], start="b@latest|start"),
        "b": SftConfig(data=["answers"], start="a@latest|start"),
    }
    for first, second in (("a", "b"), ("b", "a")):
        nodes = plan(stages(2, **{first: both[first], second: both[second]}), 2, BUILT_IN)
        assert [n.stage for n in nodes] == [first, second] * 2
        assert reads(nodes, (2, first), "start") == [(1, second)]
        assert reads(nodes, (2, second), "start") == [(2, first)]


def test_latest_pulls_a_stage_that_is_listed_later():
    nodes = plan(stages(1, evaluate=EvaluateConfig(model="sft@latest"), sft=SftConfig(data=["answers"])), 1, BUILT_IN)
    assert [n.stage for n in nodes] == ["sft", "evaluate"]


def test_what_makes_what_its_data_is():
    nodes = plan(
        stages(
            1,
            clean=FilterStageConfig(data=["pairs"]),
            pairs=PairsConfig(samples=["answers"]),
            evolved=RewriteConfig(data="train"),
            fewer=FilterStageConfig(data=["evolved"], against=[]),
        ),
        1,
        BUILT_IN,
    )
    made = {n.stage: n.made for n in nodes}
    assert made == {"pairs": Made.pairs, "clean": Made.pairs, "evolved": Made.prompts, "fewer": Made.prompts}


def test_models_and_sources_of_ones_own():
    builtins = BUILT_IN | {"big": Made.model, "judged": Made.pairs}
    nodes = plan(stages(1, dpo=PreferenceStageConfig(data=["judged"], start="big")), 1, builtins)
    assert reads(nodes, (1, "dpo"), "start") == [(0, "big")]


def only(found, key, words):
    (problem,) = found
    assert problem.key == f"rounds.stages.{key}"
    for word in words:
        assert word in str(problem), str(problem)
    assert problem.cure


@pytest.mark.parametrize(
    ("configs", "key", "words"),
    [
        ({"sft": SftConfig(data=["anwsers"])}, "sft.data", ["no stage makes `anwsers`", "did you mean answers?"]),
        ({"sft": SftConfig(data=["qqq"])}, "sft.data", ["there are sft, start, train, heldout, answers"]),
        ({"sft": SftConfig(data=["answers|bset"])}, "sft.data", ["no stage makes `bset`"]),
        ({"sft": SftConfig(data=[])}, "sft.data", ["no input", "[answers]"]),
        ({"sft": SftConfig(data=["answers@"])}, "sft.data", ["answers@previous"]),
        ({"sft": SftConfig(data=["answers@previous"])}, "sft.data", ["built-in input", "write answers"]),
        ({"sft": SftConfig(data=["train"])}, "sft.data", ["`train` is prompts", "wants samples", "answers"]),
        ({"sft": SftConfig(data=["answers"], start="sft")}, "sft.start", ["sft -> sft", "sft@previous"]),
        ({"sft": SftConfig(data=["answers"], start="sft@previous")}, "sft.start", ["round 1", "sft@previous|start"]),
        ({"sft": SftConfig(data=["answers"], weights=[1.0, 2.0])}, "sft.weights", ["2 weights for 1"]),
        ({"sft": SftConfig(data=["answers"], rounds=[1, 9])}, "sft.rounds", ["no round 9", "1 to 1"]),
        ({"dpo": PreferenceStageConfig(data=["answers"])}, "dpo.data", ["is samples", "wants pairs"]),
        ({"f": FilterStageConfig(data=["train", "answers"])}, "f.data", ["train (prompts), answers (samples)"]),
        ({"g": GenerateConfig(models=["g2@all"]), "g2": SftConfig(data=["g"])}, "g.models", ["it has not run"]),
        ({"g": RlConfig(start="start@2")}, "g.start", ["built-in input"]),
        ({"sft": SftConfig(data=["answers"]), "rl": RlConfig(start="sft@all")}, "rl.start", ["one", "sft@latest"]),
        ({"sft": SftConfig(data=["answers"]), "rl": RlConfig(start="sft@3")}, "rl.start", ["no round 3"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_cure(configs, key, words):
    only(problems(**configs), key, words)


def test_kto_takes_samples():
    assert problems(kto=PreferenceStageConfig(data=["answers"], loss="kto")) == []


def test_a_stage_that_does_not_run_in_that_round():
    found = problems(3, sft=SftConfig(data=["answers"], rounds=[1]), rl=RlConfig(start="sft"))
    only(found, "rl.start", ["`sft` does not run in round 2, only in 1", "write sft@latest"])
    found = problems(3, sft=SftConfig(data=["answers"], rounds=[3]), rl=RlConfig(start="sft@3"))
    only(found, "rl.start", ["round 3 comes after round 1"])


def test_a_cycle_is_named_once_however_many_rounds():
    found = problems(
        3,
        gen=GenerateConfig(models=["dpo"]),
        pairs=PairsConfig(samples=["gen"]),
        dpo=PreferenceStageConfig(data=["pairs"]),
    )
    only(found, "gen.models", ["gen -> dpo -> pairs -> gen", "dpo@previous"])


def test_all_problems_at_once():
    found = problems(
        2,
        a=SftConfig(data=["b"], start="nobody"),
        b=RejectionSampleConfig(samples=["c"]),
        c=GenerateConfig(models=["a"]),
        d=EvaluateConfig(model="train", prompts="answers"),
    )
    keys = [p.key.removeprefix("rounds.stages.") for p in found]
    assert sorted(keys) == ["a.data", "a.start", "d.model", "d.prompts"]
    with pytest.raises(GraphError) as caught:
        plan(stages(1, a=SftConfig(data=[], start="nobody")), 1, BUILT_IN)
    assert len(caught.value.problems) == 2


def test_stages_that_could_not_be_read_are_not_missed_again():
    assert problems(unread=["best"], sft=SftConfig(data=["best"])) == []


REFERENCES = st.builds(
    lambda name, when, other: f"{name}{when}{other}",
    st.sampled_from(["s0", "s1", "s2", "s3"]),
    st.sampled_from(["", "@previous", "@latest", "@2"]),
    st.sampled_from(["", "|start", "|start", "|s1@latest|start", "|s2|start"]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(REFERENCES, min_size=4, max_size=4), st.lists(st.sets(st.integers(1, 3)), min_size=4, max_size=4))
def test_every_plan_finds_what_it_reads(references, runs):
    configs = {f"s{i}": RlConfig(start=references[i], rounds=sorted(runs[i])) for i in range(4)}
    nodes, wrong = resolve(stages(3, **configs), 3, BUILT_IN)
    if wrong:
        return
    expected = {(r, s) for r in (1, 2, 3) for s, c in configs.items() if not c.rounds or r in c.rounds}
    assert {n.key for n in nodes} == expected
    assert [n.round for n in nodes] == sorted(n.round for n in nodes)
    done = {(0, "start")}
    for node in nodes:
        (source,) = node.inputs["start"]
        assert source.key in done
        done.add(node.key)
