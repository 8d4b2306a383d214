"""Constraints on the content of a response: texts that fulfil them and texts that do not."""

import pytest

from rlcore.rewards import constraints
from rlcore.rewards.constraints import content
from tests.rewards.constraints.cases import CASES, IFEVAL, assert_empty_fails, assert_linear, flat, fulfils, ids_of


def test_all_kinds_of_ifeval_are_there_and_tested():
    assert len(IFEVAL) == len(set(IFEVAL)) == 25
    assert set(constraints.ids()) == {*IFEVAL, "length_constraints:number_characters"} == set(CASES)


@pytest.mark.parametrize(("id", "kwargs", "text", "wanted"), flat(content.__name__))
def test_kind(id, kwargs, text, wanted):
    assert fulfils(id, kwargs, text) is wanted


@pytest.mark.parametrize("id", ids_of(content.__name__))
def test_nothing_is_fulfilled_by_an_empty_response(id):
    assert_empty_fails(id)


@pytest.mark.parametrize("id", ids_of(content.__name__))
def test_hostile_text_costs_its_length(id):
    assert_linear(id)
