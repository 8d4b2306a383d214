"""Online RL: take samples, credit, update, publish, repeat.

With `max_staleness: 0` every sample comes from the latest weights; with K the samples of the next steps are collected
meanwhile, by weights that are at most K steps older (`rlcore.loops.feed`). It is one loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcore import metrics as M
from rlcore.algorithms import policy_gradient
from rlcore.algorithms.config import AlgorithmConfig, Family
from rlcore.algorithms.shaping import KLController
from rlcore.interfaces import Sampling, World
from rlcore.loops.config import TrainerConfig
from rlcore.loops.evaluate import accuracy, evaluate
from rlcore.loops.experience import Experience, collect
from rlcore.loops.feed import Feed
from rlcore.loops.learning import credit_needs_old, objectives_of, plan_updates, update, with_models
from rlcore.loops.ledger import Ledger
from rlcore.loops.probe import probe
from rlcore.loops.schedule import learning_rate
from rlcore.loops.staleness import current_rows, staleness
from rlcore.loops.step_prompts import StepPrompts
from rlcore.loops.stop import Interrupted, StopSignal
from rlcore.rewards.config import RewardConfig
from rlcore.storage.durable import FileSums
from rlcore.types import Prompt, TrainBatch

CRITIC = "critic"  # folder in a checkpoint
START = "start_model"  # folder in the run folder with the policy after the warm-up, for a resume


@dataclass(frozen=True)
class OnlineRun:
    """The constants of a run."""

    world: World
    trainer: TrainerConfig
    algorithm: AlgorithmConfig
    reward: RewardConfig
    sampling: Sampling
    eval_prompts: Sequence[Prompt]
    ledger: Ledger
    stop: StopSignal
    seed: int
    config_hash: str
    run_dir: Path
    samples_every: int = 10
    warm_up: Callable[[Callable[[], float]], object] | None = None  # supervised, before the first version


@dataclass
class LoopState:
    """The driver's state; JSON-able."""

    step: int = 0  # completed steps
    version: int = 0  # version of the policy's weights
    prompts: dict[str, Any] = field(default_factory=dict)  # state of the source, after all prompts of `taken`
    taken: dict[str, list[str]] = field(default_factory=dict)  # uids, by step that was begun and not trained
    returned: list[str] = field(default_factory=list)  # uids that no step needed: the first ones to be taken
    accuracy: float | None = None  # latest evaluation
    best: dict[str, float] = field(default_factory=dict)  # {"step", "accuracy"}
    counters: dict[str, float] = field(default_factory=dict)  # samples and tokens since the first step
    kl: dict[str, float] = field(default_factory=dict)  # of the KL controller
    unlogged: dict[str, float] = field(default_factory=dict)  # metrics of `step`, until its row is written


def train(run: OnlineRun) -> LoopState:
    """Runs to `trainer.steps`, from the latest checkpoint if any.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; a checkpoint of the last completed step has been written.
    """
    prompts_of = StepPrompts(run.world.prompts)
    state = start(run, prompts_of)
    saved, first = state.step, True
    run.world.rollout.metrics()  # what comes counts from here on
    with closing(feed_of(run, prompts_of)) as feed:
        try:
            feed.start(state.step)
            while state.step < run.trainer.steps:
                run.stop.check()
                with run.world.tracker.phase("step"):
                    metrics = one_step(run, state, feed, first or due(run.trainer.parity.every, state.step))
                first = False
                prompts_of.trained(state.step)
                state.step += 1
                state.unlogged = metrics
                finish_row(run, state)  # before the checkpoint, because a resume drops later rows
                if state.step == run.trainer.steps or due(run.trainer.checkpoint.every, state.step):
                    save(run, state, prompts_of)
                    saved = state.step
        except Interrupted:
            if saved != state.step:
                save(run, state, prompts_of)
            raise
    return state


