from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlcore.data import tables
from rlcore.loops.config import OfflineTrainConfig
from rlcore.rounds.plan.config import Made
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.rounds.store import artefact as records
from rlcore.rounds.store.artefact import ArtefactError, DamagedError
from rlcore.rounds.store.content import table_hash
from rlcore.rounds.store.store import ArtefactStore, key_of
from rlcore.types import Prompt, RewardResult, Sample

ROOT = Path(__file__).parents[3]


def samples(n, first=0):
    return tables.from_samples(
        Sample(Prompt(f"p-{i}", (i, 2), f"{i}+1="), f"p-{i}#0", str(i), (3,) * (i % 5), reward=RewardResult(i / 7))
        for i in range(first, first + n)
    )


def prompts(n):
    return tables.from_prompts(Prompt(f"p-{i}", (i,), str(i)) for i in range(n))


def begin(store, key="k" * 64, stage="gen", number=1, made=Made.samples, config=None, parents=None):
    return store.begin(
        key, stage=stage, round=number, kind="generate", made=made, config=config or {}, parents=parents or {}
    )


def folder(path, text="weights"):
    (path / "sub").mkdir(parents=True)
    (path / "model.bin").write_text(text)
    (path / "sub" / "config.json").write_text("{}")
    return path


def names(path):
    return sorted(p.name for p in path.iterdir())


# ---- what is made is found


def test_records_are_found_again(tmp_path):
    with ArtefactStore(tmp_path) as store:
        start = store.adopt_folder("start", folder(tmp_path.parent / f"{tmp_path.name}-m"), Made.model)
        train = store.adopt_table("train", prompts(4), Made.prompts)
        draft = begin(store, config={"n": 8, "api_key": "abc"}, parents={"models": [start], "prompts": [train]})
        assert not draft.reopened
        draft.write_part(1, samples(4, 3))
        draft.write_part(0, samples(3))
        made = draft.finish_records({"mean_score": float("nan"), "counts": {"dropped_tie": 2}})
        assert store.find("k" * 64).hash == made.hash
    assert names(tmp_path) == ["lock", start.name, train.name, "r01-gen-kkkkkkkk"]
    assert names(made.folder) == ["artefact.json", "parts"]
    with ArtefactStore(tmp_path) as store:
        again = store.find("k" * 64)
        assert again.report["mean_score"] != again.report["mean_score"]
        assert dataclasses.replace(again, report={}) == dataclasses.replace(made, report={})
        assert (again.made, again.stage, again.round, again.kind, again.num_rows) == (
            Made.samples,
            "gen",
            1,
            "generate",
            7,
        )
        assert again.table().equals(samples(7))
        assert [t.num_rows for t in again.tables()] == [3, 4]
        assert again.table(["uid", "score"]).column_names == ["uid", "score"]
        assert again.hash == table_hash([samples(7)])
        assert again.config == {"n": 8, "api_key": "***"}
        assert [(p.field, p.hash, p.stage) for p in again.parents] == [
            ("models", start.hash, "start"), ("prompts", train.hash, "train"),
        ]  # fmt: skip
        assert store.find("other") is None


def test_a_model_is_moved_in(tmp_path):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store, made=Made.model, stage="sft")
        (draft.directory / "step-000010").mkdir()
        made = draft.finish_folder(folder(draft.directory / "export"), {"loss": 1.0})
        assert made.path == made.folder / "model"
        assert names(made.path) == ["model.bin", "sub"]
        assert names(made.folder) == ["artefact.json", "model"]
        assert made.num_bytes == 9
        outside = store.adopt_folder("same", folder(tmp_path / "x.corrupt" / "m"), Made.model)
        assert outside.hash == made.hash
        assert store.find("k" * 64) == made


