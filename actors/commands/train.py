"""Training and evaluation of a config, for `rlcore.train`, `rlcore.evaluate` and the command line."""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from actors.build import Built, Inputs, open_world, prepare
from actors.config.compose import ConfigError, check
from actors.config.schema import Config, RoleConfig
from actors.run_folder import RunFolderError, claim, config_hash, has_checkpoint, locked, plain, same_experiment
from rlcore.data.batching.collate import supervised_batch
from rlcore.data.sources.prompts import PromptStream
from rlcore.interfaces import Sampling
from rlcore.loops import online, supervised
from rlcore.loops.evaluate import by_set
from rlcore.loops.evaluate import evaluate as measure
from rlcore.loops.ledger import Ledger
from rlcore.loops.schedule import learning_rate
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.problems import Problem, plural
from rlcore.redact import strip_secrets
from rlcore.storage.checkpoint import Checkpoints
from rlcore.storage.durable import write_text
from rlcore.tracking.trackers import Trackers, build_tracker


@dataclass(frozen=True)
class RunResult:
    """Result of a training run."""

    run_dir: Path
    steps: int
    metrics: dict[str, float]  # the latest value of every metric
    already_finished: bool = False  # true if the run was already complete

    @property
    def model(self) -> Path:
        """A Hugging Face folder."""
        return self.run_dir / "model"

    @property
    def metrics_file(self) -> Path:
        return self.run_dir / "metrics.jsonl"


@dataclass(frozen=True)
class EvalResult:
    model: str  # the evaluated model
    data: str  # the evaluation data
    num_prompts: int
    metrics: dict[str, float]


def train(config: Config, handle_signals: bool = False) -> RunResult:
    """The whole job: check, prepare, train, export.

    Args:
        handle_signals: SIGINT and SIGTERM end the run after a checkpoint, with Interrupted. For the command line.

    Raises: UserError; Interrupted after a checkpoint.
    """
    if config.rounds.stages:
        names, cure = ", ".join(config.rounds.stages), "run it by: rlcore rounds"
        raise ConfigError([Problem("rounds.stages", names, "stages are no part of one training", cure)])
    check(config)
    with locked(Path(config.run_dir)):
        jump = rate_jump(config)  # before the recorded config is replaced
        run_dir = claim(config)
        done = finished(run_dir, config.trainer.steps)
        if not done:
            run(config, run_dir, handle_signals, jump)
    steps = int((run_dir / "finished").read_text())
    return RunResult(run_dir, steps, _newest_metrics(run_dir / "metrics.jsonl"), done)


def _newest_metrics(file: Path) -> dict[str, float]:
    newest: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        with suppress(ValueError):  # a line truncated by a kill
            newest |= {k: v for k, v in json.loads(line).items() if isinstance(v, int | float)}
    return newest


def run(config: Config, run_dir: Path, handle_signals: bool, message: str = "") -> None:
    inputs = prepare(config, run_dir)
    with tracked(config, run_dir, config.trainer.steps, saved_step(run_dir)) as tracker:
        tracker.message(describe(config, inputs) + (f"\n{message}" if message else ""))
        stop = StopSignal(tracker.message)
        signals = stop.installed if handle_signals else nullcontext
        with open_world(config, run_dir, inputs, tracker) as built, signals():  # inside: Ray sets handlers too
            state = online.train(online_run(config, run_dir, built, stop))
            with tracker.phase("export"):
                built.world.policy.export(run_dir / "model")
        write_text(run_dir / "finished", f"{state.step}\n")


