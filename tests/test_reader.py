"""Settings out of plain values: what is read, what is refused, and with which words."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from rlcore.problems import bounded
from rlcore.reader import read
from rlcore.rounds.stages import STAGES


class Color(enum.Enum):
    red = "red"
    blue = "blue"


@dataclass
class Inner:
    count: int = bounded(1, ge=1)
    text: str = ""


@dataclass
class Outer:
    name: str
    inner: Inner = field(default_factory=lambda: Inner(7, "own"))
    listed: list[Inner] = field(default_factory=list)
    color: Color = Color.red
    mode: Literal["a", "b"] | None = "a"
    share: float | None = None
    flag: bool = False
    table: dict[str, float] = field(default_factory=lambda: {"x": 1.0})
    free: Any = None


def test_what_is_left_out_stays_at_its_default():
    made, wrong = read(Outer, {"name": "n", "inner": {"text": "new"}, "listed": [{"count": 2}], "table": {"y": 2}}, "")
    assert wrong == []
    assert made == Outer("n", Inner(7, "new"), [Inner(2)], table={"x": 1.0, "y": 2.0})
    assert isinstance(made.table["y"], float)


def test_conversions_lose_nothing():
    raw = {"name": 3, "inner": {"count": "4"}, "color": "blue", "mode": None, "share": "1e-6", "flag": "true"}
    made, wrong = read(Outer, raw, "")
    assert wrong == []
    assert made == Outer("3", Inner(4, "own"), color=Color.blue, mode=None, share=1e-6, flag=True)
    assert read(Outer, {"name": "n", "color": Color.blue, "free": [1, {"a": 2}]}, "")[0].free == [1, {"a": 2}]


@pytest.mark.parametrize(
    ("raw", "key", "text", "cure"),
    [
        ({"nme": "n", "name": "n"}, "root.nme", "unknown option", "did you mean name? expected one of: name,"),
        ({}, "root.name", "needed, and missing", "write name: text"),
        ({"name": "n", "inner": 3}, "root.inner", "it has another type", "write a mapping of its options: count, text"),
        ({"name": "n", "listed": "x"}, "root.listed", "it has another type", "write it as a list"),
        ({"name": "n", "listed": [{"count": 2.5}]}, "root.listed.0.count", "not a whole number", "write"),
        ({"name": "n", "inner": {"count": True}}, "root.inner.count", "not a whole number", "its default is 7"),
        ({"name": "n", "color": "blu"}, "root.color", "unknown value", "did you mean blue? expected one of: red, blue"),
        ({"name": "n", "mode": "c"}, "root.mode", "unknown value", "expected one of: a, b"),
        ({"name": "n", "table": {"x": "y"}}, "root.table.x", "not a number", "write a number"),
        ({"name": "n", "flag": 2}, "root.flag", "not true or false", "its default is False"),
        ({"name": None}, "root.name", "not text", "write text"),
        ({"name": "n", "inner": {"count": 0}}, "root.inner.count", "out of range", "must be 1 or more"),
        ({"name": "n", "share": math.nan}, "root.share", "not a number", "give a number"),
        (["name"], "root", "it has another type", "write a mapping of its options: name, inner,"),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_their_cure(raw, key, text, cure):
    _, (problem,) = read(Outer, raw, "root")
    assert (problem.key, problem.text) == (key, text)
    assert cure in problem.cure


def test_everything_at_once():
    _, wrong = read(Outer, {"inner": {"count": "x"}, "flag": "maybe", "other": 1}, "")
    assert sorted(problem.key for problem in wrong) == ["flag", "inner.count", "name", "other"]


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_stages_are_read_as_by_omegaconf(kind):
    config = STAGES[kind].config
    raw = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert read(config, raw, "") == (OmegaConf.to_object(OmegaConf.structured(config)), [])
    assert read(config, {}, "")[0] == config()
