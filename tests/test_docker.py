"""The launch files: the Slurm script with stubs in place of Slurm and Ray, and the manifests of KubeRay."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STUBS = {
    # options of srun start with a dash, all but the value of -w
    "srun": 'while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done; exec "$@"',
    "scontrol": 'if [[ $1 == show ]]; then printf "n1\\nn2\\n"; else echo "scontrol $*" >> "$LOG"; fi',
    "hostname": "echo 10.0.0.1",
    "ray": """case $1 in
      status) printf "Active:\\n 1 node_a\\n"; [[ $(wc -l < "$LOG") -ge 2 ]] && printf " 1 node_b\\n"; true ;;
      start) echo "ray $* $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >> "$LOG"; exec sleep 30 ;;
    esac""",
    "rlcore": """echo "rlcore $*" >> "$LOG"
      trap 'sleep 2; echo saved >> "$LOG"; exit 143' TERM
      for i in {1..150}; do sleep 0.1; done; exit "${RESULT:-0}" """,
}


@pytest.fixture
def batch(tmp_path: Path):
    """Starts the script; its log holds what the stubs were asked."""
    for name, body in STUBS.items():
        stub = tmp_path / name
        stub.write_text(f"#!/usr/bin/env bash\n{body}\n")
        stub.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    started: list[subprocess.Popen[bytes]] = []

    def start(**more: str) -> tuple[subprocess.Popen[bytes], Path]:
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "START_S": "60"}
        env |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"} | more
        command = ["bash", str(ROOT / "docker" / "slurm.sh"), "cluster=gpu8", "name=a b"]
        started.append(subprocess.Popen(command, env=env, start_new_session=True))
        return started[-1], log

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_slurm_waits_for_the_checkpoint_and_queues_the_job_again(batch) -> None:
    process, log = batch()
    wait_for(log, "rlcore train cluster=gpu8 name=a b")
    lines = log.read_text().splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["ray", "start"]] * 2, "the run waits for both nodes"
    assert all(line.endswith("token 64") for line in lines[:2])
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert log.read_text().splitlines()[-2:] == ["saved", "scontrol requeue 7"]


def test_slurm_hands_on_the_exit_code_of_the_run(batch) -> None:
    process, log = batch(RESULT="3")
    assert process.wait(120) == 3
    assert "requeue" not in log.read_text()


def documents(name: str) -> dict[str, dict]:
    return {doc["kind"]: doc for doc in yaml.safe_load_all((ROOT / "docker" / name).read_text())}


def gib(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Gi|Ti)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "Ti" else 1)


def test_manifests_fit_together() -> None:
    cluster, job = documents("kuberay.yaml"), documents("kuberay-job.yaml")["RayJob"]
    ray_cluster, claim = cluster["RayCluster"], cluster["PersistentVolumeClaim"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": ray_cluster["metadata"]["name"]}
    groups = [ray_cluster["spec"]["headGroupSpec"], *ray_cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            shm = gib(volumes["shm"]["emptyDir"]["sizeLimit"])
            assert shm <= gib(container["resources"]["limits"]["memory"]) / 2, "shared memory counts as memory"


def test_one_version_of_ray_and_transformers_everywhere() -> None:
    lock = dict(
        line.split("==") for line in (ROOT / "docker/requirements-cpu.txt").read_text().splitlines() if "==" in line
    )
    image = (ROOT / "docker" / "Dockerfile.gpu").read_text()
    assert documents("kuberay.yaml")["RayCluster"]["spec"]["rayVersion"] == lock["ray"]
    assert f'"ray[default]=={lock["ray"]}"' in image
    assert f'"transformers=={lock["transformers"]}"' in image
    for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
        assert "wget" in (ROOT / "docker" / name).read_text(), "KubeRay's probes call it"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(requirement.startswith("ray[default]") for requirement in project["dependencies"])