def feed_of(run: OnlineRun, prompts_of: StepPrompts) -> Feed[Experience]:
    """The samples of each step, collected at most `max_staleness` steps ahead."""
    world, trainer = run.world, run.trainer

    def prepare(step: int) -> None:
        prompts_of.reserve(step, trainer.prompts_per_step)

    def samples(step: int) -> Experience:
        return collect(
            world, run.algorithm, run.reward, run.sampling, trainer.prompts_per_step, run.seed, step, prompts_of
        )

    return Feed(samples, trainer.max_staleness, trainer.steps, prepare, world.rollout.abandon)


def finish_row(run: OnlineRun, state: LoopState) -> None:
    """Evaluates if due and writes the row of the step."""
    metrics = dict(state.unlogged)
    if evaluates(run, state.step):
        metrics |= run_evaluation(run, state)
    run.world.tracker.log(state.step, metrics)
    state.unlogged = {}


def evaluates(run: OnlineRun, step: int) -> bool:
    return step == run.trainer.steps or due(run.trainer.eval.every, step)


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def start(run: OnlineRun, prompts_of: StepPrompts) -> LoopState:
    """Resumes, or warms up, evaluates and writes the checkpoint of step 0."""
    world = run.world
    if (found := world.checkpoints.load_latest()) is not None:
        directory, stored = found
        state = LoopState(**{k: v for k, v in stored.items() if k != "config_hash"})
        if stored["config_hash"] != run.config_hash:
            world.tracker.message("the config differs from the checkpoint's: using the new one")
        world.policy.load(directory)
        if world.critic is not None:
            world.critic.load(directory / CRITIC)
        if world.reference is not None and run.warm_up is not None:
            world.reference.initialize(run.run_dir / START)
        prompts_of.load_state_dict(state.prompts, state.taken, state.returned)
        dropped = run.ledger.truncate_after(state.step)
        publish(world, state, after=state.version - 1)
        if state.unlogged:  # stopped during the evaluation of this step
            finish_row(run, state)
            save(run, state, prompts_of)
        again = f"; {dropped} unsaved steps run again" if dropped else ""
        world.tracker.message(f"resumed at step {state.step} from {directory.name}{again}")
        return state
    state = LoopState()
    run.ledger.truncate_after(-1)
    if run.warm_up is not None:
        run.warm_up(lambda: published_accuracy(run, state))
        world.policy.reset_optimizer()
        start_others(run)
    publish(world, state)
    metrics = run_evaluation(run, state)
    world.tracker.log(0, metrics)
    save(run, state, prompts_of)
    return state


def one_step(run: OnlineRun, state: LoopState, feed: Feed[Experience], check_parity: bool) -> dict[str, float]:
    """One pass of the algorithm: P prompts, B = P * G samples, U optimizer steps, one new version."""
    world, trainer = run.world, run.trainer
    waits_since = time.perf_counter()
    with run.stop.abandonable(), world.tracker.phase("wait") if feed.ahead else nullcontext():
        found = feed.take(state.step)
    parts: list[M.Metrics] = [found.metrics(), {"wait/trainer_s": M.Sum(time.perf_counter() - waits_since)}]
    if world.judge is not None:
        parts.append(world.judge.metrics())
    rate = learning_rate(trainer.learning_rate, state.step, trainer.steps)
    batch = found.batch()
    if batch is None:
        with world.weights.changing():  # every step is a version
            pass
        world.tracker.message(
            f"step {state.step + 1}: every sample was filtered out ({dict(found.filtered)}); the weights are unchanged"
        )
    else:
        parts += learn(run, state, found, batch, rate, check_parity)
    state.version = world.weights.policy_version
    probes = feed.ahead and check_parity
    if due(trainer.publish_every, state.step + 1) or evaluates(run, state.step + 1) or probes:
        with world.tracker.phase("update_weights"):
            parts.append(publish(world, state))
        feed.published(state.step + 1)
    if probes:
        parts.append(probe(world, found.prompts, run.sampling, trainer.parity))
    parts.append(world.rollout.metrics())
    run.ledger.record(
        state.step + 1, state.version, [p.uid for p in found.prompts], found.sample_ids, dict(found.filtered)
    )
    if due(run.samples_every, state.step + 1) or state.step == 0:
        world.tracker.log_samples(state.step + 1, found.groups)
    return count(state, M.values(M.merge(parts)) | {"actor/lr": rate, "train/version": float(state.version)})


