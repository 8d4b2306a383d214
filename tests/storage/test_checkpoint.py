"""Whatever is killed, filled or flipped, the newest intact checkpoint loads and its numbers are those saved."""

from __future__ import annotations

import enum
import errno
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from rlcore.storage import checkpoint
from rlcore.storage.checkpoint import CheckpointError, Checkpoints
from rlcore.storage.durable import FileSums, synced_sums

OLD, NEW = {"step": 10, "best": 0.25}, {"step": 20, "best": 0.5}


def writer(value: int):
    def write(directory: Path) -> None:
        (directory / "model.bin").write_bytes(bytes([value]) * 5000)
        (directory / "rank-0" / "deep").mkdir(parents=True)
        (directory / "rank-0" / "deep" / "optimizer.bin").write_bytes(bytes([value + 1]) * 100)
        (directory / "empty").write_bytes(b"")

    return write


def of_size(count: int):
    def write(directory: Path) -> None:
        (directory / "model.bin").write_bytes(b"x" * count)

    return write


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("state.json", "manifest.json")
    }


def expected(value: int) -> dict[str, bytes]:
    return {
        "empty": b"",
        "model.bin": bytes([value]) * 5000,
        "rank-0/deep/optimizer.bin": bytes([value + 1]) * 100,
    }


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in store.directory.iterdir())


# ---- the plain way


def test_nothing_saved_loads_nothing(store):
    assert store.load_latest() is None
    assert store.steps() == []
    assert Checkpoints(store.directory / "absent", keep=1, read_only=True).load_latest() is None


def test_save_and_load(store):
    path = store.save(10, OLD, writer(1))
    assert path == store.directory / "step-000010"
    directory, state = store.load_latest()
    assert (directory, state, content(directory)) == (path, OLD, expected(1))
    assert (store.directory / "latest").read_text() == "step-000010\n"
    assert store.warnings == []


def test_what_the_workers_have_hashed_is_not_read_again(store, monkeypatch):
    """Only its size is compared; a byte that changes later is noticed by the worker's hash."""
    read = []
    plain = checkpoint.synced_sums
    monkeypatch.setattr(checkpoint, "synced_sums", lambda folder, names: read.extend(names) or plain(folder, names))

    def write(directory: Path) -> FileSums:
        writer(1)(directory)
        return synced_sums(directory, ["model.bin", "rank-0/deep/optimizer.bin"])

    path = store.save(10, OLD, write)
    assert sorted(read) == ["empty", "state.json"]
    monkeypatch.undo()
    files = json.loads((path / "manifest.json").read_text())["files"]
    store.save(20, OLD, writer(1))
    assert json.loads((store.directory / "step-000020" / "manifest.json").read_text())["files"].items() >= {
        name: entry for name, entry in files.items() if name != "state.json"
    }.items()
    shutil.rmtree(store.directory / "step-000020")
    assert store.load_latest()[1] == OLD
    (path / "model.bin").write_bytes(bytes([1]) * 4999 + b"!")
    with pytest.raises(CheckpointError, match=r"model.bin: wrong checksum"):
        store.load_latest()


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lambda path: path.unlink(), "model.bin is missing"),
        (lambda path: path.write_bytes(b"x" * 10), "model.bin has 10 bytes instead of 5,000"),
    ],
)
def test_a_file_that_is_not_as_a_worker_wrote_it_is_no_checkpoint(store, damage, wrong):
    store.save(10, OLD, writer(1))

    def write(directory: Path) -> FileSums:
        writer(2)(directory)
        sums = synced_sums(directory, ["model.bin"])
        damage(directory / "model.bin")
        return sums

    with pytest.raises(CheckpointError, match=f"{wrong}.*file system that all nodes share"):
        store.save(20, NEW, write)
    assert names(store) == ["latest", "step-000010"]


def test_only_the_newest_are_kept_and_steps_sort_as_numbers(store):
    for step in (0, 5, 999_999, 1_000_000):
        store.save(step, {"step": step}, writer(1))
    assert store.steps() == [1_000_000, 999_999]
    assert names(store) == ["latest", "step-1000000", "step-999999"]
    assert store.load_latest()[1] == {"step": 1_000_000}


