"""What `rlcore train` and `rlcore eval` do with a checked config."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from actors.build import Built, Inputs, open_world, prepare
from actors.config import Config
from actors.run_folder import RunFolderError, claim, config_hash, has_checkpoint, locked, plain
from actors.validate import ConfigError, check
from rlcore.checkpoint import Checkpoints
from rlcore.data.batching.collate import supervised_batch
from rlcore.data.sources.prompts import PromptStream
from rlcore.interfaces import Sampling
from rlcore.loops import online, supervised
from rlcore.loops.evaluate import evaluate as measure
from rlcore.loops.ledger import Ledger
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.problems import Problem
from rlcore.redact import strip_secrets
from rlcore.report import render, write_report
from rlcore.tracking.trackers import Trackers, build_tracker


def train(config: Config) -> int:
    """The whole job: check, prepare, train, export, report. Returns the exit code.

    Raises: UserError; Interrupted after a checkpoint.
    """
    if config.rounds.stages:
        names, cure = ", ".join(config.rounds.stages), "run it by: rlcore rounds"
        raise ConfigError([Problem("rounds.stages", names, "stages are no part of one training", cure)])
    check(config)
    with locked(Path(config.run_dir)):
        run_dir = claim(config)
        if finished(run_dir, config.trainer.steps):
            print(render(write_report(run_dir)))
            print(f"\n{run_dir} is complete: nothing to do. For more: trainer.steps=...; for another run: run_dir=...")
            return 0
        run(config, run_dir)
        print(render(write_report(run_dir)))
    print(f"\nmodel    {run_dir / 'model'}\ncurve    {run_dir / 'curve.png'}\nmetrics  {run_dir / 'metrics.jsonl'}")
    return 0


def run(config: Config, run_dir: Path) -> None:
    inputs = prepare(config, run_dir)
    shown = strip_secrets(plain(config))
    tracker = build_tracker(config.tracking, run_dir, shown, config.trainer.steps, saved_step(run_dir))
    failed = True
    try:
        tracker.message(describe(config, inputs))
        stop = StopSignal(tracker.message)
        with open_world(config, run_dir, inputs, tracker) as built, stop.installed():  # Ray sets handlers of its own
            state = online.train(online_run(config, run_dir, built, stop))
            with tracker.phase("export"):
                built.world.policy.export(run_dir / "model")
        (run_dir / "finished.partial").write_text(f"{state.step}\n")
        os.replace(run_dir / "finished.partial", run_dir / "finished")
        (run_dir / "error.txt").unlink(missing_ok=True)
        failed = False
    except Interrupted:
        raise
    except Exception:
        (run_dir / "error.txt").write_text(traceback.format_exc())
        raise
    finally:
        tracker.close(failed=failed)


def online_run(config: Config, run_dir: Path, built: Built, stop: StopSignal) -> online.OnlineRun:
    inputs, warmup = built.inputs, config.trainer.warmup
    warm_up: Callable[[Callable[[], float]], object] | None = None
    if warmup.steps:
        # A stream of its own: the warm-up takes nothing from the order in which RL sees the prompts.
        stream = PromptStream(inputs.data.train, config.seed + 1, shuffle=True)
        make_batch = functools.partial(supervised_batch, tokenizer=inputs.tokenizer)
        warm_up = functools.partial(supervised.warm_up, built.world, stream, make_batch, warmup, stop)
    rollout = config.rollout
    return online.OnlineRun(
        world=built.world,
        trainer=config.trainer,
        algorithm=config.algorithm,
        reward=config.reward,
        sampling=Sampling(
            num_samples=config.trainer.samples_per_prompt,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            stop=tuple(rollout.stop),
        ),
        eval_prompts=inputs.data.eval,
        ledger=Ledger(run_dir / "ledger.jsonl"),
        stop=stop,
        seed=config.seed,
        config_hash=config_hash(config),
        run_dir=run_dir,
        samples_every=config.tracking.samples_every,
        warm_up=warm_up,
    )


def evaluate(config: Config) -> int:
    """Held-out accuracy of `model.path`, or without one of the run's newest checkpoint.

    It goes through the same policy workers, sync and engines as training.

    The run folder is the config's with `-eval` appended, so that a training run of that name stays untouched.
    """
    check(config)
    found = None
    if config.model.path is None:
        found = Checkpoints(Path(config.run_dir).absolute() / "checkpoints", 1, read_only=True).load_latest()
        if found is None:
            raise RunFolderError(
                f"{config.run_dir} holds no checkpoint: give model.path=... or the run_dir=... of a run"
            )
    run_dir = Path(config.run_dir + "-eval").absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    inputs = prepare(config, run_dir)
    tracker: Trackers = build_tracker(config.tracking, run_dir, strip_secrets(plain(config)), 0, None)
    setting = config.trainer.eval
    sampling = Sampling(
        setting.num_samples,
        config.rollout.max_new_tokens,
        setting.temperature,
        stop=tuple(config.rollout.stop),
        seed=config.seed,
    )
    try:
        stop = StopSignal(tracker.message)
        with open_world(config, run_dir, inputs, tracker) as built, stop.installed(), stop.abandonable():
            if found is not None:
                built.world.policy.load(found[0])
            built.world.weights.publish()
            metrics, groups = measure(built.world, inputs.data.eval[: setting.max_prompts], sampling, config.reward)
            tracker.log_samples(0, groups)
    finally:
        tracker.close()
    for name, value in metrics.items():
        print(f"{name:32} {value:.4f}")
    return 0


def finished(run_dir: Path, steps: int) -> bool:
    done = run_dir / "finished"
    return done.exists() and int(done.read_text()) >= steps and (run_dir / "model").is_dir()


def saved_step(run_dir: Path) -> int | None:
    """Of the newest checkpoint by name; None without one. The loop itself decides by checksums."""
    if not has_checkpoint(run_dir):
        return None
    return max(int(p.name.removeprefix("step-")) for p in (run_dir / "checkpoints").glob("step-*[0-9]"))


def describe(config: Config, inputs: Inputs) -> str:
    trainer = config.trainer
    samples = trainer.prompts_per_step * trainer.samples_per_prompt
    counts = ", ".join(f"{name} {count}" for name, count in inputs.data.counts.items())
    return (
        f"{config.algorithm.name} on {inputs.model_path}, run folder {os.path.relpath(config.run_dir)}\n"
        f"{trainer.steps} steps of {trainer.prompts_per_step} prompts x {trainer.samples_per_prompt} samples = "
        f"{samples} completions, {trainer.updates_per_step * trainer.epochs_per_step} optimizer steps each\n"
        f"{len(inputs.data.train)} training and {len(inputs.data.eval)} held-out prompts ({counts})"
    )
