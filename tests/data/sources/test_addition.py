"""The built-in addition problems."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data.sources import addition
from rlcore.data.sources.config import DataConfig
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError


def read_back(text: str) -> tuple[int, int]:
    a, b = re.fullmatch(r"(\d\d)\+(\d\d)=", text).groups()
    return int(a[::-1]), int(b[::-1])


def test_the_worked_example():
    assert addition.prompt(47, 58) == "74+85="
    assert addition.reference(47, 58) == "501"


def test_every_problem_once_and_every_reference_right(tokenizer):
    data = load_data(DataConfig(num_eval=500), tokenizer, seed=0)
    prompts = data.train + data.eval
    assert {read_back(p.text) for p in prompts} == {(a, b) for a in range(100) for b in range(100)}
    assert len(prompts) == 10_000 == len({p.uid for p in prompts})
    for p in prompts:
        assert int(p.reference[::-1]) == sum(read_back(p.text))
        assert len(p.reference) == 3
        assert p.rewards == ()
        assert tokenizer.decode(p.token_ids) == p.text
    assert data.counts["rows"] == 10_000
    assert (data.counts["train"], data.counts["eval"]) == (9500, 500)
    assert data.counts["longest_prompt_tokens"] == 6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 2**31))
def test_held_out_problems_are_not_trained_on_even_swapped(num_eval, seed):
    train, held = addition.problems(num_eval, seed)
    assert len(held) == num_eval == len(set(held))
    assert len(train) == 10_000 - num_eval
    unordered = {tuple(sorted(pair)) for pair in held}
    assert unordered.isdisjoint(tuple(sorted(pair)) for pair in train)


def test_seed_decides_and_repeats():
    assert addition.problems(500, 1) == addition.problems(500, 1)
    assert addition.problems(500, 1)[1] != addition.problems(500, 2)[1]


@pytest.mark.parametrize("num_eval", [-1, 10_000])
def test_refuses_to_hold_out_everything(tokenizer, num_eval):
    with pytest.raises(DataError, match=rf"data.num_eval={num_eval}: addition has 10000 problems"):
        load_data(DataConfig(num_eval=num_eval), tokenizer, seed=0)
