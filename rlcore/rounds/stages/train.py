"""Supervised fine-tuning, and preference optimisation against a fixed reference, on the policy's own workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig, Family, PreferenceConfig, PreferenceKind
from rlcore.algorithms.kto import KtoObjective
from rlcore.algorithms.preference import PreferenceObjective
from rlcore.checkpoint import Checkpoints
from rlcore.data import tables
from rlcore.data.batching.records import pairs_batch, samples_batch
from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.loops import offline
from rlcore.loops.evaluate import evaluate
from rlcore.loops.offline import OfflineRun, Units
from rlcore.ops.preference_losses import kto_reference_point
from rlcore.rounds.context import StageContext, joined
from rlcore.rounds.plan.config import PreferenceStageConfig, SftConfig
from rlcore.rounds.stages import reference
from rlcore.rounds.stages.evaluate import mean_part
from rlcore.rounds.store.store import Artefact
from rlcore.types import TrainBatch

KTO = "kto"
MIX = 0x3147  # of the rows drawn by weight


def sft(context: StageContext) -> Artefact:
    """Negative log-likelihood of the responses, a mean over the tokens of a step."""
    config: SftConfig = context.config
    table = mixed([a.table() for a in context.inputs["data"]], weights_of(context), context.seeds(MIX))
    ignored = token_ids(context.live.tokenizer, config.train.ignore_tokens)

    def batch(units: Units) -> TrainBatch:
        return samples_batch(table.take(units), ignored)

    context.live.hold(context.one("start"), to_train=True)
    policy = context.live.world.policy
    enough = reached(context) if config.stop_at_accuracy is not None else None
    last = _train(context, table.num_rows, lambda units, rate: policy.update(batch(units), rate, "sft"), enough)
    return _finish(context, {"sequences": table.num_rows, **last})


def reached(context: StageContext) -> Callable[[int], bool]:
    """Whether the policy as it is reaches the accuracy at which the stage stops. Measured every `check_every` steps."""
    config, live = context.config, context.live
    prompts = tables.to_prompts(context.prompts("measured_on")[0])
    sampling = context.sampling(1, context.seed, temperature=0.0)

    def enough(step: int) -> bool:
        if step % config.check_every:
            return False
        live.sent = ""
        with live.stop.abandonable():
            live.world.weights.publish()
            metrics, groups = evaluate(live.world, prompts, sampling, live.reward)
        found = mean_part(groups, config.part) if config.part else metrics["eval/heldout/mean@1"]
        return bool(found >= config.stop_at_accuracy)

    return enough


def weights_of(context: StageContext) -> list[float]:
    """One per artefact of `data`: an entry's weight is shared by all the artefacts that it leads to."""
    sources, weights = context.node.inputs["data"], context.config.weights
    counts = [sum(s.entry == entry for s in sources) for entry in range(len(weights))]
    return [weights[s.entry] / counts[s.entry] for s in sources] if weights else []


