"""The run folder: its config, lock and resume rules."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from actors.config.schema import Config
from rlcore.loops.config import Resume
from rlcore.problems import UserError
from rlcore.redact import strip_secrets
from rlcore.storage.durable import write_text

# Keys that may change on resume: length, logging, placement and saving. Other keys define the experiment.
FREE_KEYS = (
    "resume", "run_dir", "name", "eval", "tracking", "cluster", "trainer.steps", "trainer.eval", "trainer.checkpoint",
    "trainer.parity", "trainer.max_tokens_per_micro_batch", "engine.zero_stage",
    "reward.processes_per_worker", "rollout.max_restarts",
)  # fmt: skip


class RunFolderError(UserError, RuntimeError):
    """The folder cannot be used for this run; the message has the reason and the cure."""


def plain(config: Config) -> dict[str, Any]:
    """The config as plain YAML types."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def binding(config: dict[str, Any]) -> dict[str, Any]:
    """The flat keys that define the experiment."""
    return {k: v for k, v in flatten(config).items() if not any(k == f or k.startswith(f + ".") for f in FREE_KEYS)}


def config_hash(config: Config) -> str:
    return hashlib.sha256(json.dumps(binding(plain(config)), sort_keys=True).encode()).hexdigest()[:16]


def has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("step-*[0-9]"))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Locks the folder against other processes; the lock is released when the process ends.

    Raises:
        RunFolderError: another process has it, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / "lock").open("w")
    except OSError as error:
        raise RunFolderError(f"run_dir={run_dir} cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"{run_dir} is in use by another process: wait for it, or set run_dir=...") from None
        yield


def same_experiment(config: Config, run_dir: Path) -> bool:
    """True if the run folder has this config in all keys that define the experiment."""
    return not changed_keys(config, run_dir)


def changed_keys(config: Config, run_dir: Path) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the run folder, current value), for differing keys that define the experiment."""
    if not (run_dir / "config.yaml").is_file():
        return {"config.yaml": ("missing", "")}
    before = binding(strip_secrets(yaml.safe_load((run_dir / "config.yaml").read_text())))
    now = binding(strip_secrets(plain(config)))
    return {k: (before.get(k), now.get(k)) for k in sorted({*before, *now}) if before.get(k) != now.get(k)}


def claim(config: Config) -> Path:
    """Creates the run folder, or accepts one that this config can resume.

    Raises:
        RunFolderError: it has checkpoints with `resume: never`; none with `resume: must`; checkpoints of another config
            (the message lists the keys); or it is not writable.
    """
    run_dir = Path(config.run_dir).absolute()
    saved = has_checkpoint(run_dir)
    if saved and config.resume is Resume.never:
        raise RunFolderError(f"{run_dir} has checkpoints and resume=never: set run_dir=... or delete the folder")
    if not saved and config.resume is Resume.must:
        raise RunFolderError(f"{run_dir} has no checkpoint and resume=must: check run_dir, or set resume=auto")
    recorded = run_dir / "config.yaml"
    if saved and recorded.exists() and (changed := changed_keys(config, run_dir)):
        lines = "\n".join(f"  {k}: {before!r} -> {now!r}" for k, (before, now) in changed.items())
        raise RunFolderError(
            f"give run_dir=... for a new run: {run_dir} has checkpoints of another config. To resume that run, "
            f"restore these keys:\n{lines}"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(recorded, yaml.safe_dump(strip_secrets(plain(config)), sort_keys=False))
        if not saved:  # left by a run without checkpoints
            (run_dir / "finished").unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"run_dir={run_dir} cannot be written: {error}") from error
    return run_dir
