from __future__ import annotations

import pytest

from rlcore.data import tables
from rlcore.data.filters import apply
from rlcore.rounds import status
from rlcore.types import Pair, Prompt, Sample


def samples(*texts: str, finish: str = "stop", prompt: str = "a prompt") -> list[Sample]:
    made = Prompt("p", (1, 2, 3), prompt, source="web")
    return [Sample(made, f"s{i}", t, tuple(range(len(t.split()))), finish_reason=finish) for i, t in enumerate(texts)]


def dropped(rows: list[Sample], **config) -> dict[int, str]:
    """Row -> reason."""
    found = {}
    for i, row in enumerate(rows):
        _, report = apply(tables.from_samples([row]), [config])
        found |= dict.fromkeys([i], next(iter(status.dropped(report.to_json())))) if report.drops else {}
    return found


def test_length():
    rows = samples("", "a b", "a b c d")
    short, long = "response too short", "response too long"
    assert dropped(rows, kind="length", min=1, max=2) == {0: short, 2: long}
    assert dropped(rows, kind="length", unit="characters", max=3) == {2: long}
    assert dropped(rows, kind="length", of="prompt", max=2) == dict.fromkeys(range(3), "prompt too long")
    assert dropped(samples("é日"), kind="length", unit="characters", max=2) == {}


def test_length_of_pairs_names_the_side():
    chosen, rejected = samples("a", "a b c")
    _, report = apply(tables.from_pairs([Pair(chosen.prompt, chosen, rejected)]), [{"kind": "length", "max": 2}])
    assert status.dropped(report.to_json()) == {"rejected response too long": 1}


def test_repetition():
    rows = samples("a b c d e f", "x y " * 10, "no no no no no", "a b c")
    assert dropped(rows, kind="repetition", n=2) == dict.fromkeys((1, 2), "response repeats itself")
    assert dropped(rows, kind="repetition", max_share=None, max_run=4) == {2: "response has a long run"}
    assert dropped(samples("haaaaaaa"), kind="repetition", unit="characters", max_share=None, max_run=6) == {
        0: "response has a long run"
    }
    # 19 bigrams, 2 of them distinct
    assert dropped(rows[1:2], kind="repetition", n=2, max_share=17 / 19) == {}


def test_regex():
    rows = samples("I am sorry, but", "Fine.")
    assert dropped(rows, kind="regex", pattern="^i am sorry", ignore_case=True) == {0: "response matches"}
    assert dropped(rows, kind="regex", pattern=r"^\w+\.$", action="keep") == {0: "no match"}
    assert dropped(rows, kind="regex", pattern="prompt", of="both", action="keep") == {}


def test_finish_reason():
    assert dropped(samples("a", finish="length"), kind="finish_reason") == {0: "response ended by length"}
    assert dropped(samples("a", finish="length"), kind="finish_reason", allowed=["stop", "length"]) == {}
    cut, whole = samples("a", finish="length")[0], samples("b")[0]
    table = tables.from_pairs([Pair(whole.prompt, whole, cut)])
    assert apply(table, [{"kind": "finish_reason", "side": "chosen"}])[0].num_rows == 1
    _, report = apply(table, [{"kind": "finish_reason"}])
    assert status.dropped(report.to_json()) == {"rejected response ended by length": 1}


def test_language():
    pytest.importorskip("py3langid")
    rows = samples(
        "This is a plain English sentence about the weather in the north.",
        "Ceci est une phrase en français qui parle du temps qu'il fait aujourd'hui.",
        "Oui.",
    )
    assert dropped(rows, kind="language") == {1: "response in fr"}
    assert dropped(rows, kind="language", allowed=["en", "fr-FR"]) == {}
    kept, _ = apply(tables.from_samples(rows), [{"kind": "language"}])
    assert kept["sample_id"].to_pylist() == ["s0", "s2"]
