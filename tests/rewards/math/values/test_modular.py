"""Rational functions, compared exactly."""

from rlcore.rewards.math.grammar.formula import parse
from rlcore.rewards.math.values import modular


def test_rational_functions_are_decided_exactly_and_others_are_not():
    assert modular.same(parse("(x+1)^{1000}"), parse("(1+x)^{1000}")) is True
    assert modular.same(parse("(x+1)^{1000}+1"), parse("(1+x)^{1000}")) is False
    assert modular.same(parse(r"\frac{x}{x}"), parse("1")) is True
    assert modular.same(parse(r"\sqrt{x}"), parse("x")) is None
    assert modular.same(parse(r"\frac{1}{x-x}"), parse("1")) is None
    assert modular.same(parse("x^{2^{40}}"), parse("x^{2^{41}}")) is None
    assert modular.same(parse("2^{10^{6}}"), parse("4^{500000}")) is True
