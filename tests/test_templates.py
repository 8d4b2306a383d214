"""Templates survive what users write; answers are read where they are marked."""

from __future__ import annotations

import doctest
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore import templates
from rlcore.templates import PLACEHOLDERS, AnswerConfig, parse, render, template_problems

TEXT = st.text(st.sampled_from("ab{}_$\\ %") | st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    [f"{{{name}}}" for name in PLACEHOLDERS]
)


@given(TEXT, TEXT)
def test_values_come_through_untouched(prompt, response):
    assert render("1 {prompt} 2 {response} 3", prompt=prompt, response=response) == f"1 {prompt} 2 {response} 3"


def test_render():
    assert render('{prompt} as {"a": 1}, {x}, {{prompt}}', prompt="P") == 'P as {"a": 1}, {x}, {P}'


def test_template_problems():
    assert not list(template_problems("t", "{prompt} {x}", ("prompt",), ("prompt",)))
    found = template_problems("t", "{evolved}", ("prompt",), ("prompt",))
    assert [problem.text for problem in found] == ["lacks {prompt}", "{evolved} has no value there"]


@pytest.mark.parametrize(
    ("answer", "config", "text"),
    [
        ("  plain \n", AnswerConfig(), "plain"),
        ("no mark", AnswerConfig(after="New:"), "no mark"),
        ("no mark", AnswerConfig(after="New:", must_mark=True), None),
        ("New: a New: b", AnswerConfig(after="New:"), "b"),
        ("New:  ", AnswerConfig(after="New:", must_mark=True), ""),
        ("New: a\nEnd. b", AnswerConfig(after="New:", before="End."), "a"),
        ("x <q>a\nb</q> <q>c</q>", AnswerConfig(pattern="<q>(.*?)</q>"), "a\nb"),
        ("value 12 of 30", AnswerConfig(pattern=r"\d+"), "12"),
        ("nothing", AnswerConfig(pattern=r"\d+"), None),
        ("a", AnswerConfig(pattern="a|(b)"), ""),
    ],
)
def test_parse(answer, config, text):
    assert parse(answer, config) == text


def test_a_pattern_that_backtracks_is_given_up(monkeypatch):
    monkeypatch.setattr(templates, "PATTERN_LIMIT_S", 0.1)
    start = time.monotonic()
    assert parse("a" * 60 + "b", AnswerConfig(pattern=r"^(a|aa|a?)+\1$")) is None
    assert time.monotonic() - start < 20  # without a limit it takes longer than anyone waits


def test_broken_settings_are_named():
    for config, key in ((AnswerConfig(must_mark=True), "must_mark"), (AnswerConfig(pattern="("), "pattern")):
        (found,) = config.problems("answer")
        assert found.key == f"answer.{key}"
    assert not list(AnswerConfig(after="x", must_mark=True, pattern="(a)").problems("answer"))


def test_docstrings():
    assert doctest.testmod(templates).failed == 0
