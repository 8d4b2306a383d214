"""From samples to new weights: log-probs and values of a batch, credit, and optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig, Anchor, Family, KLPlace
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.algorithms.value import ValueObjective
from rlcore.interfaces import Sampling, World
from rlcore.loops import parity
from rlcore.loops.config import TrainerConfig
from rlcore.objective import Objective
from rlcore.types import TrainBatch

OWN_ONLY = ("group", "gae", "returns")  # advantages that do not read old log-probs, except for a KL in the reward
BUILT_IN = (*OWN_ONLY, "nash_md")  # a registered function may read everything


def credit_needs_old(algorithm: AlgorithmConfig) -> bool:
    """True if the advantages read old log-probs, of every row."""
    if algorithm.family is Family.preference:
        return False
    return algorithm.advantage not in OWN_ONLY or (algorithm.kl_coef > 0 and algorithm.kl_in is KLPlace.reward)


def rows_to_score(algorithm: AlgorithmConfig, steps: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows that need old log-probs: all if the advantages read them, none if the loss takes its ratio against the
    sampler, otherwise those of later optimizer steps. In the first step the policy's detached log-probs are equal.
    """
    parts = steps if credit_needs_old(algorithm) else [] if algorithm.anchor is Anchor.rollout else steps[1:]
    return np.unique(np.concatenate([*parts, np.array([], dtype=np.int64)]))


def needs_reference(algorithm: AlgorithmConfig) -> bool:
    custom = algorithm.family is Family.policy_gradient and algorithm.advantage not in BUILT_IN
    return algorithm.needs_reference or custom


def with_models(
    world: World,
    algorithm: AlgorithmConfig,
    trainer: TrainerConfig,
    batch: TrainBatch,
    steps: Sequence[NDArray[np.int64]],
    check_parity: bool,
    current: Sequence[int],
) -> tuple[TrainBatch, M.Metrics]:
    """Adds old and reference log-probs and values, if needed, computed in parallel on their groups.

    Args:
        steps: rows of each optimizer step to come.
        check_parity: stops the run if rollout and trainer log-probs disagree. Differences are reported for every
            current row with computed log-probs, otherwise for `parity.num_sequences` of them.
        current: rows sampled wholly by the policy's present weights, whose log-probs must agree with the rollout
            engines'. Without any, nothing is compared: `rollout/parity_rows` is 0.
    """
    metrics: M.Metrics = {}
    asked = needs_reference(algorithm)
    with ThreadPoolExecutor(2, "models") as beside:
        ref = beside.submit(world.reference.logprobs, batch) if world.reference and asked else None
        values = beside.submit(world.critic.values, batch) if world.critic else None
        rows = rows_to_score(algorithm, steps)
        if not len(rows) and check_parity:  # only for the comparison
            rows = np.array(current[: trainer.parity.num_sequences], dtype=np.int64)
        if len(rows):
            with world.tracker.phase("old_log_prob"):
                batch = batch.with_arrays(old_logprobs=world.policy.logprobs(batch, rows=rows))
        if len(rows) or check_parity:
            wanted = trainer.parity if check_parity else replace(trainer.parity, stop=False)
            metrics = parity.compare(batch.select(np.intersect1d(rows, current)), wanted)
        if ref is not None:
            with world.tracker.phase("ref"):
                batch = batch.with_arrays(ref_logprobs=ref.result())
        if values is not None:
            with world.tracker.phase("values"):
                batch = batch.with_arrays(values=values.result())
    return batch, metrics


def update(
    world: World,
    batch: TrainBatch,
    steps: Sequence[NDArray[np.int64]],
    rates: tuple[float | None, float],
    objectives: tuple[Objective, Objective],
    skip: bool = False,
) -> list[M.Metrics]:
    """Runs all optimizer steps of one batch; critic and policy run in parallel on the same rows.

    Args:
        batch: with the old log-probs of the rows in `steps[1:]`.
        steps: rows of each optimizer step.
        rates: learning rates of policy (None during the critic's warm-up: no update) and critic.
        objectives: of policy and critic.
        skip: the policy computes only rows that have a gradient (`rows_with_gradient`).
    """
    parts: list[M.Metrics] = []
    (rate, critic_rate), (objective, value_objective) = rates, objectives
    with ThreadPoolExecutor(1, "critic") as beside:
        for i, rows in enumerate(steps):
            # in the first step the policy has not changed yet: its detached log-probs are the old ones
            part = batch if i else replace(batch, old_logprobs=None)
            critic = None
            if world.critic:
                critic = beside.submit(world.critic.update, part, critic_rate, value_objective, rows)
            if rate is not None:
                computed = rows_with_gradient(objective, batch, rows) if skip else None
                with world.tracker.phase("update_actor"):
                    parts.append(world.policy.update(part, rate, objective, rows, computed))
                if computed is not None:
                    parts.append({"batch/rows_without_gradient": M.Sum(float(len(rows) - len(computed)))})
            if critic is not None:
                with world.tracker.phase("update_critic"):  # time that remains after the policy has finished
                    parts.append(critic.result())
    return parts


def rows_with_gradient(objective: Objective, batch: TrainBatch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose loss can have a gradient, at least one unit: the optimizer's step is taken in any case.

    The gradient of a row is proportional to its advantages, if the loss is a known one and has no other term.
    """
    if not isinstance(objective, PolicyGradientObjective) or not objective.only_advantages or batch.advantages is None:
        return rows
    moved = [np.logical_or.reduceat(part.advantages != 0, part.offsets[:-1]) for _, part in batch.chunks()]
    kept = rows[np.concatenate(moved)[rows]]
    return kept if len(kept) else rows[: batch.rows_per_unit]


def objectives_of(algorithm: AlgorithmConfig, sampling: Sampling) -> tuple[Objective, Objective]:
    """Objectives of policy and critic."""
    family = PreferenceObjective if algorithm.family is Family.preference else PolicyGradientObjective
    policy = family(algorithm, sampling.temperature, sampling.max_new_tokens)
    return policy, ValueObjective(algorithm.value_clip)


def plan_updates(batch: TrainBatch, trainer: TrainerConfig, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of each optimizer step: every epoch a new permutation of the batch's units, cut into `updates_per_step`
    nearly equal parts."""
    epochs = [rng.permutation(len(batch) // batch.rows_per_unit) for _ in range(trainer.epochs_per_step)]
    parts = [part for units in epochs for part in np.array_split(units, trainer.updates_per_step)]
    return [unit_rows(part, batch.rows_per_unit) for part in parts if part.size]


def unit_rows(units: NDArray[np.int64], rows_per_unit: int) -> NDArray[np.int64]:
    """Unit u is rows u * n to u * n + n - 1."""
    rows: NDArray[np.int64] = units[:, None] * rows_per_unit + np.arange(rows_per_unit)
    return rows.ravel()
