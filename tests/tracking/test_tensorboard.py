"""TensorBoard event files, read back."""

from __future__ import annotations

import sys

import pytest

from rlcore.tracking.base import TrackingError
from rlcore.tracking.config import TrackingConfig, WandbConfig, WandbMode
from rlcore.tracking.tensorboard import TensorboardTracker
from rlcore.tracking.trackers import build_tracker


def test_tensorboard_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrackingError, match=r"tracking\.tensorboard=true needs .* pip install tensorboard"):
        TensorboardTracker(tmp_path, 0)


def test_tensorboard_for_real(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, stop in ((0, 4), (2, 3)):  # the second resumes from step 2 and goes to 3
        config = TrackingConfig(console=False, tensorboard=True, wandb=WandbConfig(mode=WandbMode.disabled))
        trackers = build_tracker(config, tmp_path, {}, total_steps=4, start_step=start)
        for step in range(start + 1, stop + 1):
            trackers.log(step, {"reward/mean": step + start / 100})
        trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("reward/mean")] == [(1, 1.0), (2, 2.0), (3, 3.02)]
