"""Log-probs of the records of a stage under its reference, computed once before training and stored in the partial
artefact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlcore.interfaces import LogprobModel, Tracker
from rlcore.loops.offline import Units
from rlcore.loops.stop import StopSignal
from rlcore.ragged import offsets_of, tokens_of
from rlcore.storage.durable import replacing
from rlcore.types import Float32, TrainBatch

CHUNK = 1024  # units per chunk; a restart computes at most one chunk again


@dataclass(frozen=True)
class Reference:
    """The concatenated values of all rows of all units.

    Attributes:
        values: [sum of lengths] float32.
        starts: [rows + 1] int64, the start of each row in `values`.
        rows_per_unit: of the batches.
    """

    values: Float32
    starts: Units
    rows_per_unit: int

    def put(self, batch: TrainBatch, units: Units) -> TrainBatch:
        """The batch of these units, with `ref_logprobs`."""
        n = self.rows_per_unit
        rows = (units[:, None] * n + np.arange(n)).ravel()
        return batch.with_arrays(ref_logprobs=self.values[tokens_of(self.starts, rows)])


def compute(
    model: LogprobModel, num_units: int, batch: Callable[[Units], TrainBatch], folder: Path, tracker: Tracker,
    stop: StopSignal, name: str,
) -> Reference:  # fmt: skip
    """Computes log-probs at temperature 1. Writes one file per chunk into `folder`; existing files are read instead.

    Args:
        batch: returns the batch of units with these numbers.
        name: progress label.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values, lengths, rows_per_unit = [], [], 1
    with tracker.phase(name, total=num_units) as advance:
        for start in range(0, num_units, CHUNK):
            units = np.arange(start, min(start + CHUNK, num_units))
            part = batch(units)
            rows_per_unit = part.rows_per_unit
            file = folder / f"{start:09d}.npy"
            if not file.exists():
                with stop.abandonable():
                    found = model.logprobs(part, 1.0)
                with replacing(file) as stream:
                    np.save(stream, found)
            values.append(np.load(file))
            lengths.append(part.lengths)
            advance(len(units))
    return Reference(np.concatenate(values), offsets_of(np.concatenate(lengths)), rows_per_unit)
