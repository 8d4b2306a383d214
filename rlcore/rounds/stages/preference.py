"""Preference optimisation against a fixed reference, on the policy workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig, Family, PreferenceConfig, PreferenceKind
from rlcore.algorithms.kto import KtoObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.data import tables
from rlcore.data.batching.records import pairs_batch, samples_batch
from rlcore.loops import offline
from rlcore.loops.config import OfflineTrainConfig
from rlcore.loops.offline import Units
from rlcore.ops.preference_losses import KINDS, kto_reference_point
from rlcore.problems import Problem, bounded, choices
from rlcore.rounds import reference
from rlcore.rounds.context import StageContext, joined
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.store.store import Artefact
from rlcore.rounds.training import finish_model, token_ids, train
from rlcore.types import TrainBatch

KTO = "kto"


@dataclass
class PreferenceStageConfig(StageConfig):
    data: list[str] = field(default_factory=list)  # pairs; `kto` also takes scored samples, good from 0.5 on
    start: str = "start"
    reference: str | None = None  # None: `start`
    loss: str = "dpo"  # see rlcore.ops.preference_losses
    beta: float = bounded(0.1, gt=0)
    label_smoothing: float = bounded(0.0, ge=0, le=1)
    gamma: float = 0.0
    eta: float = 1.0
    sft_coef: float = bounded(0.0, ge=0)  # weight of the added negative log-likelihood per token of the chosen response
    desirable_weight: float = bounded(1.0, ge=0)  # for kto, like the next
    undesirable_weight: float = bounded(1.0, ge=0)
    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)

    KIND: ClassVar = "preference"
    PRODUCES: ClassVar = Made.model
    CONSUMES: ClassVar = {"data": (Made.pairs, Made.samples), "start": (Made.model,), "reference": (Made.model,)}
    READS: ClassVar = ("model", "engine")

    def consumes(self, field: str) -> tuple[Made, ...]:
        return (Made.pairs,) if field == "data" and self.loss != KTO else self.CONSUMES[field]

    def stage_problems(self, key: str, made: Made) -> Iterator[Problem]:
        if self.loss not in KINDS:
            yield Problem(f"{key}.loss", self.loss, "unknown loss", choices(self.loss, KINDS))


def run(context: StageContext) -> Artefact:
    """Trains with a loss of `rlcore.ops.preference_losses` on pairs, or with `kto` on scored samples."""
    config: PreferenceStageConfig = context.config
    if config.loss == KTO:
        return _kto(context, *labelled(context))
    table = joined(context.inputs["data"])
    ignored = token_ids(context.live.tokenizer, config.train.ignore_tokens)

    def plain(units: Units) -> TrainBatch:
        return pairs_batch(table.take(units), ignored)

    batch: Callable[[Units], TrainBatch] = plain
    objective = objective_of(config, context.live.sampling.max_new_tokens)
    if objective.config.preference.loss is not PreferenceKind.simpo:
        known = _reference(context, "reference", table.num_rows, plain)
        batch = lambda units: known.put(plain(units), units)  # noqa: E731
    context.live.load_policy(context.one("start"), to_train=True)
    policy = context.live.world.policy
    last = train(context, table.num_rows, lambda units, rate: policy.update(batch(units), rate, objective))
    return finish_model(context, {"pairs": table.num_rows, **last})


def objective_of(config: PreferenceStageConfig, max_new_tokens: int) -> PreferenceObjective:
    names = ("beta", "label_smoothing", "gamma", "eta", "sft_coef")
    chosen = PreferenceConfig(loss=PreferenceKind(config.loss), **{name: getattr(config, name) for name in names})
    return PreferenceObjective(AlgorithmConfig(config.loss, Family.preference, preference=chosen), 1.0, max_new_tokens)


def labelled(context: StageContext) -> tuple[pa.Table, int]:
    """Scored samples unchanged, or pairs as two samples each with score 1 (chosen) and 0 (rejected); and the number of
    dropped samples without a score or with a failed one.
    """
    found, dropped = [], 0
    for artefact in context.inputs["data"]:
        table = artefact.table()
        if tables.kind_of(table) == "samples":
            found.append(table.filter(pc.equal(table["status"], "ok")))
            dropped += table.num_rows - found[-1].num_rows
            continue
        for side, score in zip(tables.SIDES, (1.0, 0.0), strict=True):
            columns = {f.name: table[f.name] for f in tables.PROMPT_FIELDS}
            columns |= {f.name: table[f"{side}_{f.name}"] for f in tables.RESPONSE_FIELDS}
            columns["score"] = pa.array([score] * table.num_rows, pa.float64())
            found.append(pa.table(columns, tables.SAMPLES))
    return tables.concat(found), dropped


def _kto(context: StageContext, table: pa.Table, dropped: int) -> Artefact:
    """The reference point is computed from the prompts of each step, paired with responses to other prompts."""
    config: PreferenceStageConfig = context.config
    policy, ignored = context.live.world.policy, token_ids(context.live.tokenizer, config.train.ignore_tokens)
    others = table.take(strangers(table["uid"].to_pylist()))
    prompts = [f.name for f in tables.PROMPT_FIELDS]
    crossed = pa.table({n: (table if n in prompts else others)[n] for n in tables.SAMPLES.names}, tables.SAMPLES)
    good = np.array(table["score"].to_pylist(), dtype=np.float32) >= 0.5

    def plain(units: Units) -> TrainBatch:
        return replace(samples_batch(table.take(units), ignored), scores=good[units].astype(np.float32))

    def across(units: Units) -> TrainBatch:
        return samples_batch(crossed.take(units), ignored)

    known = _reference(context, "reference", table.num_rows, plain)
    apart = _reference(context, "reference-crossed", table.num_rows, across)
    base = KtoObjective(config.beta, config.desirable_weight, config.undesirable_weight)
    context.live.load_policy(context.one("start"), to_train=True)

    def update(units: Units, rate: float) -> M.Metrics:
        far = apart.put(across(units), units)
        assert far.ref_logprobs is not None
        sums = [(far.padded(x * far.loss_mask)).sum(axis=1) for x in (policy.logprobs(far, 1.0), far.ref_logprobs)]
        point = float(kto_reference_point(*(torch.from_numpy(s) for s in sums)))
        metrics = policy.update(known.put(plain(units), units), rate, replace(base, kl=point))
        return metrics | {"actor/kto_kl": M.Last(point)}

    last = train(context, table.num_rows, update)
    counts = {"samples": table.num_rows, "desirable": int(good.sum()), "dropped_unscored": dropped}
    return finish_model(context, {**counts, **last})


def strangers(uids: Sequence[str]) -> Units:
    """[rows]: a permutation that maps each row to a row of another prompt, for the mismatched pairs of KTO's reference
    point (arXiv 2402.01306 section 4.1). If one prompt has more than half of the rows, some map to the same prompt.

    >>> strangers(["a", "a", "b", "b", "c"]).tolist()
    [2, 3, 4, 0, 1]
    """
    _, prompt = np.unique(np.asarray(uids, dtype=object), return_inverse=True)
    order = np.argsort(prompt, kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.roll(order, -int(np.bincount(prompt, minlength=1).max()))  # past all rows of the same prompt
    return found


def _reference(
    context: StageContext, name: str, num_units: int, batch: Callable[[Units], TrainBatch]
) -> reference.Reference:
    if not num_units:
        raise offline.NothingToTrainOn(context.node.stage)
    live = context.live
    live.load_policy(context.maybe("reference") or context.one("start"))
    folder = context.draft.directory / name
    return reference.compute(
        live.world.policy, num_units, batch, folder, live.world.tracker, live.stop, f"{context.node.stage}: reference"
    )