def learn(
    run: OnlineRun, state: LoopState, found: Experience, batch: TrainBatch, rate: float, check_parity: bool
) -> list[M.Metrics]:
    world, trainer, algorithm, longest = run.world, run.trainer, run.algorithm, run.sampling.max_new_tokens
    steps = plan_updates(batch, trainer, np.random.default_rng([run.seed, state.step]))
    version = world.weights.policy_version
    current = current_rows(found.trained, version)
    batch, compared = with_models(world, algorithm, trainer, batch, steps, check_parity, current)
    parts = [compared, staleness(found.trained, version)]
    if algorithm.family is Family.policy_gradient:
        controller = KLController(algorithm, state.kl)
        seen = batch if credit_needs_old(algorithm) else replace(batch, old_logprobs=None)  # some rows have no value
        seen, credited = policy_gradient.credit(found.kept, seen, algorithm, controller.coef, longest)
        parts += [credited, controller.observe(seen)]
        state.kl = controller.state_dict()
        batch = replace(seen, old_logprobs=batch.old_logprobs)
    critic_rate = learning_rate(trainer.critic_learning_rate, state.step, trainer.steps)
    waiting = world.critic is not None and state.step < algorithm.critic_warmup_steps
    objectives = objectives_of(algorithm, run.sampling)
    with world.weights.changing():
        rates = (None if waiting else rate, critic_rate)
        return parts + update(world, batch, steps, rates, objectives, trainer.skip_zero_advantages)


def publish(world: World, state: LoopState, after: int = -1) -> M.Metrics:
    metrics = world.weights.publish(after)
    state.version = world.weights.version
    return metrics


def run_evaluation(run: OnlineRun, state: LoopState) -> dict[str, float]:
    if not run.eval_prompts:
        return {}
    with run.stop.abandonable():
        setting = run.trainer.eval
        sampling = Sampling(
            num_samples=setting.num_samples,
            max_new_tokens=run.sampling.max_new_tokens,
            temperature=setting.temperature,
            stop=run.sampling.stop,
            seed=run.seed,
            step=-1,
        )
        metrics, _ = evaluate(run.world, run.eval_prompts, sampling, run.reward, setting.max_prompts)
    state.accuracy = accuracy(metrics, setting.num_samples)
    if not state.best or state.accuracy > state.best["accuracy"]:
        state.best = {"step": state.step, "accuracy": state.accuracy}
    return metrics


def published_accuracy(run: OnlineRun, state: LoopState) -> float:
    """For the warm-up: score of the current model on the held-out set."""
    publish(run.world, state)
    run_evaluation(run, state)
    state.best = {}  # the run has not started yet
    return 0.0 if state.accuracy is None else state.accuracy


def count(state: LoopState, metrics: dict[str, float]) -> dict[str, float]:
    for name in ("samples_generated", "samples_trained", "tokens_generated"):
        state.counters[name] = state.counters.get(name, 0.0) + metrics.get(f"batch/{name}", 0.0)
    return metrics


def save(run: OnlineRun, state: LoopState, prompts_of: StepPrompts) -> None:
    with run.world.tracker.phase("checkpoint"):
        stored = {**vars(state), **prompts_of.state_dict(), "config_hash": run.config_hash}
        run.world.checkpoints.save(state.step, stored, lambda directory: write_models(run.world, directory))


def write_models(world: World, directory: Path) -> FileSums:
    written = dict(world.policy.save(directory) or {})
    if world.critic is not None:
        of_critic = world.critic.save(directory / CRITIC) or {}
        written |= {f"{CRITIC}/{name}": entry for name, entry in of_critic.items()}
    return written


def start_others(run: OnlineRun) -> None:
    """Initialises reference and critic from the policy after the warm-up."""
    if run.world.critic is None and run.world.reference is None:
        return
    run.world.policy.export(run.run_dir / START)
    if run.world.critic is not None:
        run.world.critic.initialize(run.run_dir / START)
    if run.world.reference is not None:
        run.world.reference.initialize(run.run_dir / START)