def test_a_report(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made = begin(store, made=Made.report, stage="eval").finish_report({"accuracy": 0.5, "seconds": 3.0})
        other = begin(store, "o", made=Made.report, stage="eval").finish_report({"accuracy": 0.5, "seconds": 4.0})
        assert made.hash == other.hash
        assert store.find("k" * 64).report == {"accuracy": 0.5, "seconds": 3.0}
        with pytest.raises(ArtefactError, match="has no rows"):
            made.table()


def test_no_rows_are_an_artefact_too(tmp_path):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store)
        draft.write_part(0, samples(0))
        made = draft.finish_records({})
        assert (made.num_rows, made.table().num_rows) == (0, 0)
        empty = store.adopt_table("none", prompts(0), Made.prompts)
        assert empty.table().schema == tables.PROMPTS


def test_the_newest_of_a_stage_and_round_lies_beside_the_older(tmp_path):
    with ArtefactStore(tmp_path) as store:
        for key in ("aaaaaaaa1", "aaaaaaaa2", "bbbbbbbb"):
            draft = begin(store, key)
            draft.write_part(0, samples(len(key)))
            draft.finish_records({})
        assert names(tmp_path) == ["lock", "r01-gen-aaaaaaaa", "r01-gen-aaaaaaaa-2", "r01-gen-bbbbbbbb"]
        assert [store.find(k).num_rows for k in ("aaaaaaaa1", "aaaaaaaa2", "bbbbbbbb")] == [9, 9, 8]
        assert [a.key for a in store.artefacts()] == ["bbbbbbbb", "aaaaaaaa2", "aaaaaaaa1"]


def test_two_drafts_whose_keys_begin_alike(tmp_path):
    with ArtefactStore(tmp_path) as store:
        begin(store, "aaaaaaaa1").write_part(0, samples(1))
        begin(store, "aaaaaaaa2").write_part(0, samples(2))
        assert [begin(store, k).read_part(0).num_rows for k in ("aaaaaaaa1", "aaaaaaaa2")] == [1, 2]
        assert sorted(h.key for h in store.half_done()) == ["aaaaaaaa1", "aaaaaaaa2"]
        for k in ("aaaaaaaa2", "aaaaaaaa1"):
            begin(store, k).finish_records({})
        assert [store.find(k).num_rows for k in ("aaaaaaaa1", "aaaaaaaa2")] == [1, 2]


def key(config=None, reads=None, parents=None, seed=0):
    config = SftConfig(data=["best@all"], start="start") if config is None else config
    return key_of(config, reads or {}, parents or {"data": ["h1"], "start": ["h2"]}, seed)


def test_keys_are_of_what_changes_the_result():
    base = key()
    assert len(base) == 64
    # names of stages, rounds and how often is saved do not count
    assert key(SftConfig(data=["other"], start="sft@2", rounds=[2])) == base
    assert key(SftConfig(data=["best@all"], train=OfflineTrainConfig(checkpoint_every=7))) == base
    assert key(parents={"start": ["h2"], "data": ["h1"], "reference": []}) == base
    assert key(reads={"judge": {"api_key": "one"}}) == key(reads={"judge": {"api_key": "two"}})
    others = [
        key(SftConfig(data=["best@all"], weights=[2.0])),
        key(SftConfig(data=["best@all"], train=OfflineTrainConfig(per_step=8))),
        key(reads={"model": {"dtype": "bfloat16"}}),
        key(parents={"data": ["h1", "h3"], "start": ["h2"]}),
        key(parents={"data": ["h2"], "start": ["h1"]}),
        key(seed=1),
        key_of(RlConfig(), {}, {"data": ["h1"], "start": ["h2"]}, 0),
    ]
    assert len({base, *others}) == len(others) + 1


def test_the_order_of_parents_counts():
    assert key(parents={"data": ["a", "b"]}) != key(parents={"data": ["b", "a"]})


# ---- what was there from the start


