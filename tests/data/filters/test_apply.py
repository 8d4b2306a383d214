"""Cases of filters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply
from rlcore.rounds import status
from rlcore.types import Prompt, RewardResult, Sample

USER = """
def long(row, limit):
    if row["metadata"]["n"] > limit:
        return "too much"

def broken(row):
    return row["nothing"]

def odd(row):
    return True
"""


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"p{i}", (1,), f"text {i}", metadata={"n": i}, source="ab"[i % 2]) for i in range(n)]


def test_users_function(tmp_path):
    file = tmp_path / "user_filter.py"
    file.write_text(USER)
    table = tables.from_prompts(prompts(5))
    kept, report = apply(table, [{"kind": "fn", "fn": f"{file}:long", "options": {"limit": 2}}])
    assert kept["uid"].to_pylist() == ["p0", "p1", "p2"]
    assert status.dropped(report.to_json()) == {"too much": 2}
    with pytest.raises(ValueError, match=r"on row 'p0' raised KeyError: 'nothing'"):
        apply(table, [{"kind": "fn", "fn": f"{file}:broken"}])
    with pytest.raises(ValueError, match="returned True"):
        apply(table, [{"kind": "fn", "fn": f"{file}:odd"}])
    with pytest.raises(ValueError, match=r"has no function 'lng' \(did you mean 'long'"):
        apply(table, [{"kind": "fn", "fn": f"{file}:lng"}])


def test_a_row_leaves_with_its_first_reason_and_sources_are_counted():
    table = tables.from_prompts(prompts(6))
    filters = [{"kind": "regex", "pattern": "[012]$"}, {"kind": "regex", "pattern": "[0123]$"}]
    kept, report = apply(table, filters)
    assert kept["uid"].to_pylist() == ["p4", "p5"]
    assert [(d.filter, d.dropped, d.sources) for d in report.drops] == [
        ("0 regex", 3, {"a": 2, "b": 1}),
        ("1 regex", 1, {"b": 1}),
    ]
    assert report.sources_in == {"a": 3, "b": 3}
    assert report.sources_kept == {"a": 1, "b": 1}
    assert json.loads(json.dumps(report.to_json()))["rows_in"] == report.rows_in
    lines = report.render().splitlines()
    assert lines[0].split() == ["filter", "reason", "rows", "share", "a", "b"]
    assert lines[2].split() == ["0", "regex", "prompt", "matches", "3", "50%", "2", "1"]


def test_without_filters_nothing_changes():
    table = tables.from_prompts(prompts(3))
    kept, report = apply(table, [])
    assert kept.equals(table)
    assert report.drops == ()


EVERY = [
    {"kind": "duplicates"},
    {"kind": "near_duplicates", "threshold": 0.6, "keep": "best"},
    {"kind": "contamination", "n": 2},
    {"kind": "length", "unit": "characters", "min": 2},
    {"kind": "repetition", "n": 1},
    {"kind": "regex", "pattern": "z"},
    {"kind": "finish_reason"},
    {"kind": "score", "min": 0.2},
    {"kind": "difficulty", "threshold": 0.5, "high": 0.9},
    {"kind": "prompt_cap", "at_most": 4},
    {"kind": "samples_per_prompt", "at_most": 2, "keep": "random"},
]
ROW = st.tuples(
    st.integers(0, 6), st.text("abz .é+", max_size=14), st.sampled_from(["", "x", "y"]),
    st.sampled_from(["stop", "length"]), st.none() | st.floats(0, 1),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.lists(ROW, max_size=25), st.permutations(EVERY).flatmap(lambda f: st.integers(0, len(f)).map(lambda n: f[:n]))
)
def test_rows_are_conserved_whatever_the_filters(rows, filters):
    made = [
        Sample(Prompt(f"p{u}", (1,), f"prompt {u}", source=s), f"s{i}", t, (1,), finish_reason=f,
               reward=None if r is None else RewardResult(r))
        for i, (u, t, s, f, r) in enumerate(rows)
    ]  # fmt: skip
    table = tables.from_samples(made)
    kept, report = apply(table, filters, FilterContext({"e": ["a b z", "prompt 1"]}))
    assert table.num_rows == kept.num_rows + sum(status.dropped(report.to_json()).values())
    ids = kept["sample_id"].to_pylist()
    assert ids == [s for s in table["sample_id"].to_pylist() if s in set(ids)]  # in their order, none twice
    assert kept.schema.equals(table.schema)
    assert sum(report.sources_kept.values()) == kept.num_rows
