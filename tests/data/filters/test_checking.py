from __future__ import annotations

import pytest

from rlcore.data.filters import KINDS, apply, check
from rlcore.data.filters.apply import FILTERS
from rlcore.data.filters.config import LengthConfig
from rlcore.data.tables import from_prompts


def test_every_kind_is_carried_out():
    assert set(KINDS) == set(FILTERS)


def test_good_filters_pass():
    good = [{"kind": "near_duplicates", "threshold": 1, "of": None}, LengthConfig(max=3), {"kind": "score", "min": 0}]
    assert check(good, "samples") == []


@pytest.mark.parametrize(
    ("given", "kind", "parts"),
    [
        ({"kind": "near_duplicate"}, "samples", ["filters.0.kind", "'near_duplicates'"]),
        ({"kind": "near_duplicates", "treshold": 0.5}, "samples", ["filters.0.treshold", "did you mean threshold?"]),
        ({"kind": "near_duplicates", "threshold": "high"}, "samples", ["filters.0.threshold", "a number"]),
        ({"kind": "near_duplicates", "threshold": 1.5}, "samples", ["from 0.3 to 1"]),
        ({"kind": "duplicates", "keep": "besst"}, "samples", ["filters.0.keep", "did you mean best?"]),
        ({"kind": "duplicates", "keep": "best"}, "prompts", ["filters.0.keep", "prompts have none"]),
        ({"kind": "length", "max": True}, "samples", ["filters.0.max", "whole number"]),
        ({"kind": "length"}, "samples", ["would drop nothing"]),
        ({"kind": "length", "min": 5, "max": 2}, "samples", ["5 is above 2"]),
        ({"kind": "length", "of": "response", "max": 2}, "prompts", ["no responses"]),
        ({"kind": "margin", "min": 1}, "samples", ["works on pairs, not on samples"]),
        ({"kind": "regex", "pattern": "(?=a)"}, "samples", ["RE2"]),
        ({"kind": "regex"}, "samples", ["filters.0.pattern", "needed, and missing"]),
        ({"kind": "samples_per_prompt", "at_most": 0}, "pairs", ["must be 1 or more"]),
        ({"kind": "fn", "fn": "missing_file.py:f"}, "pairs", ["does not exist"]),
        ({"kind": "prompt_cap", "per_source": {"web": -1}}, "pairs", ["filters.0.per_source.web"]),
        ({"kind": "language", "allowed": ["xx"]}, "samples", ["xx"]),
        ({"max": 1}, "samples", ["filters.0.kind", "missing"]),
        ("length", "samples", ["filters.0.kind", "missing"]),
    ],
)
def test_bad_filters_are_named(given, kind, parts):
    found = check([given], kind)
    assert len(found) == 1
    assert all(part in str(found[0]) for part in parts), found


def test_all_errors_at_once_and_before_anything_runs():
    bad = [{"kind": "lenght", "max": 1}, {"kind": "length", "mx": 1, "unit": "miles"}]
    assert [problem.key for problem in check(bad, "prompts")] == ["filters.0.kind", "filters.1.mx", "filters.1.unit"]
    with pytest.raises(ValueError, match=r"(?s)filters\.0.*filters\.1\.unit"):
        apply(from_prompts([]), bad)


def test_not_a_list_or_an_unknown_table():
    assert "must be a list" in str(check({"kind": "length"}, "samples")[0])
    assert "'samples'" in str(check([], "sample")[0])