def test_an_outer_folder_is_read_once(tmp_path, monkeypatch):
    model = folder(tmp_path / "model")
    with ArtefactStore(tmp_path / "store") as store:
        first = store.adopt_folder("start", model, Made.model)
        assert first.path == model
        assert first.external
        monkeypatch.setattr("rlcore.rounds.store.store.file_sums", lambda *_: pytest.fail("read again"))
        assert store.adopt_folder("start", model, Made.model) == first
        monkeypatch.undo()
        os.utime(model / "model.bin", ns=(1, 1))  # touched, not changed
        assert store.adopt_folder("start", model, Made.model).hash == first.hash
        monkeypatch.setattr("rlcore.rounds.store.store.file_sums", lambda *_: pytest.fail("read again"))
        assert store.adopt_folder("start", model, Made.model).hash == first.hash
        monkeypatch.undo()
        (model / "model.bin").write_text("others!")
        changed = store.adopt_folder("start", model, Made.model)
        assert changed.hash != first.hash
        assert len(store.artefacts()) == 2
        with pytest.raises(ArtefactError, match="no folder with a model"):
            store.adopt_folder("start", tmp_path / "nowhere", Made.model)
    assert names(model) == ["model.bin", "sub"]


def test_links_into_a_hub_cache_are_followed(tmp_path):
    blobs = folder(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.bin").symlink_to(blobs / "model.bin")
    with ArtefactStore(tmp_path / "store") as store:
        one = store.adopt_folder("start", tmp_path / "snapshot", Made.model)
        assert (one.num_bytes, one.path) == (7, tmp_path / "snapshot")


def test_a_table_is_copied_once(tmp_path):
    with ArtefactStore(tmp_path) as store:
        first = store.adopt_table("train", prompts(5), Made.prompts)
        assert store.adopt_table("train", prompts(5), Made.prompts) == first
        assert store.adopt_table("train", prompts(6), Made.prompts) != first
        assert len(store.artefacts()) == 2
        with pytest.raises(ArtefactError, match="a table of prompts, not of samples"):
            store.adopt_table("train", prompts(1), Made.samples)


# ---- misuse


def test_parts_must_fit(tmp_path):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store)
        with pytest.raises(ArtefactError, match=r"columns uid.*samples have"):
            draft.write_part(0, prompts(1))
        with pytest.raises(ArtefactError, match="lacks part 0"):
            draft.finish_records({})
        draft.write_part(0, samples(1))
        draft.write_part(2, samples(1))
        with pytest.raises(ArtefactError, match=r"lacks part 1 \(there are 2\)"):
            draft.finish_records({})
        with pytest.raises(ArtefactError, match="makes a samples, not model"):
            draft.finish_folder(folder(tmp_path / "m.corrupt"), {})
        with pytest.raises(ArtefactError, match="has no parts"):
            begin(store, "m", made=Made.model).write_part(0, samples(1))


def test_folders_must_hold_a_model_of_their_own(tmp_path):
    with ArtefactStore(tmp_path / "store") as store:
        draft = begin(store, made=Made.model)
        with pytest.raises(ArtefactError, match="holds no model"):
            draft.finish_folder(tmp_path / "none", {})
        (folder(tmp_path / "m") / "link").symlink_to("model.bin")
        with pytest.raises(ArtefactError, match="link is a link"):
            draft.finish_folder(tmp_path / "m", {})
        assert names(tmp_path / "m") == ["link", "model.bin", "sub"]


