"""The ledger after a kill."""

from __future__ import annotations

import json

from rlcore.loops.ledger import Ledger


def test_ledger_moves_unsaved_and_torn_lines_aside(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for step in (1, 2, 3):
        ledger.record(step, step, [f"u{step}"], [f"u{step}#0.0"], {})
    with ledger.path.open("a") as file:
        file.write('{"step": 4, "ver')
    assert ledger.truncate_after(2) == 2
    assert [r["step"] for r in ledger.read()] == [1, 2]
    dropped = (tmp_path / "ledger.dropped.jsonl").read_text().splitlines()
    assert json.loads(dropped[0])["step"] == 3