@contextmanager
def tracked(config: Config, run_dir: Path, steps: int, saved: int | None) -> Iterator[Trackers]:
    """The trackers of a run while the block runs; an error in it is also written to `error.txt`."""
    tracker = build_tracker(config.tracking, run_dir, strip_secrets(plain(config)), steps, saved)
    failed = True
    try:
        yield tracker
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
        # A separate stream, so that the warm-up does not change the order of prompts in RL.
        stream = PromptStream(inputs.data.train, config.seed + 1, shuffle=True)
        make_batch = functools.partial(supervised_batch, tokenizer=inputs.tokenizer)
        warm_up = functools.partial(supervised.warm_up, built.world, stream, make_batch, warmup, stop)
    return online.OnlineRun(
        world=built.world,
        trainer=config.trainer,
        algorithm=config.algorithm,
        reward=config.reward,
        sampling=sampling_of(config, config.trainer.samples_per_prompt),
        eval_prompts=inputs.data.eval,
        ledger=Ledger(run_dir / "ledger.jsonl"),
        stop=stop,
        seed=config.seed,
        config_hash=config_hash(config),
        run_dir=run_dir,
        samples_every=config.tracking.samples_every,
        warm_up=warm_up,
    )


def sampling_of(config: Config, num_samples: int) -> Sampling:
    rollout = config.rollout
    return Sampling(
        num_samples=num_samples, max_new_tokens=rollout.max_new_tokens, temperature=rollout.temperature,
        top_p=rollout.top_p, top_k=rollout.top_k, stop=tuple(rollout.stop),
    )  # fmt: skip


def evaluate(config: Config, handle_signals: bool = False) -> EvalResult:
    """Measures a model on the held-out prompts, through the same policy workers, sync and engines as training, but
    without optimizer, critic and reference.

    The model is `eval.checkpoint` if set, otherwise the latest checkpoint in `run_dir` if it has checkpoints of this
    config, otherwise `model.path`. The output folder is the run folder's name with `-eval`, so the run is not modified.

    Raises: UserError; Interrupted.
    """
    check(config)
    checkpoint = _checkpoint(config)
    trained = Path(config.run_dir).absolute() / "model"
    finished_run = config.eval.checkpoint is None and trained.is_dir() and same_experiment(config, trained.parent)
    if checkpoint is None and finished_run:
        config = replace(config, model=replace(config.model, path=str(trained), gguf_file=None))
    roles = replace(config.cluster.roles, critic=RoleConfig(num_workers=0), reference=RoleConfig(num_workers=0))
    config = replace(config, cluster=replace(config.cluster, roles=roles))
    run_dir = Path(config.run_dir + "-eval").absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    inputs = prepare(config, run_dir)
    setting = config.trainer.eval
    prompts = [p for chosen in by_set(inputs.data.eval, setting.max_prompts).values() for p in chosen]
    tracker: Trackers = build_tracker(config.tracking, run_dir, strip_secrets(plain(config)), 0, None)
    model = str(checkpoint or config.model.path or "the untrained tiny model")
    source = config.data.eval or config.data.train or config.data.source.value
    source = ", ".join(f"{name}: {file}" for name, file in source.items()) if isinstance(source, dict) else source
    data = f"{source}, {plural(len(prompts), 'held-out prompt')}"
    sampling = Sampling(
        setting.num_samples,
        config.rollout.max_new_tokens,
        setting.temperature,
        stop=tuple(config.rollout.stop),
        seed=config.seed,
    )
    try:
        tracker.message(f"measuring {model} on {data}")
        stop = StopSignal(tracker.message)
        with ExitStack() as stack:
            built = stack.enter_context(open_world(config, run_dir, inputs, tracker, optimizers=False))
            if handle_signals:
                stack.enter_context(stop.installed())
                stack.enter_context(stop.abandonable())
            if checkpoint is not None:
                built.world.policy.load(checkpoint)
            built.world.weights.publish()
            metrics, groups = measure(built.world, prompts, sampling, config.reward)
            tracker.log_samples(0, groups)
    finally:
        tracker.close()
    return EvalResult(model, data, len(prompts), metrics)