def test_a_full_disk_is_named_with_its_cure(tmp_path, monkeypatch):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store)
        draft.write_part(0, samples(2))

        def full(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(records.pq, "write_table", full)
        with pytest.raises(ArtefactError, match="Free some space"):
            draft.write_part(1, samples(2, 2))
        monkeypatch.undo()
        assert draft.parts() == [0]
        assert draft.read_part(0).equals(samples(2))


# ---- damage


def finished(store, n=50):
    draft = begin(store)
    draft.write_part(0, samples(n))
    return draft.finish_records({})


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "record", "record cut"])
def test_a_damaged_artefact_is_set_aside_and_made_anew(tmp_path, harm, caplog):
    with ArtefactStore(tmp_path) as store:
        made = finished(store)
    part = made.parts()[0]
    if harm == "flip":
        flip(part)
    elif harm == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    elif harm == "gone":
        part.unlink()
    elif harm == "record":
        text = (made.folder / "artefact.json").read_text()
        (made.folder / "artefact.json").write_text(text.replace('"round": 1', '"round": 2'))
    else:
        (made.folder / "artefact.json").write_text("{")
    with caplog.at_level(logging.WARNING), ArtefactStore(tmp_path) as store:
        assert store.find(made.key) is None
        assert len(store.warnings) == 1
        assert "r01-gen-kkkkkkkk.corrupt" in store.warnings[0]
        assert "is damaged" in caplog.text
        again = finished(store)
        assert (again.hash, again.name) == (made.hash, made.name)
    assert names(tmp_path) == ["lock", "r01-gen-kkkkkkkk", "r01-gen-kkkkkkkk.corrupt"]
    shutil.rmtree(made.folder)
    shutil.copytree(tmp_path / "r01-gen-kkkkkkkk.corrupt", made.folder)
    with ArtefactStore(tmp_path) as store:
        assert store.find(made.key) is None
    assert names(tmp_path) == ["lock", "r01-gen-kkkkkkkk.corrupt", "r01-gen-kkkkkkkk.corrupt-2"]


def test_what_is_finished_is_hashed_when_written_and_again_only_when_touched(tmp_path, monkeypatch):
    with ArtefactStore(tmp_path) as store:
        made = finished(store)
    hashed = []
    real = records.content_problems
    monkeypatch.setattr(records, "content_problems", lambda *given: hashed.append(given) or real(*given))
    with ArtefactStore(tmp_path) as store:
        assert store.find(made.key).hash == made.hash
        assert not hashed
        os.utime(made.parts()[0], ns=(1, 1))  # as a copy of the run folder
        for _ in range(2):
            assert store.find(made.key).hash == made.hash
    with ArtefactStore(tmp_path) as store:
        assert store.find(made.key).files["parts/part-00000.parquet"]["mtime_ns"] == 1
    assert len(hashed) == 1


def test_every_record_is_read_once(tmp_path, monkeypatch):
    with ArtefactStore(tmp_path) as store:
        for i in range(4):
            draft = begin(store, f"key{i}", stage=f"s{i}")
            draft.write_part(0, samples(1))
            draft.finish_records({})
    loaded, real = [], records.load
    monkeypatch.setattr(records, "load", lambda folder: loaded.append(folder.name) or real(folder))
    look = ArtefactStore(tmp_path, read_only=True)
    for i in range(4):
        assert look.find(f"key{i}") is not None
    assert len(loaded) == 4


def test_what_a_run_began_with_is_remembered(tmp_path):
    with ArtefactStore(tmp_path) as store:
        assert store.roots() == {}
        first, second = (store.adopt_table("train", prompts(n), Made.prompts) for n in (2, 3))
        for one in (first, second, first):  # the newest start, not the newest artefact
            store.remember_roots({"train": one})
            assert ArtefactStore(tmp_path, read_only=True).roots() == {"train": one}
        stamp = (tmp_path / "roots.json").stat().st_mtime_ns
        store.remember_roots({"train": first})
        assert (tmp_path / "roots.json").stat().st_mtime_ns == stamp
        with pytest.raises(ArtefactError, match="read-only"):
            ArtefactStore(tmp_path, read_only=True).remember_roots({})


def test_damage_is_seen_while_reading(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made = finished(store)
        flip(made.parts()[0], at=200)
        with pytest.raises(DamagedError, match=r"part-00000\.parquet is damaged"):
            made.table()


def test_a_torn_part_of_a_draft_is_made_anew(tmp_path):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store)
        for i in range(3):
            draft.write_part(i, samples(20, 20 * i))
        part = draft.folder / "parts" / "part-00001.parquet"
        part.write_bytes(part.read_bytes()[:-20])
        flip(draft.folder / "parts" / "part-00002.parquet", at=200)
        (draft.folder / "parts" / "part-00003.parquet.partial").write_bytes(b"half a file")
        draft = begin(store)
        assert draft.reopened
        assert draft.parts() == [0, 2]  # the flipped bit shows only when it is read
        draft.write_part(1, samples(20, 20))
        with pytest.raises(DamagedError):
            draft.finish_records({})
        assert draft.parts() == [0, 1]
        draft.write_part(2, samples(20, 40))
        assert draft.finish_records({}).hash == table_hash([samples(60)])
        assert store.find("k" * 64).table().equals(samples(60))


