"""The ledger: prompts and samples of every step, one line per step, to detect repeated or lost samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.storage.durable import JsonLines


class Ledger:
    """Appends to `ledger.jsonl`; on resume, lines of steps newer than the checkpoint move to `ledger.jsonl.bak-<n>`."""

    def __init__(self, path: Path) -> None:
        self.path, self._lines = path, JsonLines(path)

    def truncate_after(self, step: int) -> int:
        """Keeps the lines of steps <= `step`; returns how many were moved aside."""
        return self._lines.truncate_after(step)

    def record(
        self, step: int, version: int, uids: Sequence[str], trained: Sequence[str], filtered: dict[str, int]
    ) -> None:
        """Writes a line. `trained` are sample ids; the digest covers the trained tokens."""
        row: dict[str, Any] = {"step": step, "version": version, "uids": list(uids), "trained": len(trained)}
        row["filtered"] = filtered
        row["digest"] = hashlib.sha256("\n".join(trained).encode()).hexdigest()[:16]
        self._lines.append(step, [row])

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]
