"""Prompts evolved: what is asked, what is made of the answers, what is eliminated and why."""

from __future__ import annotations

from collections import Counter

import pytest
from omegaconf import OmegaConf

from rlcore.data.rewriting.evolution import (
    BREADTH_FRAME,
    DEPTH_FRAME,
    REASONS,
    EliminationConfig,
    OperationConfig,
    RewritingConfig,
    evolutions,
    evolved,
)
from rlcore.data.sources.render import raw_text
from rlcore.problems import setting_problems
from rlcore.types import Prompt

PARENT = "Sort a list of numbers."


def prompt(uid: str, text: str = PARENT, **fields) -> Prompt:
    return Prompt(uid, (1,), text, **fields)


def chat(text: str) -> tuple[str, list[int]]:
    return f"<user>{text}<model>", [len(text), 2]


def counted(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n}


def answered(*answers: str, parent: str = PARENT, **config) -> tuple[list[Prompt], dict[str, int]]:
    settings = RewritingConfig(**config)
    requests = evolutions([prompt(f"p{i}", parent) for i in range(len(answers))], settings, "evolve", 0)
    made, counts = evolved(requests, answers, settings, chat)
    assert counts["requests"] == counts["evolved"] + sum(counts[f"dropped_{reason}"] for reason in REASONS)
    return made, counted(counts)


def test_every_operation_is_drawn_and_rendered():
    config = RewritingConfig(per_prompt=6)
    requests = evolutions([prompt("p", "Explain {prompt} and {operation}.")], config, "evolve", 0)
    assert [r.uid for r in requests] == [f"p~evolve.{k}" for k in range(6)]
    assert {r.operation.name for r in requests} == {
        "add_constraints",
        "deepen",
        "concretise",
        "reasoning",
        "complicate_input",
        "breadth",
    }
    for request in requests:
        frame = BREADTH_FRAME if request.operation.breadth else DEPTH_FRAME
        assert request.text.startswith(frame[:40])
        assert request.operation.text in request.text
        assert "\nExplain {prompt} and {operation}.\n" in request.text  # the user's braces are left alone


def test_operations_are_drawn_by_weight_seed_and_prompt():
    operations = [OperationConfig("rare", "x"), OperationConfig("often", "y", weight=4)]
    prompts = [prompt(f"p{i}") for i in range(1000)]
    config = RewritingConfig(operations=operations)
    drawn = Counter(r.operation.name for r in evolutions(prompts, config, "evolve", 0))
    assert 150 < drawn["rare"] < 250  # 200 expected, deviation 13
    names = [r.operation.name for r in evolutions(prompts, config, "evolve", 0)]
    assert names == [r.operation.name for r in evolutions(prompts, config, "evolve", 0)]
    assert names[500:] == [r.operation.name for r in evolutions(prompts[500:], config, "evolve", 0)]
    assert names != [r.operation.name for r in evolutions(prompts, config, "evolve", 1)]
    assert names != [r.operation.name for r in evolutions(prompts, config, "evolve2", 0)]
    five = evolutions(prompts[:1], RewritingConfig(operations=operations, per_prompt=5), "evolve", 0)
    assert sorted(Counter(r.operation.name for r in five).values()) == [2, 3]


def test_answers_become_prompts_with_lineage():
    config = RewritingConfig()
    parent = prompt("p", reference="42", rewards=("math",), metadata={"level": 3}, source="set")
    request = evolutions([parent], config, "r1", 0)
    (child,), _ = evolved(request, ["Of course! New task: Sort a list of names."], config, chat)
    assert (child.uid, child.source) == ("p~r1.0", "set")
    assert (child.text, child.token_ids) == ("<user>Sort a list of names.<model>", (21, 2))
    assert (child.reference, child.rewards) == (None, ())  # nobody knows the answer of the new one
    assert child.metadata == {
        "raw_prompt": "Sort a list of names.",
        "parent": "p",
        "root": "p",
        "operation": request[0].operation.name,
        "generation": 1,
    }
    again = evolutions([child], config, "r2", 0)
    assert "Sort a list of names." in again[0].text
    assert "<user>" not in again[0].text  # evolves what it says, not its chat template
    (grandchild,), _ = evolved(again, ["New task: Sort names by length."], config, chat)
    assert grandchild.uid == "p~r1.0~r2.0"
    assert [grandchild.metadata[k] for k in ("parent", "root", "generation")] == ["p~r1.0", "p", 2]
    assert raw_text(grandchild) == "Sort names by length."


