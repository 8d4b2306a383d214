"""Records to tables and back: nothing is lost, equal records give equal bytes, whatever the process."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.data import tables
from rlcore.types import Pair, Prompt, RewardResult, Sample, Status

TEXTS = st.text(max_size=8)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
NUMBERS = st.floats(allow_nan=False, width=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
PROMPTS = st.builds(
    Prompt, uid=TEXTS, token_ids=IDS, text=TEXTS, reference=st.none() | TEXTS,
    rewards=st.lists(TEXTS, max_size=2).map(tuple), metadata=OBJECTS, source=TEXTS,
)  # fmt: skip
REWARDS = st.builds(
    RewardResult, score=NUMBERS, status=st.sampled_from(Status), parts=st.dictionaries(TEXTS, NUMBERS, max_size=2),
    info=OBJECTS,
)  # fmt: skip


def samples_of(prompt):
    return st.builds(
        Sample, prompt=st.just(prompt), sample_id=TEXTS, text=TEXTS, token_ids=IDS,
        loss_mask=st.none() | st.lists(st.booleans(), max_size=5).map(tuple),
        finish_reason=st.sampled_from(["stop", "length"]), model=TEXTS, reward=st.none() | REWARDS,
    )  # fmt: skip


def pairs_of(prompt):
    one = samples_of(prompt)
    return st.builds(Pair, prompt=st.just(prompt), chosen=one, rejected=one, strength=st.none() | NUMBERS)


def through_a_file(table):
    """As an artefact keeps it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


@settings(max_examples=40, deadline=None)
@given(st.lists(PROMPTS, max_size=3))
def test_prompts_come_back(records):
    table = tables.from_prompts(records)
    assert table.schema == tables.PROMPTS
    assert tables.to_prompts(through_a_file(table)) == records


@settings(max_examples=60, deadline=None)
@given(st.lists(PROMPTS.flatmap(samples_of), max_size=3))
def test_samples_come_back(records):
    table = tables.from_samples(records)
    assert table.schema == tables.SAMPLES
    assert tables.to_samples(through_a_file(table)) == records
    assert tables.to_prompts(table) == [record.prompt for record in records]  # whatever other columns there are


@settings(max_examples=40, deadline=None)
@given(st.lists(PROMPTS.flatmap(pairs_of), max_size=2))
def test_pairs_come_back(records):
    table = tables.from_pairs(records)
    assert table.schema == tables.PAIRS
    assert tables.to_pairs(through_a_file(table)) == records


PROMPT = Prompt("p", (1, 2), "1+", metadata={"b": 1, "a": [2]})


def test_what_is_null_in_a_table():
    """Not scored is another thing than a score of 0, and no mask another than one that trains nothing."""
    bare = Sample(PROMPT, "s", "", ())
    full = Sample(PROMPT, "t", "2", (5,), (False,), reward=RewardResult(0.0, Status.ERROR))
    one, two = tables.from_samples([bare, full]).to_pylist()
    nulls = {name for name, value in one.items() if value is None}
    assert nulls == {"reference", "loss_mask", "score", "status", "parts", "info"}
    assert (two["score"], two["status"], two["parts"], two["info"]) == (0.0, "error", "{}", "{}")
    assert (one["response_ids"], two["loss_mask"], two["rewards"]) == ([], [False], [])


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_stays_what_it_is(score):
    sample = Sample(PROMPT, "s", "", (1,), reward=RewardResult(score, Status.TIMEOUT, {"a": score}))
    (back,) = tables.to_samples(through_a_file(tables.from_samples([sample])))
    for found in (back.reward.score, back.reward.parts["a"]):
        assert repr(found) == repr(score)
    assert back.reward.status is Status.TIMEOUT


def test_a_pairs_sides_do_not_mix():
    good = Sample(PROMPT, "g", "yes", (1,), model="m", reward=RewardResult(1.0, parts={"x": 1.0}))
    bad = Sample(PROMPT, "b", "no", (2, 3), (True, False), "length")
    row = tables.from_pairs([Pair(PROMPT, good, bad, 0.5)]).to_pylist()[0]
    assert [row[f"chosen_{n}"] for n in ("sample_id", "response_ids", "score")] == ["g", [1], 1.0]
    assert [row[f"rejected_{n}"] for n in ("sample_id", "response_ids", "score")] == ["b", [2, 3], None]
    assert (row["uid"], row["strength"]) == ("p", 0.5)


def test_equal_records_give_equal_text_in_whatever_order_their_keys_came():
    one, other = ({"b": 1, "a": {"d": 2, "c": 3}}, {"a": {"c": 3, "d": 2}, "b": 1})
    texts = {tables.from_prompts([Prompt("p", (1,), "", metadata=m)])["metadata"][0].as_py() for m in (one, other)}
    assert texts == {'{"a": {"c": 3, "d": 2}, "b": 1}'}


def test_numbers_of_numpy_stay_numbers():
    info = {"count": np.int64(3), "share": np.float32(0.5), "right": np.bool_(True), "all": np.arange(2)}
    reward = RewardResult(np.float32(1.5), parts={"a": np.float32(0.25)}, info=info)
    (back,) = tables.to_samples(tables.from_samples([Sample(PROMPT, "s", "", (1,), reward=reward)]))
    assert back.reward == RewardResult(
        1.5, parts={"a": 0.25}, info={"count": 3, "share": 0.5, "right": True, "all": [0, 1]}
    )


def test_what_json_cannot_hold_is_text_that_every_process_writes_alike():
    """A reward's `info` is the user's own; a set of texts has another order under another hash seed."""
    program = """
from pathlib import Path
from rlcore.data import tables
from rlcore.types import Prompt, RewardResult, Sample
info = {"words": {f"word{i}" for i in range(20)}, "frozen": frozenset("abcdef"), "path": Path("a/b"), "mixed": {1, "1"}}
sample = Sample(Prompt("p", (1,), ""), "s", "", (1,), reward=RewardResult(1.0, info=info))
print(tables.from_samples([sample])["info"][0].as_py())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    (text,) = found
    held = json.loads(text)
    assert held["words"] == sorted(f"word{i}" for i in range(20))
    assert held["frozen"] == list("abcdef")
    assert held["path"] == "a/b"
    assert len(held["mixed"]) == 2


def test_half_a_character_in_what_a_reward_tells():
    """Error texts of programs hold such; the table must take them, and give them back."""
    info = {"error": "byte \udcff"}
    sample = Sample(PROMPT, "s", "", (1,), reward=RewardResult(0.0, Status.ERROR, info=info))
    (back,) = tables.to_samples(through_a_file(tables.from_samples([sample])))
    assert back.reward.info == info


@pytest.mark.parametrize("kind", ["prompts", "samples", "pairs"])
def test_the_kind_by_the_columns(kind):
    table = tables.SCHEMAS[kind].empty_table()
    assert tables.kind_of(table) == kind
    with pytest.raises(ValueError, match="match no record"):
        tables.kind_of(table.drop_columns(["uid"]))


def test_tables_behind_each_other():
    parts = [tables.from_prompts([Prompt(f"{name}{i}", (i,), "") for i in range(2)]) for name in "ab"]
    whole = tables.concat(parts)
    assert [p.uid for p in tables.to_prompts(whole)] == ["a0", "a1", "b0", "b1"]
    assert whole["uid"].num_chunks == 1
    assert tables.concat([tables.PROMPTS.empty_table(), parts[0]]).num_rows == 2
