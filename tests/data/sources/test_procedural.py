"""Procedural tasks to prompts. Needs reasoning-gym, but for the message that says so."""

from __future__ import annotations

import pickle
import sys

import pytest

from rlcore.data.sources.config import DataConfig, ProceduralConfig, ProceduralTaskConfig, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError
from rlcore.gym_tasks import TaskError, open_task


def config(*tasks: ProceduralTaskConfig, num_eval: int = 20, seed: int | None = None, tokens: int = 2000) -> DataConfig:
    procedural = ProceduralConfig(tasks=list(tasks), seed=seed)
    return DataConfig(source=SourceKind.procedural, num_eval=num_eval, procedural=procedural, max_prompt_tokens=tokens)


SUMS = ProceduralTaskConfig("chain_sum", 60)
LEGS = ProceduralTaskConfig("leg_counting", 50)


def problem(tokenizer, *tasks: ProceduralTaskConfig, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load_data(config(*tasks, **changes), tokenizer, seed=0)
    return str(caught.value)


def test_a_missing_package_is_named_with_its_cure(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    text = problem(tokenizer, SUMS)
    assert text.startswith("data.procedural.tasks.0: procedural tasks need the package reasoning-gym")
    assert "pip install 'rlcore[procedural]'" in text


def test_no_task(tokenizer):
    assert "data.procedural.tasks=[{name: leg_counting" in problem(tokenizer)


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def package(self):
        pytest.importorskip("reasoning_gym")

    def test_rows_of_two_tasks(self, tokenizer):
        data = load_data(config(SUMS, LEGS, num_eval=21), tokenizer, seed=0)
        by_task = [[p.uid.split(".")[0] for p in side].count for side in (data.train, data.eval)]
        assert [count(name) for count in by_task for name in ("chain_sum", "leg_counting")] == [60, 50, 11, 10]
        assert data.counts["rows"] == 110 + 21 + data.counts["skipped_copies"]
        texts = [p.text for p in data.train + data.eval]
        assert len(set(texts)) == len(texts) == len({p.uid for p in data.train + data.eval})
        one = data.train[0]
        assert one.uid.startswith("chain_sum.0-train-")
        assert one.reference == one.metadata["entry"]["answer"]
        assert one.metadata["entry"]["question"] in one.text
        assert set(one.metadata) == {"task", "options", "level", "entry"}
        assert pickle.loads(pickle.dumps(one)).metadata == one.metadata

    def test_seeds(self, tokenizer):
        def texts(seed, own=None):
            data = load_data(config(SUMS, seed=own), tokenizer, seed=seed)
            return [p.text for p in data.train], [p.text for p in data.eval]

        assert texts(1) == texts(1)
        assert texts(1) != texts(2)
        assert texts(1, own=5) == texts(2, own=5)

    def test_no_question_is_on_both_sides_even_where_there_are_few(self, tokenizer):
        few = ProceduralTaskConfig(
            "chain_sum", 200, options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
        )
        data = load_data(config(few, num_eval=40), tokenizer, seed=0)
        train, held = ({p.text for p in side} for side in (data.train, data.eval))
        assert len(held) == 40
        assert not train & held
        assert 50 < len(train) < 200  # a and b of one digit, plus or minus
        assert data.counts["skipped_copies"] > 100
        assert data.counts["rows"] == len(train) + len(held) + data.counts["skipped_copies"]

    def test_two_terms_of_one_task_share_nothing(self, tokenizer):
        data = load_data(config(SUMS, SUMS), tokenizer, seed=0)
        assert len({p.text for p in data.train + data.eval}) == len(data.train + data.eval) == 140

    def test_long_prompts_are_counted(self, tokenizer):
        data = load_data(config(LEGS, SUMS, tokens=130), tokenizer, seed=0)
        counts = data.counts
        assert counts["skipped_too_long"] > 0
        assert (
            counts["rows"] == counts["train"] + counts["eval"] + counts["skipped_too_long"] + counts["skipped_copies"]
        )

    def test_levels_and_options_change_the_difficulty(self, tokenizer):
        def longest(**settings):
            task = ProceduralTaskConfig("chain_sum", 40, **settings)
            return max(p.text.count(" + ") + p.text.count(" - ") for p in load_data(config(task), tokenizer, 0).train)

        assert longest(options={"min_terms": 2, "max_terms": 2}) == 1
        assert longest(level=0) < longest(level=3)
        assert longest(level=3, options={"min_terms": 2, "max_terms": 3}) <= 2  # options win
        assert longest(level=99) >= longest(level=3)  # the highest there is

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            (
                ProceduralTaskConfig("chain_sums"),
                r"tasks.1: reasoning-gym has no task 'chain_sums' (did you mean 'chain_sum'?); it has: ab, ",
            ),
            (ProceduralTaskConfig("composite"), "has no task 'composite'"),
            (
                ProceduralTaskConfig("chain_sum", options={"max_term": 3}),
                "no option 'max_term' (did you mean 'max_terms'?); it has: min_terms, ",
            ),
            (ProceduralTaskConfig("chain_sum", options={"seed": 3}), "no option 'seed'"),
            (
                ProceduralTaskConfig("chain_sum", options={"min_terms": 0}),
                "refuses its options {'min_terms': 0}: AssertionError",
            ),
            (ProceduralTaskConfig("chain_sum", level=-1), "level=-1 is negative"),
            (ProceduralTaskConfig("chain_sum", 0), "the size of a task is at least 1"),
        ],
    )
    def test_wrong_tasks_are_named(self, tokenizer, task, message):
        assert message in problem(tokenizer, SUMS, task)

    def test_a_task_without_levels(self):
        from reasoning_gym import factory

        without = next(
            name for name in sorted(factory.DATASETS) if name not in factory.CURRICULA and name != "composite"
        )
        with pytest.raises(TaskError, match=f"the task {without} has no levels"):
            open_task(without, {}, level=0)

    def test_all_held_out_is_an_error(self, tokenizer):
        few = ProceduralTaskConfig(
            "chain_sum", 5, options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
        )
        assert "too few distinct questions" in problem(tokenizer, few, num_eval=2000)
