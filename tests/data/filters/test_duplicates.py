from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply
from rlcore.data.filters.duplicates import bands
from rlcore.rounds import status
from rlcore.types import Pair, Prompt, RewardResult, Sample


def sample(i: int, prompt: str, text: str, score: float | None = None, uid: str | None = None) -> Sample:
    reward = None if score is None else RewardResult(score)
    return Sample(Prompt(uid or f"p{i}", (1,), prompt, source="web"), f"s{i}", text, (1, 2), reward=reward)


def left(rows: list, *filters: dict, context: FilterContext | None = None) -> list[str]:
    kept, _ = apply(tables.from_samples(rows), filters, context)
    return kept["sample_id"].to_pylist()


ROWS = [
    sample(0, "A  b", "x", 0.1),
    sample(1, "a b ", "x", 0.9),
    sample(2, "A b", "y", 0.5),
    sample(3, "A b\n", "x", 0.3),
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["s0", "s1", "s2"]),
        ({"of": "prompt"}, ["s0", "s1"]),
        ({"of": "prompt", "ignore_case": True}, ["s0"]),
        ({"of": "prompt", "ignore_case": True, "keep": "best"}, ["s1"]),
        ({"of": "response"}, ["s0", "s2"]),
        ({"of": "response", "within_prompt": True}, ["s0", "s1", "s2", "s3"]),
        ({"normalize_space": False}, ["s0", "s1", "s2", "s3"]),
    ],
)
def test_duplicates(options, expected):
    assert left(ROWS, {"kind": "duplicates", **options}) == expected


WORDS = [f"w{i}" for i in range(400)]


def texts(seed: int, edits: tuple[int, ...]) -> list[str]:
    """A text of 60 words, and one more for each number of words to replace."""
    rng = random.Random(seed)
    base = rng.choices(WORDS, k=60)
    out = [" ".join(base)]
    for n in edits:
        changed = list(base)
        changed[:n] = rng.choices(WORDS, k=n)
        out.append(" ".join(changed))
    return out


def test_near_duplicates_follow_the_exact_similarity():
    # n replaced words at the start spoil n of 58 shingles: J = (58 - n) / (58 + n)
    rows = [sample(i, t, "") for i, t in enumerate(texts(1, (0, 5, 6, 7, 30)))]
    found = left(rows, {"kind": "near_duplicates", "of": "prompt", "threshold": 0.8})
    assert found == ["s0", "s4", "s5"]  # 53/63 and 52/64 reach 0.8, 51/65 does not
    assert left(rows, {"kind": "near_duplicates", "of": "prompt", "threshold": 51 / 65}) == ["s0", "s5"]


def test_the_best_stays_and_no_chain_forms():
    a, b, c = "one two three four", "one two three four five", "one two three four five six"
    rows = [sample(0, a, "", 0.1), sample(1, b, "", 0.9), sample(2, c, "", 0.2)]  # J(a, c) = 2/4, neighbours 2/3, 3/4
    options = {"kind": "near_duplicates", "of": "prompt", "threshold": 0.6}
    assert left(rows, options) == ["s0", "s2"]
    assert left(rows, options | {"keep": "best"}) == ["s1"]


def test_near_duplicates_of_short_empty_and_mathematical_texts():
    rows = [sample(i, t, "") for i, t in enumerate(["74+85=", "74-85=", "74+85 =", "", "!!", ""])]
    assert left(rows, {"kind": "near_duplicates", "of": "prompt"}) == ["s0", "s1", "s3", "s4", "s5"]


def test_near_duplicates_within_a_prompt_and_by_characters():
    text = texts(2, (1,))
    rows = [sample(0, "", text[0], uid="p"), sample(1, "", text[1], uid="q"), sample(2, "", text[1], uid="p")]
    assert left(rows, {"kind": "near_duplicates", "of": "response", "within_prompt": True}) == ["s0", "s1"]
    typo = [sample(0, "internationalization of software", ""), sample(1, "internationalisation of software", "")]
    options = {"kind": "near_duplicates", "of": "prompt", "threshold": 0.5}
    assert left(typo, options) == ["s0", "s1"]
    assert left(typo, options | {"unit": "characters"}) == ["s0"]


def test_a_large_cluster_leaves_one():
    rng, base = random.Random(3), random.Random(4).choices(WORDS, k=60)
    rows = []
    for i in range(600):
        changed = list(base)
        changed[rng.randrange(60)] = f"n{i}"
        rows.append(sample(i, " ".join(changed), ""))
    kept = left(rows, {"kind": "near_duplicates", "of": "prompt"})
    assert kept == ["s0"]


def test_near_duplicates_find_what_a_loop_over_all_pairs_finds():
    rng = random.Random(5)
    given = [" ".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(300)]
    sets = []
    for t in given:
        w = t.split()
        sets.append({tuple(w[i : i + 3]) for i in range(max(1, len(w) - 2))})
    kept: list[int] = []
    for i, s in enumerate(sets):
        if all(len(s & sets[j]) / len(s | sets[j]) < 0.5 for j in kept):
            kept.append(i)
    found = left([sample(i, t, "") for i, t in enumerate(given)],
                 {"kind": "near_duplicates", "of": "prompt", "threshold": 0.5})  # fmt: skip
    wrong = {f"s{i}" for i in kept} ^ set(found)
    assert len(wrong) <= 3, wrong  # a signature may miss a pair at the very threshold


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    per_band, number = bands(threshold, 128)
    assert per_band * number <= 128
    assert 1 - (1 - threshold**per_band) ** number >= 0.995


def test_pairs():
    def pair(i: int, prompt: str, chosen: str, rejected: str) -> Pair:
        p = Prompt(f"p{i}", (1,), prompt)
        return Pair(p, Sample(p, f"c{i}", chosen, (1,)), Sample(p, f"r{i}", rejected, (1,)))

    table = tables.from_pairs([pair(0, "q", "yes", "no"), pair(1, "q", "no", "yes"), pair(2, "q", "a", " a ")])
    kept, report = apply(table, [{"kind": "identical_responses"}, {"kind": "duplicates"}])
    assert kept["uid"].to_pylist() == ["p0", "p1"]
    assert status.dropped(report.to_json()) == {"identical responses": 1}
    kept, _ = apply(table, [{"kind": "duplicates", "of": "prompt"}])
    assert kept["uid"].to_pylist() == ["p0"]


def test_chunked_tables_give_the_same():
    table = tables.from_samples(ROWS)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    for config in ({"kind": "duplicates"}, {"kind": "near_duplicates"}):
        whole, parts = apply(table, [config])[0], apply(pieces, [config])[0]
        assert np.array_equal(whole["sample_id"].to_pylist(), parts["sample_id"].to_pylist())