def test_an_operation_may_keep_the_answer():
    config = RewritingConfig(operations=[OperationConfig("reword", "say it otherwise", keeps_answer=True)])
    parent = prompt("p", reference="42", rewards=("math",), metadata={"level": 3})
    (child,), _ = evolved(evolutions([parent], config, "r", 0), ["Put numbers in order."], config, chat)
    assert (child.reference, child.rewards, child.metadata["level"]) == ("42", ("math",), 3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("New task: Sort a list of numbers, without loops.", ""),
        ("New task:  ", "too_short"),
        ("New task: sort a list  of numbers.", "no_gain"),
        ("New task: Sort the given task by size, largest first.", "copied"),
        ("New task: Sort a list of giventasks.", ""),
        ("New task: " + "word " * 31, "too_long"),
    ],
)
def test_eliminations(answer, reason):
    made, counts = answered(answer, elimination=EliminationConfig(max_words=30))
    assert counts == {"requests": 1} | ({f"dropped_{reason}": 1} if reason else {"evolved": 1})
    assert len(made) == (not reason)


def test_words_of_the_instruction_that_the_parent_has_are_no_failure():
    made, _ = answered("New task: Plan a new task in two steps.", parent="Plan a new task.")
    assert len(made) == 1


def test_unmarked_answers():
    strict = RewritingConfig()
    strict.answer.must_mark = True
    assert answered("no mark at all", answer=strict.answer)[1] == {"requests": 1, "dropped_unparsed": 1}
    assert answered("no mark at all")[1] == {"requests": 1, "evolved": 1}


def test_little_gain_is_a_matter_of_degree():
    answer = "New task: Sort a list of big numbers."  # shares 6 word pairs of 9
    assert answered(answer)[1]["evolved"] == 1
    assert answered(answer, elimination=EliminationConfig(max_similarity=0.6))[1] == {
        "requests": 1,
        "dropped_no_gain": 1,
    }
    assert answered(answer, elimination=EliminationConfig(max_similarity=0.7))[1]["evolved"] == 1


def test_duplicates_and_what_is_put_back():
    answers = ["New task: Count to ten.", "New task: count to  ten.", "New task: Count to two."]
    made, counts = answered(*answers)
    assert [p.uid for p in made] == ["p0~evolve.0", "p2~evolve.0"]
    assert counts == {"requests": 3, "evolved": 2, "dropped_duplicate": 1}
    made, counts = answered(*answers, put_back=True)
    assert [p.uid for p in made] == ["p0~evolve.0", "p2~evolve.0", "p1"]
    assert counts["put_back"] == 1
    both = RewritingConfig(per_prompt=2, put_back=True)
    requests = evolutions([prompt("a"), prompt("b", "Say hello.")], both, "e", 0)
    made, _ = evolved(requests, ["", "New task: Sort.", "Say hello.", ""], both, chat)
    assert [p.uid for p in made] == ["a~e.1", "b"]
    requests = evolutions([prompt("a"), prompt("b", "Say hello.")], RewritingConfig(), "e", 0)
    assert evolved(requests, ["Say hello.", "x"], RewritingConfig(), chat)[1]["dropped_duplicate"] == 1  # b's own text


def test_settings_come_from_yaml():
    text = """
    operations: [{name: longer, text: make it longer}]
    elimination: {max_words: 5}
    answer: {after: "=>", must_mark: true}
    constitution: {critique: false, revision_template: "{prompt} {response} {principle}"}
    """
    merged = OmegaConf.merge(OmegaConf.structured(RewritingConfig), OmegaConf.create(text))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, RewritingConfig)
    assert not list(setting_problems(config))
    (child,), _ = evolved(evolutions([prompt("p")], config, "e", 0), ["so => Sort all"], config, chat)
    assert raw_text(child) == "Sort all"
    assert child.metadata["operation"] == "longer"


def test_bad_settings_are_told_together():
    config = RewritingConfig(
        operations=[OperationConfig("a", "x", weight=0), OperationConfig("a", "")], per_prompt=0, depth_frame="{prompt}"
    )
    config.elimination.max_similarity = 0
    config.answer.pattern = "("
    config.constitution.principles = []
    with pytest.raises(ValueError, match=r"rewriting\.") as told:
        evolutions([], config, "e", 0)
    for part in (
        "operations.0.weight=0",
        "operations.1=a: incomplete, it needs a name and a text",
        "2 have this name",
        "per_prompt=0",
        "rewriting.depth_frame={prompt}: lacks {operation}",
        "elimination.max_similarity=0",
        "answer.pattern=(: no regular expression",
        "constitution.principles=[]",
    ):
        assert part in str(told.value)
    with pytest.raises(ValueError, match=r"operations=\[\]"):
        evolutions([], RewritingConfig(operations=[]), "e", 0)
    with pytest.raises(ValueError, match="1 uids occur twice, as 'p'"):
        evolutions([prompt("p"), prompt("p")], RewritingConfig(), "e", 0)
    requests = evolutions([prompt("p")], RewritingConfig(), "e", 0)
    with pytest.raises(ValueError, match="1 requests and 2 answers"):
        evolved(requests, ["x", "y"], RewritingConfig(), chat)
