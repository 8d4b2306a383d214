"""Training of the policy on records, shared by stages: steps, checkpoints and export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcore import metrics as M
from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.loops import offline
from rlcore.loops.config import OfflineTrainConfig
from rlcore.loops.offline import OfflineRun, Units
from rlcore.rounds.context import StageContext
from rlcore.rounds.store.store import Artefact
from rlcore.storage.checkpoint import Checkpoints


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Token ids of texts with one token each.

    Raises:
        ValueError: a text has not exactly one token.
    """
    encoded = encode(tokenizer, texts, special=False)
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) != 1:
            raise ValueError(f"train.ignore_tokens: {text!r} is {len(ids)} tokens, not one")
    return [ids[0] for ids in encoded]


def train(
    context: StageContext,
    num_units: int,
    update: Callable[[Units, float], M.Metrics],
    enough: Callable[[int], bool] | None = None,
) -> dict[str, Any]:
    policy = context.live.world.policy
    context.live.training()
    settings = context.config.train
    return fit(context, num_units, update, settings, write=policy.save, read=policy.load, enough=enough)


def fit(
    context: StageContext, num_units: int, update: Callable[[Units, float], M.Metrics], config: OfflineTrainConfig,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The offline loop with the stage's checkpoints, curve and seed. `more`: further fields of `OfflineRun`."""
    live, checkpoints = context.live, Checkpoints(context.draft.directory / "checkpoints", keep=1)
    tracker = live.open_tracker(context.folder)
    run = OfflineRun(
        context.node.stage, num_units, update, config, live.world.tracker, live.stop, checkpoints,
        tracker=tracker, seed=context.seeds(), **more,
    )  # fmt: skip
    try:
        return offline.train(run)
    finally:
        tracker.close()


def finish_model(context: StageContext, report: dict[str, Any]) -> Artefact:
    folder = context.draft.directory / "model"
    context.live.world.policy.export(folder, masters=True)
    made = context.draft.finish_folder(Path(folder), report)
    context.live.trained(made)
    return made
