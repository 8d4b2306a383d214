"""Which records go on: filters, rejection sampling, pairs. No actor takes part; a restart begins anew."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.selection.best_of_n import SelectionConfig, select
from rlcore.data.selection.pairing import PairingConfig, make_pairs
from rlcore.data.tokenizer import encode
from rlcore.rounds.context import StageContext, joined, prompts_together
from rlcore.rounds.plan.config import PairsConfig, RejectionSampleConfig
from rlcore.rounds.store.store import Artefact

PARTS = 65_536  # rows of one part of the artefact


def finish(context: StageContext, table: pa.Table, report: dict[str, object]) -> Artefact:
    for i, start in enumerate(range(0, max(1, table.num_rows), PARTS)):
        context.draft.write_part(i, table.slice(start, PARTS))
    return context.draft.finish_records(report)


def rejection_sample(context: StageContext) -> Artefact:
    config: RejectionSampleConfig = context.config
    selection: SelectionConfig = config.select
    kept, counts = select(
        tables.to_samples(prompts_together(joined(context.inputs["samples"]))), selection, context.seeds()
    )
    table = tables.from_samples(kept)
    mean = pc.mean(table["score"]).as_py() if kept else None
    return finish(context, table, {"counts": counts, "mean_score": mean})


def pairs(context: StageContext) -> Artefact:
    config: PairsConfig = context.config
    pairing: PairingConfig = config.pairing
    tokenizer = context.live.tokenizer

    def tokens(text: str) -> tuple[int, ...]:
        return (*encode(tokenizer, [text], special=False)[0], int(tokenizer.eos_token_id))

    samples = tables.to_samples(prompts_together(joined(context.inputs["samples"])))
    made, counts = make_pairs(samples, pairing, context.seeds(), tokens)
    return finish(context, tables.from_pairs(made), {"counts": counts})
