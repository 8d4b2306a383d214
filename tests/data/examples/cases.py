"""Rows of every kind of example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcore.data.examples.load import (
    ExampleKind,
    ExamplesConfig,
    load_examples,
)
from rlcore.data.sources.readers import DataError

KINDS = {
    "prompts": {"prompt": "1+1="},
    "demonstrations": {"prompt": "1+1=", "response": "2"},
    "preferences": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "labelled": {"prompt": "1+1=", "completion": "2", "label": True},
    "attributes": {"prompt": "1+1=", "response": "2", "helpfulness": 4},
    "attribute_pairs": {"prompt": "1+1=", "response_1": "2", "response_2": "3", "preference_strength": -2},
}


def write(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def load(tmp_path, tokenizer, kind: str, rows: list, **changes):
    path = write(tmp_path / "a.jsonl", rows)
    return load_examples(ExamplesConfig(**{"kind": ExampleKind(kind), "path": path, **changes}), tokenizer)


def problem(tmp_path, tokenizer, kind: str, rows: list, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load(tmp_path, tokenizer, kind, rows, **changes)
    return str(caught.value)