def mixed(parts: Sequence[pa.Table], weights: Sequence[float], seed: int) -> pa.Table:
    """All rows; or with weights, as many rows in all, drawn by largest remainder in proportion to the weights, each
    part's rows used up before any is drawn again."""
    if not weights:
        return tables.concat(parts)
    total, shares = sum(p.num_rows for p in parts), np.array(weights) / sum(weights)
    counts = np.floor(total * shares).astype(int)
    for i in np.argsort(-(total * shares - counts), kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    drawn = []
    for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if count and not part.num_rows:
            raise ValueError(f"entry {i} of `data` has weight {weights[i]} and no rows")
        rounds = -(-count // max(1, part.num_rows))
        rng = np.random.default_rng([seed, i])
        rows = np.concatenate([rng.permutation(part.num_rows) for _ in range(rounds)] or [np.array([], dtype=int)])
        drawn.append(part.take(np.sort(rows[:count])))
    return tables.concat(drawn)


def preference(context: StageContext) -> Artefact:
    """One of the losses of `rlcore.ops.preference_losses` on pairs, or `kto` on scored samples."""
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
    context.live.hold(context.one("start"), to_train=True)
    policy = context.live.world.policy
    policy.set_objective(config.loss, objective)
    last = _train(context, table.num_rows, lambda units, rate: policy.update(batch(units), rate, config.loss))
    return _finish(context, {"pairs": table.num_rows, **last})


def objective_of(config: PreferenceStageConfig, max_new_tokens: int) -> PreferenceObjective:
    names = ("beta", "label_smoothing", "gamma", "eta", "sft_coef")
    chosen = PreferenceConfig(loss=PreferenceKind(config.loss), **{name: getattr(config, name) for name in names})
    return PreferenceObjective(AlgorithmConfig(config.loss, Family.preference, preference=chosen), 1.0, max_new_tokens)


def labelled(context: StageContext) -> tuple[pa.Table, int]:
    """Scored samples as they are; pairs as two samples each, the chosen one with score 1, the rejected with 0. And how
    many samples have no score, or one that failed: they are left out."""
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
    """The reference point is taken from each step's own prompts, each with a response to another one."""
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
    context.live.hold(context.one("start"), to_train=True)

    def update(units: Units, rate: float) -> M.Metrics:
        far = apart.put(across(units), units)
        assert far.ref_logprobs is not None
        sums = [(x * far.loss_mask).sum(axis=1) for x in (policy.logprobs(far, 1.0), far.ref_logprobs)]
        point = float(kto_reference_point(*(torch.from_numpy(s) for s in sums)))
        policy.set_objective(KTO, replace(base, kl=point))
        return policy.update(known.put(plain(units), units), rate, KTO) | {"actor/kto_kl": M.Last(point)}

    last = _train(context, table.num_rows, update)
    counts = {"samples": table.num_rows, "desirable": int(good.sum()), "dropped_unscored": dropped}
    return _finish(context, {**counts, **last})


def strangers(uids: Sequence[str]) -> Units:
    """[rows]: for each row another one, each once, that belongs to another prompt: the mismatched pairs of KTO's
    reference point (arXiv 2402.01306 section 4.1). Where one prompt has more than half of the rows, some are its own.

    >>> strangers(["a", "a", "b", "b", "c"]).tolist()
    [2, 3, 4, 0, 1]
    """
    _, prompt = np.unique(np.asarray(uids, dtype=object), return_inverse=True)
    order = np.argsort(prompt, kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.roll(order, -int(np.bincount(prompt, minlength=1).max()))  # past all of its own
    return found


def _reference(
    context: StageContext, name: str, num_units: int, batch: Callable[[Units], TrainBatch]
) -> reference.Reference:
    if not num_units:
        raise offline.NothingToTrainOn(context.node.stage)
    live = context.live
    live.hold(context.maybe("reference") or context.one("start"))
    folder = context.draft.directory / name
    return reference.compute(
        live.world.policy, num_units, batch, folder, live.world.tracker, live.stop, f"{context.node.stage}: reference"
    )


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Of texts that are one token each.

    Raises:
        ValueError: a text is another number of tokens.
    """
    encoded = encode(tokenizer, texts, special=False)
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) != 1:
            raise ValueError(f"train.ignore_tokens: {text!r} is {len(ids)} tokens, not one")
    return [ids[0] for ids in encoded]


def _train(
    context: StageContext,
    num_units: int,
    update: Callable[[Units, float], M.Metrics],
    enough: Callable[[int], bool] | None = None,
) -> dict[str, Any]:
    live, config = context.live, context.config.train
    live.training()
    tracker = live.open_tracker(context.folder, offline.total_steps(config, max(1, num_units)))
    run = OfflineRun(
        name=context.node.stage, num_units=num_units, update=update, config=config,
        write=live.world.policy.save, read=live.world.policy.load, checkpoints=stage_checkpoints(context),
        tracker=tracker, progress=live.world.tracker, stop=live.stop, seed=context.seeds(), enough=enough,
    )  # fmt: skip
    try:
        return offline.train(run)
    finally:
        tracker.close()


def stage_checkpoints(context: StageContext) -> Checkpoints:
    return Checkpoints(context.draft.directory / "checkpoints", keep=1)


def _finish(context: StageContext, report: dict[str, Any]) -> Artefact:
    folder = context.draft.directory / "model"
    context.live.world.policy.export(folder, masters=True)
    made = context.draft.finish_folder(Path(folder), report)
    context.live.trained(made)
    return made
