"""Writing that an error in the middle cannot tear, and checksums that see damage."""

from __future__ import annotations

import errno

import pytest

from rlcore.storage.durable import (
    JsonLines,
    content_problems,
    file_sums,
    is_disk_full,
    new_folder,
    replacing,
    size_problems,
    write_text,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old \ud800")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == "old \ud800".encode("utf-8", "surrogatepass")
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() != b"new"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a"
    for text in ("old", "new"):
        with new_folder(path) as folder:
            (folder / text).write_text(text)
    assert [file.name for file in path.iterdir()] == ["new"]
    with pytest.raises(RuntimeError, match="stop"), new_folder(path) as folder:
        raise RuntimeError("stop")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("hash", ["sha256", "blake2b"])
def test_damage_is_named(tmp_path, hash):
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).write_text(name * 1000)
    sums = file_sums(tmp_path, hash=hash)
    assert list(sums) == ["a", "b", "sub/c"]
    assert size_problems(tmp_path, sums) == content_problems(tmp_path, sums) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("b" * 999)
    assert size_problems(tmp_path, sums) == ["a is missing", "b has 999 bytes instead of 1,000"]
    (tmp_path / "sub/c").write_text("sub/d" * 1000)
    assert content_problems(tmp_path, sums) == [
        "a: unreadable (No such file or directory)", "b: wrong checksum", "sub/c: wrong checksum",
    ]  # fmt: skip


def test_a_full_disk_is_seen_behind_other_errors():
    full = RuntimeError("worker failed")
    full.__cause__ = OSError(errno.EDQUOT, "quota")
    assert is_disk_full(full)
    assert is_disk_full(RuntimeError("rank 3: No space left on device"))
    assert not is_disk_full(PermissionError(errno.EACCES, "no"))


def test_lines_hold_every_text(tmp_path):
    """Lone surrogates stand there as JSON escapes them."""
    lines = JsonLines(tmp_path / "sub" / "a.jsonl")
    lines.append(1, [{"step": 1, "text": "ü\ud800"}])
    assert lines.path.read_text() == '{"step": 1, "text": "ü\\ud800"}\n'
    assert JsonLines(lines.path).truncate_after(0) == 1