def test_pruning_counts_back_from_the_step_just_saved(tmp_path):
    """A run that went back must not lose its new checkpoint to an older, higher one."""
    store = Checkpoints(tmp_path, keep=1)
    store.save(20, NEW, writer(2))
    store.save(10, OLD, writer(1))
    assert store.steps() == [20, 10]


def test_same_step_is_replaced(store):
    store.save(10, OLD, writer(1))
    store.save(10, NEW, writer(3))
    directory, state = store.load_latest()
    assert state == NEW
    assert content(directory) == expected(3)
    assert names(store) == ["latest", "step-000010"]


def test_keep_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_read_only_changes_nothing(store):
    store.save(10, OLD, writer(1))
    (store.directory / "step-000020.partial").mkdir()
    reader = Checkpoints(store.directory, keep=1, read_only=True)
    assert reader.load_latest()[1] == OLD
    with pytest.raises(CheckpointError, match="read-only"):
        reader.save(20, NEW, writer(2))
    assert "step-000020.partial" in names(store)
    os.rename(store.directory / "step-000010", store.directory / "step-000010.replaced")
    assert reader.load_latest()[1] == OLD, "an interrupted replacement is read where it lies"


def test_leftovers_are_cleared_at_start(store):
    store.save(10, OLD, writer(1))
    for name in ("step-000020.partial", "step-000005.removed", "step-000010.replaced"):
        (store.directory / name).mkdir()
    (store.directory / "latest.partial").write_text("x")
    (store.directory / "notes.partial").write_text("the user's")
    Checkpoints(store.directory, keep=2)
    assert names(store) == ["latest", "notes.partial", "step-000010"]


# ---- kills and exceptions at every stage


PRIMITIVES = ("open", "mkdir", "fsync", "rename", "replace", "rmdir", "unlink")


def hook(monkeypatch, act):
    """Calls `act(i)` before the i-th operation on the disk, over all threads. Returns the list of operations."""
    calls: list[str] = []
    for name in PRIMITIVES:
        real = getattr(os, name)

        def wrapped(*args, _real=real, _name=name, **kwargs):
            calls.append(f"{_name} {args[0]}")
            act(len(calls) - 1)
            return _real(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapped)
    return calls


def operations(monkeypatch, store: Checkpoints, step: int) -> int:
    """Of one save over an old checkpoint, counted on a copy."""
    copy = store.directory.with_name("counted")
    shutil.copytree(store.directory, copy)
    other = Checkpoints(copy, keep=store.keep)
    with monkeypatch.context() as patch:
        calls = hook(patch, lambda i: None)
        other.save(step, NEW, writer(3))
        count = len(calls)
    shutil.rmtree(copy)
    assert count > 20, "the hooks must see the save"
    return count


@pytest.mark.parametrize("step", [10, 20], ids=["replacing", "new"])
@pytest.mark.parametrize("keep", [1, 2])
def test_killed_at_any_operation(monkeypatch, tmp_path, step, keep):
    """os._exit in a forked child, before each operation on the disk in turn: no handler runs, as with SIGKILL."""
    master = Checkpoints(tmp_path / "master", keep=keep)
    master.save(10, OLD, writer(1))
    outcomes = []
    for at in range(operations(monkeypatch, master, step)):
        directory = tmp_path / f"run-{at}"
        shutil.copytree(master.directory, directory)
        store = Checkpoints(directory, keep=keep)
        child = os.fork()
        if child == 0:
            hook(monkeypatch, lambda i, at=at: os._exit(9) if i >= at else None)
            try:
                store.save(step, NEW, writer(3))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        for view in (Checkpoints(directory, keep=keep, read_only=True), Checkpoints(directory, keep=keep)):
            folder, state = view.load_latest()
            assert (state, content(folder)) in [(OLD, expected(1)), (NEW, expected(3))], at
            assert view.warnings == []
        outcomes.append(state == NEW)
        assert not [n for n in names(store) if n.endswith((".partial", ".removed", ".replaced"))]
        again = Checkpoints(directory, keep=keep)
        again.save(step, NEW, writer(3))  # and the run goes on
        assert content(again.load_latest()[0]) == expected(3)
        shutil.rmtree(directory)
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes), "once the new one is durable it stays the one that loads"


