"""TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcore.tracking.base import SilentTracker, TrackingError


class TensorboardTracker(SilentTracker):
    """TensorBoard event files in `<run_dir>/tensorboard`. Earlier points of steps >= `first_step` are hidden.

    Raises:
        TrackingError: the package tensorboard is not installed.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrackingError(
                "tracking.tensorboard=true needs the package tensorboard: pip install tensorboard, or set it to false"
            ) from error
        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool = False) -> None:
        self._writer.close()
