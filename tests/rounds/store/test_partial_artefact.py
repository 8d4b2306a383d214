from __future__ import annotations

import errno
import os

import pytest

from rlcore.rounds.plan.config import Made
from rlcore.rounds.store import partial_artefact as module
from rlcore.rounds.store.artefact import ArtefactError
from rlcore.rounds.store.partial_artefact import enough_room, free_name, last_written, part_indexes, steps_done
from rlcore.rounds.store.store import ArtefactStore


def test_what_a_draft_shows_from_outside(tmp_path):
    assert (part_indexes(tmp_path), steps_done(tmp_path)) == ([], 0)
    (tmp_path / "parts").mkdir()
    for name in (
        "part-00010.parquet",
        "part-00002.parquet",
        "part-00003.parquet.partial",
        "part-00004.parquet.corrupt",
    ):
        (tmp_path / "parts" / name).touch()
    assert part_indexes(tmp_path) == [2, 10]
    for name in ("step-000050", "step-000100", "step-000150.partial"):
        (tmp_path / "work" / "checkpoints" / name).mkdir(parents=True)
    assert steps_done(tmp_path) == 100


def test_the_last_sign_of_life(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    for path in (tmp_path / "a", tmp_path):
        os.utime(path, (100, 100))
    os.utime(tmp_path / "a" / "file", (300, 300))
    assert last_written(tmp_path) == 300
    assert last_written(tmp_path / "gone") == 0


def test_names_that_are_taken(tmp_path):
    assert free_name(tmp_path / "x") == tmp_path / "x"
    (tmp_path / "x").touch()
    (tmp_path / "x-2").symlink_to("nowhere")
    assert free_name(tmp_path / "x") == tmp_path / "x-3"


def test_only_a_full_disk_is_called_one(tmp_path):
    with pytest.raises(ArtefactError, match="no room"), enough_room(tmp_path):
        raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(PermissionError), enough_room(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_model_from_another_file_system_is_copied(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w").write_text("weights")
    real = os.rename

    def rename(source, target):
        if os.fspath(source) == os.fspath(tmp_path / "m"):
            raise OSError(errno.EXDEV, "cross-device link")
        real(source, target)

    with ArtefactStore(tmp_path / "store") as store:
        draft = store.begin("k", stage="sft", round=1, kind="sft", made=Made.model, config={}, parents={})
        monkeypatch.setattr(module.os, "rename", rename)
        made = draft.finish_folder(tmp_path / "m", {})
    assert (made.path / "w").read_text() == "weights"
    assert not (tmp_path / "m").exists()
    assert sorted(p.name for p in made.folder.iterdir()) == ["artefact.json", "model"]