@pytest.mark.parametrize("step", [10, 20], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_error_at_any_operation(monkeypatch, tmp_path, step, error):
    master = Checkpoints(tmp_path / "master", keep=1)
    master.save(10, OLD, writer(1))
    for at in range(operations(monkeypatch, master, step)):
        directory = tmp_path / f"run-{at}"
        shutil.copytree(master.directory, directory)
        store = Checkpoints(directory, keep=1)

        def act(i, at=at):
            if i == at:
                raise error

        with monkeypatch.context() as patch:
            hook(patch, act)
            try:
                store.save(step, NEW, writer(3))
            except (OSError, KeyboardInterrupt) as caught:
                assert caught is error  # noqa: PT017  some operations (deleting leftovers) may fail unheard
        folder, state = store.load_latest()
        assert (state, content(folder)) in [(OLD, expected(1)), (NEW, expected(3))], at
        store.save(30, NEW, writer(3))
        assert content(store.load_latest()[0]) == expected(3)
        shutil.rmtree(directory)


def test_failing_write_is_passed_on_and_leaves_nothing(store):
    store.save(10, OLD, writer(1))

    def write(directory: Path) -> None:
        (directory / "half").write_bytes(b"x" * 10)
        raise RuntimeError("rank 3 died")

    with pytest.raises(RuntimeError, match="rank 3 died"):
        store.save(20, NEW, write)
    assert names(store) == ["latest", "step-000010"]
    assert store.load_latest()[1] == OLD


def test_nothing_is_deleted_before_the_new_one_is_durable(monkeypatch, tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(10, OLD, writer(1))
    events = []
    real_rename, real_fsync, real_replace = os.rename, os.fsync, os.replace
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append(f"rename {Path(b).name}"), real_rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"replace {Path(b).name}"), real_replace(a, b)))
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), real_fsync(fd)))
    store.save(20, NEW, writer(1))
    monkeypatch.undo()
    named, moved, removed = (
        events.index(event) for event in ("rename step-000020", "replace latest", "rename step-000010.removed")
    )
    assert named < moved < removed
    assert events[named - 1] == events[named + 1] == events[moved - 1] == events[moved + 1] == "fsync"
    # state.json, manifest, 3 files, 3 folders
    assert events[:named].count("fsync") == 1 + 1 + 3 + 3


# ---- damage


FILES = ("state.json", "manifest.json", "model.bin", "rank-0/deep/optimizer.bin")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("bit", [0, 6])
def test_flipped_bit_falls_back(store, name, place, bit, caplog):
    store.save(10, OLD, writer(1))
    path = store.save(20, NEW, writer(3)) / name
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)
    folder, state = store.load_latest()
    assert (folder.name, state) == ("step-000010", OLD)
    assert len(store.warnings) == 1
    assert path.name in store.warnings[0]
    assert "step-000020" in store.warnings[0]
    assert caplog.messages == store.warnings
    assert store.load_latest()[1] == OLD, "set aside, so the second look is clean"
    assert store.warnings == []
    assert "step-000020.corrupt" in names(store)


def test_every_bit_of_a_manifest_counts(store):
    store.save(10, OLD, writer(1))
    path = store.save(20, NEW, lambda d: None) / "manifest.json"
    data = path.read_bytes()
    for i in range(len(data)):
        changed = bytearray(data)
        changed[i] ^= 1 << (i % 8)
        path.write_bytes(changed)
        assert checkpoint._problems(path.parent), f"byte {i}"
    path.write_bytes(data)
    assert checkpoint._problems(path.parent) == []


