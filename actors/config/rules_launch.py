"""Rules about the machine on which a run is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from actors.config.schema import Config, Device
from rlcore.problems import Problem

SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_")  # Ray's folder of one cluster; `ray job submit` unpacks code below it


def launch_problems(config: Config, devices: Path = Path("/dev")) -> Iterator[Problem]:
    """A run folder that Ray deletes, and GPUs that the layout leaves idle."""
    run_dir = Path(config.run_dir).absolute()
    if any(SESSION.match(part) for part in run_dir.parts):
        cure = "give an absolute path on a file system that all nodes share, such as run_dir=/shared/runs/first"
        yield Problem("run_dir", run_dir, "lies in a folder of Ray's session, which Ray deletes", cure)
    gpus = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else len(list(devices.glob("nvidia[0-9]*")))
    if gpus and config.cluster.device is Device.cpu and not config.cluster.address:
        cure = "for GPUs: cluster=gpu1_colocated rollout=gpu"
        yield Problem("cluster.device", "cpu", f"{gpus} GPUs of this machine stay idle", cure, warning=True)
