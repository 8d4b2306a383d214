from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from actors.placement.process import drop_pages

MIB = 1 << 20


def mapped_bytes() -> int:
    """Resident pages of mapped files."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssFile:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="reads /proc")
def test_pages_of_a_mapped_file_leave_memory_and_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(8 * MIB), "b": torch.ones(3)}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", mmap=True)
    total = int(state["a"].sum())
    before = mapped_bytes()
    drop_pages(state.values())
    assert before - mapped_bytes() > 60 * MIB
    assert int(state["a"].sum()) == total
    assert state["b"].tolist() == [1.0, 1.0, 1.0]
    assert mapped_bytes() > before - MIB


def test_empty_and_small_tensors_are_left_alone() -> None:
    small = torch.arange(4)
    drop_pages([torch.empty(0), small])
    assert small.tolist() == [0, 1, 2, 3]
