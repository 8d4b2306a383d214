"""Weights & Biases."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlcore.tracking.base import SilentTracker, TrackingError
from rlcore.tracking.config import WandbConfig, WandbMode
from rlcore.tracking.files import sample_rows
from rlcore.types import Group

SAMPLE_COLUMNS = ("step", "prompt", "response", "reference", "score", "status")
_log = logging.getLogger(__name__)


class WandbTracker(SilentTracker):
    """Weights & Biases. All calls run in order on a separate thread, so that training never waits for wandb.

    Offline runs need no account; `wandb sync` sends them later. The file `wandb-id` has the id of the run, so that a
    resumed run continues it. wandb's internal step can only grow, so charts use the metric `step`. Any failure of wandb
    is reported once, and the run continues without it.

    Args:
        run_config: without secrets (`strip_secrets`).
    """

    def __init__(self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._run: Any = None
        self._broken = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()
        self._jobs.put(lambda: self._start(config, run_dir, run_config))

    def _start(self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        import wandb

        if config.mode is WandbMode.online and not wandb.api.api_key:  # wandb would prompt for a key and wait
            raise TrackingError("no API key: set WANDB_API_KEY, run `wandb login`, or use tracking.wandb.mode=offline")
        if "weave" not in sys.modules:  # otherwise it advertises weave on the console if vLLM has imported openai
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        run_dir.mkdir(parents=True, exist_ok=True)
        id_file = run_dir / "wandb-id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        # command line and repository URL are not sent: both may contain secrets
        settings = wandb.Settings(silent=True, console="off", x_disable_meta=True, disable_git=True, disable_code=True)
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            tags=list(config.tags) or None,
            dir=str(run_dir),
            id=id_file.read_text().strip(),
            name=run_dir.name,
            config=dict(run_config),
            mode=config.mode.value,
            resume="allow",
            settings=settings,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._broken:
                continue
            try:
                job()
            except (Exception, SystemExit) as error:
                self._broken = True
                _log.warning("wandb failed, the run continues without it: %s: %s", type(error).__name__, error)
        if self._broken:  # or its hook at the exit of Python fails again, with a traceback
            with suppress(Exception, SystemExit):
                sys.modules["wandb"].teardown(exit_code=1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self._jobs.put(lambda: self._run.log(row))

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        whole = (t.transcript for g in groups for t in g.trajectories)
        found = [row | {"response": text} for row, text in zip(sample_rows(step, groups), whole, strict=True)]
        rows = [[row[name] for name in SAMPLE_COLUMNS] for row in found]

        def job() -> None:
            import wandb

            self._run.log({"step": step, "samples": wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)})

        self._jobs.put(job)

    def close(self, failed: bool = False, timeout_s: float = 60.0) -> None:
        """Sends the remaining data, waiting at most `timeout_s` seconds; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(lambda: self._run.finish(exit_code=int(failed)))
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("wandb did not finish in %.0f s; unsent data is in the run folder", timeout_s)
