"""Rollout engine and trainer must agree on samples of the current weights, and only on those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcore import metrics as M
from rlcore.loops import online, parity
from rlcore.loops.config import ParityConfig
from rlcore.loops.parity import ParityError
from rlcore.types import TrainBatch
from tests.loops.test_online import make_run


def batch(rollout: float, old: float = -1.0) -> TrainBatch:
    """Two rows with one trained token each; the first agrees."""
    return TrainBatch.from_padded(
        tokens=np.ones((2, 2), np.int32),
        lengths=np.array([2, 2], np.int32),
        loss_mask=np.array([[False, True], [False, True]]),
        sample_ids=["a", "b"],
        rollout_logprobs=np.array([[0, -1], [0, rollout]], np.float32),
        old_logprobs=np.array([[0, -1], [0, old]], np.float32),
    )


def test_differences_by_hand():
    found = M.values(parity.compare(batch(-1.5), ParityConfig(stop=False)))
    expected = {"rollout/parity_rows": 2, "rollout/logprob_diff_max": 0.5, "rollout/logprob_diff_mean": 0.25}
    assert found == expected
    with pytest.raises(ParityError, match=r"largest difference 0\.5 .*worst at sample 'b', token 1"):
        parity.compare(batch(-1.5), ParityConfig())
    with pytest.raises(ParityError):
        parity.compare(batch(float("nan")), ParityConfig())


def test_without_rows_nothing_is_compared():
    assert M.values(parity.compare(batch(-1.5).select([]), ParityConfig())) == {"rollout/parity_rows": 0}


@pytest.mark.parametrize("updates", [1, 2])
def test_old_samples_are_not_compared(tmp_path: Path, updates: int):
    """The engine stays at its first weights, and says so: samples get older every step and nothing is wrong."""
    run = make_run(tmp_path, steps=6, trainer={"parity": ParityConfig(every=1), "updates_per_step": updates})
    rollout, publish = run.world.rollout, run.world.weights.publish

    def publish_once(after: int = -1) -> M.Metrics:
        held = rollout.table, rollout.version
        metrics = publish(after)
        if held[0] is not None:
            rollout.table, rollout.version = held
        return metrics

    run.world.weights.publish = publish_once
    online.train(run)
    rows = run.world.tracker.rows
    assert rows[1]["rollout/parity_rows"] > 0
    assert rows[1]["rollout/logprob_diff_max"] < 1e-5
    for step in range(2, 7):
        assert rows[step]["rollout/parity_rows"] == 0
        assert not [name for name in rows[step] if "logprob_diff" in name]
        assert rows[step]["rollout/age_max"] == rows[step]["rollout/age_mean"] == step - 1
    assert any(rows[step]["rollout/kl"] != 0 for step in (4, 5, 6))