@pytest.mark.parametrize("name", [*FILES, "empty"])
@pytest.mark.parametrize("how", ["missing", "cut", "grown", "folder"])
def test_torn_files_fall_back(store, name, how):
    store.save(10, OLD, writer(1))
    path = store.save(20, NEW, writer(3)) / name
    data = path.read_bytes()
    path.unlink()
    if how == "cut":
        if not data:
            pytest.skip("nothing to cut")
        path.write_bytes(data[:-1])
    elif how == "grown":
        path.write_bytes(data + b"\0")
    elif how == "folder":
        path.mkdir()
    assert store.load_latest()[1] == OLD
    assert path.name in store.warnings[0]


def test_several_damaged_in_a_row(tmp_path):
    store = Checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        store.save(step, {"step": step}, writer(step))
    for step in (20, 30):
        (tmp_path / f"step-{step:06d}" / "model.bin").write_bytes(b"")
    assert store.load_latest()[1] == {"step": 10}
    assert [w.split(" is damaged")[0][-6:] for w in store.warnings] == ["000030", "000020"]
    store.save(20, NEW, writer(3))
    assert store.load_latest()[1] == NEW


def test_none_intact_is_an_error_every_time_and_destroys_nothing(store):
    path = store.save(10, OLD, writer(1)) / "model.bin"
    path.write_bytes(b"")
    for _ in range(2):  # a second launch must not start anew over it either
        with pytest.raises(CheckpointError, match=r"no intact checkpoint.*\n.*model\.bin has 0 bytes instead of 5,000"):
            store.load_latest()
    assert names(store) == ["latest", "step-000010"]


def test_pointer_is_checked_but_not_trusted(store):
    store.save(10, OLD, writer(1))
    pointer = store.directory / "latest"
    for garbage in (b"", b"\xff\xfe", b"step-00001o\n"):
        pointer.write_bytes(garbage)
        assert store.load_latest()[1] == OLD
        assert "latest" in store.warnings[0]
    pointer.unlink()
    assert store.load_latest()[1] == OLD


def test_unknown_format_is_not_taken_for_damage(monkeypatch, store):
    store.save(10, OLD, writer(1))
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    store.save(20, NEW, writer(3))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        store.load_latest()


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_reserved_names_and_links(store, name):
    with pytest.raises(CheckpointError, match=name):
        store.save(10, OLD, lambda d: (d / name).touch())
    with pytest.raises(CheckpointError, match="link"):
        store.save(10, OLD, lambda d: (d / "model.bin").symlink_to(sys.executable))
    assert names(store) == []


# ---- full disk


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrapped_full() -> RuntimeError:
    error = RuntimeError("policy[0] failed")
    error.__cause__ = full()
    return error


def remote_full() -> RuntimeError:
    return RuntimeError("worker said: [Errno 28] No space left on device: 'x'")


@pytest.mark.parametrize("make", [full, wrapped_full, remote_full])
def test_full_disk_while_writing(store, make):
    store.save(10, OLD, writer(1))

    def write(directory: Path) -> None:
        (directory / "half").write_bytes(b"x" * 3_000_000)
        raise make()

    with pytest.raises(CheckpointError, match=r"step-000020: it needs 3,000,000 bytes.*free; step 10 is kept"):
        store.save(20, NEW, write)
    assert names(store) == ["latest", "step-000010"]
    assert store.load_latest()[1] == OLD


