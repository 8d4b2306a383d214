"""Weights & Biases."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.tracking.base import SilentTracker, TrackingError
from rlcore.tracking.config import WandbConfig, WandbMode
from rlcore.tracking.files import sample_rows
from rlcore.types import Group

SAMPLE_COLUMNS = ("step", "prompt", "response", "reference", "score", "status")
_log = logging.getLogger(__name__)


class WandbTracker(SilentTracker):
    """Weights & Biases. Everything happens on a thread of its own, in order, so that training never waits for it.

    Offline runs need no account; `wandb sync` sends them later. The run's id lies in `wandb-id`, so a resumed run goes
    on under it. wandb's own step only ever grows, so charts run over the metric `step` instead. Any failure of wandb
    is reported once, and the run continues without it.

    Args:
        run_config: with secrets stripped (`strip_secrets`).
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

        if config.mode is WandbMode.online and not wandb.api.api_key:  # wandb would ask for it and wait
            raise TrackingError("no API key: set WANDB_API_KEY, run `wandb login`, or use tracking.wandb.mode=offline")
        if "weave" not in sys.modules:  # else it advertises weave on the console wherever vLLM has imported openai
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        run_dir.mkdir(parents=True, exist_ok=True)
        id_file = run_dir / "wandb-id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        # neither the command line nor the repository's address go along: both may hold secrets
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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self._jobs.put(lambda: self._run.log(row))

    def log_samples(self, step: int, groups: Sequence[Group]) -> None:
        rows = [[row[name] for name in SAMPLE_COLUMNS] for row in sample_rows(step, groups)]

        def job() -> None:
            import wandb

            self._run.log({"step": step, "samples": wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)})

        self._jobs.put(job)

    def close(self, failed: bool = False, timeout_s: float = 60.0) -> None:
        """Sends what is left, waiting at most `timeout_s` seconds; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(lambda: self._run.finish(exit_code=int(failed)))
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("wandb did not finish in %.0f s; what it holds lies in the run folder", timeout_s)