def test_a_draft_whose_record_is_damaged_is_begun_anew(tmp_path):
    with ArtefactStore(tmp_path) as store:
        draft = begin(store)
        draft.write_part(0, samples(2))
        flip(draft.folder / "draft.json")
        assert begin(store).parts() == []
        assert len(store.warnings) == 1


def test_another_schema_is_refused_not_set_aside(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made = finished(store)
    body = json.loads((made.folder / "artefact.json").read_text())
    del body["checksum"]
    records.write_json(made.folder / "artefact.json", body | {"schema": 99})
    with ArtefactStore(tmp_path) as store, pytest.raises(ArtefactError, match="schema 99, this version reads 1"):
        store.find(made.key)
    assert names(tmp_path) == ["lock", made.name]


# ---- one writer


def test_a_second_process_is_kept_out(tmp_path):
    code = f"""
        from rlcore.rounds.store.store import ArtefactStore, ArtefactError
        try:
            ArtefactStore({str(tmp_path)!r})
        except ArtefactError as error:
            print("refused", error)
        else:
            print("opened")
        print(ArtefactStore({str(tmp_path)!r}, read_only=True).find("{"k" * 64}") is not None)
    """

    def other():
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    with ArtefactStore(tmp_path) as store:
        finished(store)
        assert (
            other() == f"refused {tmp_path} is in use by another process: wait for it, or set another run_dir\nTrue\n"
        )
        with pytest.raises(ArtefactError, match="in use"):
            ArtefactStore(tmp_path)
    assert other() == "opened\nTrue\n"


def test_read_only_changes_nothing(tmp_path):
    with ArtefactStore(tmp_path) as store:
        made = finished(store)
        begin(store, "half").write_part(0, samples(1))
    made.parts()[0].write_bytes(b"short")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    look = ArtefactStore(tmp_path, read_only=True)
    assert look.find(made.key) is None
    assert [(h.key, h.parts, h.steps) for h in look.half_done()] == [("half", 1, 0)]
    assert "has 5 bytes instead of" in look.warnings[0]
    with pytest.raises(ArtefactError, match="read-only"):
        begin(look)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    assert ArtefactStore(tmp_path / "none", read_only=True).artefacts() == []
    assert not (tmp_path / "none").exists()
    store.close()
    with pytest.raises(ArtefactError, match="closed"):
        begin(store)


def test_seconds_are_summed_over_starts(tmp_path):
    with ArtefactStore(tmp_path) as store:
        begin(store).write_part(0, samples(1))
    record = tmp_path / "r01-gen-kkkkkkkk.draft" / "draft.json"
    body = records.read_json(record)
    records.write_json(record, body | {"begun": body["begun"] - 100})
    with ArtefactStore(tmp_path) as store:
        assert 100 <= store.half_done()[0].seconds < 110
        made = begin(store).finish_records({})
        assert 100 <= made.seconds < 110


# ---- a kill between any two operations on files


class Killed(BaseException):
    pass


class Killer:
    """Stops the program before its n-th operation that changes a file system."""

    OPERATIONS = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir", "remove")

    def __init__(self, monkeypatch, after):
        self.left, self.armed = after, True
        for name in self.OPERATIONS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))
        opened = builtins.open

        def watched(file, mode="r", *args, **kwargs):
            if mode.strip("bt") != "r":
                self._tick()
            return opened(file, mode, *args, **kwargs)

        monkeypatch.setattr("io.open", watched)

    def _wrapped(self, function):
        def operation(*args, **kwargs):
            self._tick()
            return function(*args, **kwargs)

        return operation

    def _tick(self):
        if self.armed and self.left == 0:
            raise Killed
        self.left -= 1