def test_full_disk_is_seen_beforehand(monkeypatch, store):
    store.save(10, OLD, writer(1))
    usage = shutil.disk_usage(store.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    called = []
    with pytest.raises(CheckpointError, match=r"4,096 are free; step 10 is kept\. Free some space") as caught:
        store.save(20, NEW, called.append)
    assert called == []
    needed = int(str(caught.value).split("needs ")[1].split(" ")[0].replace(",", ""))
    assert needed > 5100
    monkeypatch.undo()
    store.save(20, NEW, writer(3))


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounting needs root")
def test_really_full_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {mount} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        store = Checkpoints(mount / "checkpoints", keep=1)
        store.save(10, OLD, of_size(50_000))
        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.setattr(checkpoint, "SPARE_BYTES", 0)
        with monkeypatch.context(), pytest.raises(CheckpointError, match="step 10 is kept"):
            store.save(20, NEW, of_size(500_000))
        assert store.load_latest()[1] == OLD
        assert names(store) == ["latest", "step-000010"]
        store.save(20, NEW, of_size(50_000))
        assert store.load_latest()[1] == NEW
        monkeypatch.undo()
    finally:
        os.system(f"umount {mount}")


# ---- state


class Color(str, enum.Enum):
    red = "red"


def test_state_becomes_strict_json_and_comes_back(store):
    state = {
        "i": np.int64(7), "f": np.float32(0.1), "b": np.bool_(True), "array": np.arange(4).reshape(2, 2),
        "tuple": (1, (2, None)), "enum": Color.red, "path": Path("a/b"), "text": "ü\u2028\ud800\0", "big": 2**70,
        "inf": -math.inf, "tiny": 5e-324, "third": 1 / 3, "np_inf": np.float32("inf"), "empty": {}, "nothing": [],
        "rng": np.random.default_rng(3).bit_generator.state,
    }  # fmt: skip
    path = store.save(1, state, writer(1))
    text = (path / "state.json").read_text()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (parsed["format"], parsed["step"]) == (1, 1)
    loaded = store.load_latest()[1]
    assert loaded == {
        "i": 7, "f": float(np.float32(0.1)), "b": True, "array": [[0, 1], [2, 3]], "tuple": [1, [2, None]],
        "enum": "red", "path": "a/b", "text": "ü\u2028\ud800\0", "big": 2**70, "inf": -math.inf, "tiny": 5e-324,
        "third": 1 / 3, "np_inf": math.inf, "empty": {}, "nothing": [],
        "rng": np.random.default_rng(3).bit_generator.state,
    }  # fmt: skip
    generator = np.random.default_rng()
    generator.bit_generator.state = loaded["rng"]
    assert generator.random() == np.random.default_rng(3).random()


def test_nan_survives(store):
    store.save(1, {"x": [math.nan, np.array([math.nan, 1.0])]}, writer(1))
    (first, (second, third)) = store.load_latest()[1]["x"]
    assert math.isnan(first)
    assert math.isnan(second)
    assert third == 1.0


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": {"b": [0, object()]}}, r"state\.a\.b\[1\] is a object"),
        ({"a": {1: 2}}, r"state\.a has the key 1"),
        ({"a": {"$float": "nan"}}, r"state\.a has the key"),
        ({"a": b"x"}, r"state\.a is a bytes"),
        ({"a": {1, 2}}, r"state\.a is a set"),
    ],
)
def test_state_that_json_cannot_hold(store, state, where):
    with pytest.raises(TypeError, match=where):
        store.save(1, state, writer(1))
    assert names(store) == []


def test_negative_step(store):
    with pytest.raises(ValueError, match="negative"):
        store.save(-1, {}, writer(1))


MANIFEST_OF_2026 = """{
 "checksum": "e59b4182fd432de6955eec4d3ff4faee0f0450fa9421a86df3153c978973ee3e",
 "files": {
  "state.json": {
   "blake2b": "c07fdf335556c250188f82a918805e61f528e1c5dd891ec46a5bcd38af436524",
   "bytes": 64
  },
  "w": {
   "blake2b": "92cdf578c47085a5992256f0dcf97d0b19f1f1c9de4d5fe30c3ace6191b6e5db",
   "bytes": 1
  }
 },
 "format": 1,
 "step": 1
}
"""


def test_a_checkpoint_of_an_earlier_version(tmp_path):
    """Byte by byte as it was written on 2026-11-27."""
    folder = tmp_path / "step-000001"
    folder.mkdir()
    (folder / "w").write_text("1")
    (folder / "state.json").write_text('{"format": 1, "step": 1, "state": {"best": {"$float": "-inf"}}}\n')
    (folder / "manifest.json").write_text(MANIFEST_OF_2026)
    store = Checkpoints(tmp_path, keep=1)
    assert store.load_latest() == (folder, {"best": -math.inf})
    store.save(1, {"best": -math.inf}, lambda path: (path / "w").write_text("1") and None)
    assert (folder / "manifest.json").read_text() == MANIFEST_OF_2026
