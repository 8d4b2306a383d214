from __future__ import annotations

import pytest

from rlcore.rounds.plan import settings
from rlcore.rounds.plan.config import RoundsConfig
from rlcore.rounds.plan.settings import GraphError, deep_merge, kind_of
from rlcore.rounds.stages import STAGES

SFT = {"kind": "sft", "data": ["answers"], "train": {"steps": 10, "epochs": 1.0}}


def check(config):
    return settings.check(config, STAGES)


def merged(config):
    return settings.merged(config, STAGES)


def rounds(**changes):
    return RoundsConfig(**({"count": 3, "stages": {"sft": SFT}} | changes))


def test_nothing_is_wrong():
    assert check(rounds(overrides={"2": {"sft": {"train": {"steps": 5}}}, 3: {"sft": {}}})) == []


def test_each_round_has_its_own_options():
    result = merged(
        rounds(overrides={"2": {"sft": {"train": {"steps": 5}, "data": ["a", "b"]}}, 3: {"sft": {"start": "x"}}})
    )
    assert sorted(result) == [(1, "sft"), (2, "sft"), (3, "sft")]
    assert result[1, "sft"] == SFT
    assert result[2, "sft"] == {"kind": "sft", "data": ["a", "b"], "train": {"steps": 5, "epochs": 1.0}}
    assert result[3, "sft"] == SFT | {"start": "x"}


def test_rounds_share_no_lists():
    result = merged(rounds())
    result[1, "sft"]["data"].append("more")
    result[1, "sft"]["train"]["steps"] = 0
    assert result[2, "sft"] == {"kind": "sft", "data": ["answers"], "train": {"steps": 10, "epochs": 1.0}}
    assert SFT["train"]["steps"] == 10


def test_deep_merge():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert deep_merge(base, {"a": {"c": [9]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [9]}, "d": {"e": 1}}
    assert deep_merge(base, {"a": None}) == {"a": None, "d": 3}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"count": 0}, "rounds.count", "1 or more"),
        ({"stages": {}}, "rounds.stages", "no stage"),
        ({"stages": {"sft": {"kind": "stf"}}}, "rounds.stages.sft.kind", "did you mean sft?"),
        ({"stages": {"x": {"kind": "zzz"}}}, "rounds.stages.x.kind", "one of: average, evaluate"),
        ({"stages": {"sft": {"data": []}}}, "rounds.stages.sft.kind", "kind: sft"),
        ({"stages": {"sft": "sft"}}, "rounds.stages.sft", "mapping"),
        ({"stages": {"train": SFT}}, "rounds.stages.train", "there from the start"),
        ({"stages": {"Train": SFT}}, "rounds.stages.Train", "there from the start"),
        ({"models": {"big": "/x"}, "stages": {"big": SFT}}, "rounds.stages.big", "one of rounds.models"),
        ({"models": {"start": "/x"}}, "rounds.models.start", "there from the start"),
        ({"models": {"m": "/x"}, "sources": {"m": {}}}, "rounds.sources.m", "one of rounds.models"),
        ({"stages": {"a/b": SFT}}, "rounds.stages.a/b", "folder"),
        ({"stages": {"sft": SFT, "SFT": SFT}}, "rounds.stages.SFT", "duplicate"),
        ({"overrides": {"4": {}}}, "rounds.overrides.4", "1 to 3"),
        ({"overrides": {"second": {}}}, "rounds.overrides.second", "1 to 3"),
        ({"overrides": {"0": {}}}, "rounds.overrides.0", "1 to 3"),
        ({"overrides": {"1": {"sfd": {}}}}, "rounds.overrides.1.sfd", "did you mean sft?"),
        ({"overrides": {"1": {"sft": 3}}}, "rounds.overrides.1.sft", "{option: value}"),
        ({"overrides": {"1": ["sft"]}}, "rounds.overrides.1", "mapping"),
        ({"overrides": {"1": {"sft": {"kind": "rl"}}}}, "rounds.overrides.1.sft.kind", "same in every round"),
        ({"overrides": {"1": {"sft": {"rounds": [1]}}}}, "rounds.overrides.1.sft.rounds", "same in every round"),
        ({"stages": {"sft": SFT | {"rounds": [2]}}, "overrides": {1: {"sft": {}}}}, "rounds.overrides.1.sft", "in 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_cure(changes, key, words):
    problems = check(rounds(**changes))
    (found,) = [p for p in problems if p.key.removesuffix(".kind") == key.removesuffix(".kind")]
    assert found.key == key
    assert words in str(found)
    assert found.cure


def test_all_at_once():
    bad = rounds(count=2, stages={"a": {"kind": "x"}, "train": SFT, "c d": SFT}, overrides={"7": {}, "1": {"no": {}}})
    keys = {p.key.removeprefix("rounds.") for p in check(bad)}
    assert keys == {"stages.a.kind", "stages.train", "stages.c d", "overrides.7", "overrides.1.no"}
    assert str(GraphError(check(bad))).count("\n") == 9


def test_stages_of_no_kind_are_left_out():
    stages = {"a": {"kind": "x"}, "b": None, "sft": SFT}
    assert sorted(merged(rounds(count=1, stages=stages))) == [(1, "sft")]
    assert [kind_of(s, STAGES) for s in stages.values()] == [None, None, "sft"]