def _checkpoint(config: Config) -> Path | None:
    """The checkpoint to evaluate; None: the model of the config.

    Raises:
        RunFolderError: it is not there, or nothing is.
        CheckpointError: none is intact.
    """
    run_dir, name = Path(config.run_dir).absolute(), config.eval.checkpoint
    if name == "start":
        return None
    if name is not None:
        places = [run_dir / "checkpoints" / name, Path(name).expanduser().absolute()]
        there = [place for place in places if (place / "state.json").is_file()]
        if not there:
            saved = ", ".join(sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))) or "none"
            raise RunFolderError(f"eval.checkpoint={name}: no such checkpoint; {run_dir} holds: {saved}")
        return there[0]
    if has_checkpoint(run_dir) and (config.model.path is None or same_experiment(config, run_dir)):
        found = Checkpoints(run_dir / "checkpoints", 1, read_only=True).load_latest()
        return found[0] if found else None
    if config.model.path is None and not (run_dir / "model").is_dir():
        raise RunFolderError(f"{config.run_dir} holds no checkpoint: give the folder of a run, or model.path=...")
    return None


def eval_overrides(arguments: Sequence[str]) -> list[str]:
    """The command line of `rlcore eval`, with RUN_DIR replaced by the config of that run.

    Raises:
        RunFolderError: no such run, or a model without data to measure it on.
    """
    first = arguments[0] if arguments else ""
    if first and "=" not in first and not first.startswith(("-", "+", "~")):
        run_dir = Path(first).expanduser()
        if not (run_dir / "config.yaml").is_file():
            raise RunFolderError(f"{first} is no run folder (it has no config.yaml); for a model: model.path={first}")
        return ["--config", str(run_dir / "config.yaml"), f"run_dir='{run_dir}'", *arguments[1:]]
    named = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    model = next((a.partition("=")[2] for a in arguments if a.startswith("model.path=")), "")
    if model and not any(n.startswith(("data", "experiment", "--config", "run_dir")) for n in named):
        run_dir = Path(model.strip("'\"")).expanduser().parent
        cure = f"for the data of its run: rlcore eval {run_dir}; else " if (run_dir / "config.yaml").is_file() else ""
        raise RunFolderError(f"model.path={model}: on which data? {cure}add data=jsonl data.train=...")
    return list(arguments)


def finished(run_dir: Path, steps: int) -> bool:
    done = run_dir / "finished"
    return done.exists() and int(done.read_text()) >= steps and (run_dir / "model").is_dir()


def saved_step(run_dir: Path) -> int | None:
    """Step of the latest checkpoint by name; None without one. The loop verifies checksums."""
    if not has_checkpoint(run_dir):
        return None
    return max(int(p.name.removeprefix("step-")) for p in (run_dir / "checkpoints").glob("step-*[0-9]"))


def rate_jump(config: Config) -> str:
    """A message if a resumed run of another length changes a decaying learning rate; "" otherwise."""
    run_dir, trainer = Path(config.run_dir).absolute(), config.trainer
    step, recorded = saved_step(run_dir), run_dir / "config.yaml"
    if step is None or not recorded.is_file():
        return ""
    before = int(yaml.safe_load(recorded.read_text())["trainer"]["steps"])
    old, new = (learning_rate(trainer.learning_rate, step, steps) for steps in (before, trainer.steps))
    if old == new:
        return ""
    return (
        f"trainer.steps was {before}, now {trainer.steps}: at step {step + 1} the learning rate is {new:.3g}, in the "
        f"schedule so far it was {old:.3g}"
    )


def describe(config: Config, inputs: Inputs) -> str:
    trainer = config.trainer
    samples = trainer.prompts_per_step * trainer.samples_per_prompt
    updates = trainer.updates_per_step * trainer.epochs_per_step
    counts = ", ".join(f"{name} {count}" for name, count in inputs.data.counts.items() if count)
    return (
        f"{config.algorithm.name} on {inputs.model_path}, run folder {os.path.relpath(config.run_dir)}\n"
        f"{plural(trainer.steps, 'step')} of {trainer.prompts_per_step} prompts x {trainer.samples_per_prompt} samples "
        f"= {samples} completions, {plural(updates, 'optimizer step')} each\n"
        f"{len(inputs.data.train)} training and {len(inputs.data.eval)} held-out prompts ({counts})"
    )
