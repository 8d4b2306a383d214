"""Two small rounds through the command line in a process of their own: started, held at a place, killed, looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ENV = os.environ | {"OMP_NUM_THREADS": "1", "CI": "true", "WANDB_SILENT": "true"}
REWARD = '''
def digits(sample):
    """Share of the reference's digits that are right."""
    return sum(a == b for a, b in zip(sample.response, sample.reference)) / len(sample.reference)
'''
SETTINGS = [
    "model.tiny.num_layers=2", "model.tiny.hidden_size=64", "model.tiny.intermediate_size=128",
    "model.tiny.num_heads=2", "data.num_eval=40", "rollout.max_new_tokens=8", "trainer.warmup.steps=0",
    "trainer.prompts_per_step=8", "trainer.samples_per_prompt=4", "trainer.eval.every=0", "trainer.checkpoint.every=1",
    "cluster.roles.policy.num_workers=1", "cluster.roles.rollout.num_workers=1", "cluster.roles.reward.num_workers=1",
    "tracking.wandb.mode=disabled",
]  # fmt: skip


def train(steps: int, every: int = 2, peak: float = 1e-3, per_step: int = 16) -> dict[str, Any]:
    return {"steps": steps, "per_step": per_step, "checkpoint_every": every, "learning_rate": {"peak": peak}}


STAGES: dict[str, Any] = {
    "base": {"kind": "sft", "rounds": [1], "data": ["answers"], "train": train(40, 15, 2e-3, 64)},
    "generate": {
        "kind": "generate", "models": ["rl@previous|base"], "num_prompts": 32, "num_samples": 6,
        "prompts_per_chunk": 8,
    },
    "filter": {"kind": "filter", "data": ["generate"], "filters": [{"kind": "duplicates", "within_prompt": True}]},
    "annotate": {"kind": "pairs", "samples": ["filter"]},
    "reward": {
        "kind": "reward_model", "data": ["annotate@all"], "start": "base@latest", "checkpoint_every": 2,
        "training": {"epochs": 3, "pairs_per_step": 8, "learning_rate": 1e-3},
    },
    "rank": {
        "kind": "score", "samples": ["filter"], "by": "reward_model", "reward_model": "reward",
        "samples_per_chunk": 40,
    },
    "best": {"kind": "rejection_sample", "samples": ["rank"]},
    "sft": {"kind": "sft", "data": ["best@all"], "start": "base@latest", "train": train(6)},
    "dpo": {"kind": "preference", "data": ["annotate"], "start": "sft", "train": train(6, peak=1e-4)},
    "average": {"kind": "average", "models": ["sft", "dpo"]},
    "rl": {"kind": "rl", "start": "average", "overrides": ["trainer.steps=2"]},
    "evaluate": {"kind": "evaluate", "model": "rl"},
}  # fmt: skip


def shown(value: Any) -> str:
    """As Hydra's command line writes it; every text quoted.

    >>> shown({"a": [1, "b@all"], "c": None})
    '{a:[1,"b@all"],c:null}'
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    return json.dumps(value)


def overrides(run_dir: Path, reward: Path, stages: Mapping[str, Any] = STAGES, count: int = 2) -> list[str]:
    listed = [f"+rounds.stages.{name}={shown(stage)}" for name, stage in stages.items()]
    return [f"run_dir={run_dir}", f"reward.fn={reward}:digits", *SETTINGS, f"rounds.count={count}", *listed]


# Runs the command, and stays at the place that HOLD names until it is killed: some stages take no longer than a blink.
HELD = """
import os, sys, time
from pathlib import Path
from actors import cli
from rlcore.rounds.store.partial_artefact import PartialArtefact

def held(name):
    real = getattr(PartialArtefact, name)
    def call(self, *args):
        before = name != "write_part"
        result = None if before else real(self, *args)
        if os.environ.get("HOLD") == f"{self.round}:{self.stage}:{name}":
            Path(os.environ["HOLD_MARK"]).touch()
            time.sleep(600)
        return real(self, *args) if before else result
    setattr(PartialArtefact, name, call)

for name in ("write_part", "finish_records", "finish_folder", "finish_report"):
    held(name)
sys.exit(cli.guarded(lambda: cli.rounds(sys.argv[1:])))
"""


@dataclass
class Start:
    """One start of the command; what its workers were is noted while somebody waits for it."""

    process: subprocess.Popen[str]
    log: Path
    workers: dict[str, set[int]] = field(default_factory=dict)  # class -> process ids
    family: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self.family[one.pid] = one
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
                    title = " ".join(one.cmdline())
                    own = "raylet" in one.parent().name()  # not a child that a worker forks to run a compiler
                    if own and title.startswith("ray::") and "Worker" in title:
                        name = title.removeprefix("ray::").partition(".")[0].split()[0]
                        self.workers.setdefault(name, set()).add(one.pid)

    def until(self, reached: Callable[[], bool], timeout_s: float = 600) -> None:
        deadline, turn = time.monotonic() + timeout_s, 0
        while not reached():
            if turn % 20 == 0:
                self.look()
            turn += 1
            assert self.process.poll() is None, f"ended early with {self.process.returncode}\n{self.tail()}"
            assert time.monotonic() < deadline, f"did not get there in time\n{self.tail()}"
            time.sleep(0.02)

    def wait(self, timeout_s: float = 600) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline, f"still at work\n{self.tail()}"
            time.sleep(0.2)
        return self.process.returncode

    def tail(self) -> str:
        return self.log.read_text()[-4000:]

    def end(self) -> None:
        """SIGKILL for the driver first, then, since Ray's daemons lead sessions of their own, for all below it."""
        self.look()
        self.process.kill()
        for one in self.family.values():  # psutil refuses a process id that somebody else has by now
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(list(self.family.values()), timeout=20)
        self.process.wait(timeout=20)


def start(run_dir: Path, reward: Path, hold: str = "", more: list[str] | None = None) -> Start:
    """`hold`: "round:stage:method of a draft" at which it stays; `mark(run_dir)` is there once it does."""
    log = run_dir.parent / f"{run_dir.name}.log"
    mark(run_dir).unlink(missing_ok=True)
    env = ENV | {"HOLD": hold, "HOLD_MARK": str(mark(run_dir))}
    command = [sys.executable, "-c", HELD, *overrides(run_dir, reward), *(more or [])]
    with log.open("a") as stream:
        process = subprocess.Popen(
            command, env=env, stdout=stream, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    return Start(process, log)


def mark(run_dir: Path) -> Path:
    return run_dir.parent / f"{run_dir.name}.held"


def records(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Folder name -> record, of finished artefacts."""
    found = {}
    for path in (run_dir / "artefacts").glob("*/artefact.json"):
        if ".draft" not in path.parent.name:
            found[path.parent.name] = json.loads(path.read_text())
    return found


def hashes(run_dir: Path) -> dict[str, str]:
    return {name: record["hash"] for name, record in sorted(records(run_dir).items())}


def draft(run_dir: Path, number: int, stage: str) -> Path | None:
    return next((run_dir / "artefacts").glob(f"r{number:02d}-{stage}-*.draft"), None)


def stamps(run_dir: Path) -> dict[str, tuple[int, int]]:
    """File -> inode and time of writing, of all finished artefacts."""
    return {
        str(path.relative_to(run_dir)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for name in records(run_dir)
        for path in (run_dir / "artefacts" / name).rglob("*")
        if path.is_file()
    }
