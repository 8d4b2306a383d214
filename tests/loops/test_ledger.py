"""The ledger after a kill."""

from __future__ import annotations

from rlcore.loops.ledger import Ledger


def test_ledger_moves_unsaved_lines_aside_and_drops_a_torn_one(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for step in (1, 2, 3):
        ledger.record(step, step, [f"u{step}"], [f"u{step}#0.0"], {})
    with ledger.path.open("a") as file:
        file.write('{"step": 4, "ver')
    ledger = Ledger(ledger.path)
    assert ledger.truncate_after(2) == 1
    assert [r["step"] for r in ledger.read()] == [1, 2]
    assert [r["step"] for r in Ledger(tmp_path / "ledger.jsonl.bak-1").read()] == [3]
