"""The parity check of a run that samples ahead."""

from __future__ import annotations

import pytest

from rlcore.loops import online
from rlcore.loops.config import ParityConfig
from rlcore.loops.ledger import Ledger
from rlcore.loops.parity import ParityError
from tests.loops.test_ahead import ahead
from tests.loops.test_online import make_run


def test_a_sync_that_does_nothing_is_noticed_ahead_too(tmp_path):
    """The samples are all of older weights: what is checked is sampled for it."""
    run = make_run(tmp_path, steps=8, broken_sync=True, trainer={"parity": ParityConfig(every=3), "max_staleness": 1})
    with pytest.raises(ParityError, match="disagree on log-probs"):
        online.train(run)
    assert len(Ledger(tmp_path / "ledger.jsonl").read()) == 6, "at the first check after the weights moved"


def test_a_good_sync_passes_the_probe(tmp_path):
    run = ahead(tmp_path, 1, parity=ParityConfig(every=3))
    online.train(run)
    assert max(run.world.tracker.rows[step]["rollout/logprob_diff_max"] for step in (1, 4, 7)) < 1e-5
    assert run.world.tracker.phases.count("parity") == 3