def make_records(store, log):
    if (done := store.find("k" * 64)) is not None:
        return done
    draft = begin(store)
    for i in range(3):
        if not draft.has_part(i):
            draft.write_part(i, samples(2, 2 * i))
            log.append(i)
    return draft.finish_records({"n": 6})


def make_model(store, log):
    """Three steps with a checkpoint each, then an export."""
    if (done := store.find("k" * 64)) is not None:
        return done
    draft = begin(store, made=Made.model)
    for i in range(3):
        checkpoint = draft.directory / f"step-{i:06d}"
        if not checkpoint.exists():
            (draft.directory / "aside").write_text(f"state {i}")
            os.rename(draft.directory / "aside", checkpoint)
            log.append(i)
    export = draft.directory / "export"
    if export.exists():
        shutil.rmtree(export)
    folder(export, (draft.directory / "step-000002").read_text())
    return draft.finish_folder(export, {"n": 6})


def make_report(store, _log):
    train = store.adopt_table("train", prompts(3), Made.prompts)
    start = store.adopt_folder("start", store.directory.parent / "model", Made.model)
    if (done := store.find("k" * 64)) is not None:
        return done
    draft = begin(store, made=Made.report, parents={"model": [start], "prompts": [train]})
    return draft.finish_report({"accuracy": 1.0})


def run(directory, make, log):
    with ArtefactStore(directory) as store:
        return make(store, log)


@pytest.mark.parametrize("make", [make_records, make_model, make_report])
def test_a_kill_anywhere_costs_at_most_what_was_under_way(tmp_path, make):
    folder(tmp_path / "model")
    expected = run(tmp_path / "whole", make, [])
    finals = names(tmp_path / "whole")
    kills = 0
    while True:
        directory, log = tmp_path / f"kill-{kills}", []
        with pytest.MonkeyPatch.context() as monkeypatch:
            Killer(monkeypatch, kills)
            try:
                run(directory, make, log)
                break
            except Killed:
                pass
        made = run(directory, make, log)
        where = f"killed before operation {kills}"
        assert made.hash == expected.hash, where
        assert names(directory) == finals, where
        assert names(made.folder) == names(expected.folder), where
        assert len(log) == len(set(log)), where
        assert ArtefactStore(directory, read_only=True).find("k" * 64) == made, where
        assert run(directory, make, log) == made, where
        shutil.rmtree(directory)
        kills += 1
    assert kills > 20


@pytest.mark.parametrize("make", [make_records, make_model])
@pytest.mark.parametrize("seed", range(5))
def test_killed_again_and_again(tmp_path, make, seed):
    expected, log, starts = run(tmp_path / "whole", make, []), [], 0
    rng, made = random.Random(seed), None
    while made is None:
        starts += 1
        assert starts < 200
        with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(Killed):
            Killer(monkeypatch, rng.randrange(30))
            made = run(tmp_path / "killed", make, log)
    assert made.hash == expected.hash
    assert len(log) == len(set(log))
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    assert starts > 1


SLOW_STAGE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from rlcore.rounds.store.store import ArtefactStore
from test_store import begin, samples
with ArtefactStore(Path({directory!r})) as store:
    draft = begin(store)
    for i in range({parts}):
        if not draft.has_part(i):
            draft.write_part(i, samples(2, 2 * i))
            print(i, flush=True)
            sys.stdin.readline()
    print("hash", draft.finish_records({{}}).hash, flush=True)
"""


def test_a_process_killed_for_good_leaves_no_lock_and_loses_no_part(tmp_path):
    parts, written = 12, []
    command = [
        sys.executable,
        "-c",
        SLOW_STAGE.format(tests=str(Path(__file__).parent), directory=str(tmp_path), parts=parts),
    ]
    for stop in (3, 7, None):
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            while not (line := process.stdout.readline()).startswith("hash") and line:
                written.append(int(line))
                if len(written) == stop:
                    process.kill()
                    break
                process.stdin.write("\n")
                process.stdin.flush()
        assert process.returncode == (-9 if stop else 0)
    assert line.split()[1] == table_hash([samples(2 * parts)])
    assert written == list(range(parts))
