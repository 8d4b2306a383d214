from __future__ import annotations

import json
import math
import os

import pyarrow as pa
import pytest

from rlcore.rounds.plan.config import Made
from rlcore.rounds.store.artefact import (
    Artefact,
    ArtefactError,
    DamagedError,
    Parent,
    load,
    read_json,
    read_table,
    save,
    verify,
    write_json,
    write_table,
)
from rlcore.storage.durable import file_sums


def artefact(folder, **changes):
    values = {
        "key": "k", "hash": "h", "made": Made.report, "stage": "eval", "round": 2, "kind": "evaluate", "folder": folder,
        "path": folder, "num_rows": 0, "num_bytes": 0, "seconds": 1.5, "created": 7.0, "config": {"n": 1},
        "report": {"accuracy": math.inf}, "parents": (Parent("model", "h2", "k2", "sft", 1),),
    }  # fmt: skip
    return Artefact(**(values | changes))


def test_a_record_is_read_as_it_was_written(tmp_path):
    one = artefact(tmp_path)
    save(tmp_path, one)
    assert load(tmp_path) == one
    assert not one.external
    outer = artefact(tmp_path, made=Made.model, path=tmp_path.parent / "elsewhere" / "model")
    save(tmp_path, outer)
    assert load(tmp_path) == outer
    assert outer.external
    inner = artefact(tmp_path, made=Made.reward_model, path=tmp_path / "model")
    save(tmp_path, inner)
    assert load(tmp_path) == inner
    assert load(tmp_path / "none") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": 1}', '{"a": 1, "checksum": "0"}', "\udcff"])
def test_a_record_that_is_none(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DamagedError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")


def test_every_byte_of_a_record_counts(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"n": 12, "t": "ab", "f": [0.1, math.nan]})
    good = path.read_text()
    assert read_json(path) == {"n": 12, "t": "ab", "f": [0.1, {"$float": "nan"}]}
    for i, letter in enumerate(good):
        if letter.isalnum():
            path.write_text(good[:i] + ("1" if letter != "1" else "2") + good[i + 1 :])
            with pytest.raises(DamagedError):
                read_json(path)


def test_texts_that_unicode_lacks(tmp_path):
    write_json(tmp_path / "x.json", {"t": "half a pair \ud83d", "u": "ü 漢"})
    assert read_json(tmp_path / "x.json") == {"t": "half a pair \ud83d", "u": "ü 漢"}


def test_an_older_schema_says_what_to_do(tmp_path):
    save(tmp_path, artefact(tmp_path))
    body = json.loads((tmp_path / "artefact.json").read_text())
    del body["checksum"]
    write_json(tmp_path / "artefact.json", body | {"schema": 0})
    with pytest.raises(ArtefactError, match="resume with the version that wrote it") as caught:
        load(tmp_path)
    assert not isinstance(caught.value, DamagedError)


def test_damage(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("abc")
    files = {"model/a": file_sums(tmp_path / "model")["a"]}
    one = artefact(tmp_path, made=Made.model, path=tmp_path / "model", files=files)
    assert verify(one, read=True) == ("", {})
    os.utime(tmp_path / "model" / "a", ns=(5, 5))  # as a copy: another time, the same bytes
    assert verify(one, read=False) == ("", {})
    assert verify(one, read=True) == ("", {"model/a": files["model/a"] | {"mtime_ns": 5}})
    (tmp_path / "model" / "a").write_text("abd")
    assert verify(one, read=False) == ("", {})
    assert verify(one, read=True) == ("model/a: wrong checksum", {})
    (tmp_path / "model" / "a").write_text("ab")
    assert verify(one, read=False) == ("model/a has 2 bytes instead of 3", {})
    (tmp_path / "model" / "a").unlink()
    assert verify(one, read=False) == ("model/a is missing", {})


def test_tables(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"a": list(range(1000)), "b": ["x"] * 1000}))
    assert read_table(path, ["b"]).column_names == ["b"]
    good = path.read_bytes()
    for wrong in (good[:-1], good[:50], b"", good[:100] + bytes([good[100] ^ 4]) + good[101:]):
        path.write_bytes(wrong)
        with pytest.raises(DamagedError, match="is damaged"):
            read_table(path)
    path.unlink()
    with pytest.raises(DamagedError):
        read_table(path)
