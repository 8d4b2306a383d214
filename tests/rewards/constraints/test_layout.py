"""Constraints on the layout of a response: texts that fulfil them and texts that do not."""

import pytest

from rlcore.rewards.constraints import layout
from tests.rewards.constraints.cases import assert_empty_fails, assert_linear, flat, fulfils, ids_of


@pytest.mark.parametrize(("id", "kwargs", "text", "wanted"), flat(layout.__name__))
def test_kind(id, kwargs, text, wanted):
    assert fulfils(id, kwargs, text) is wanted


@pytest.mark.parametrize("id", ids_of(layout.__name__))
def test_nothing_is_fulfilled_by_an_empty_response(id):
    assert_empty_fails(id)


@pytest.mark.parametrize("id", ids_of(layout.__name__))
def test_hostile_text_costs_its_length(id):
    assert_linear(id)
