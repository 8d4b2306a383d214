"""The reference's worker: one rank of a frozen model that scores, and may be sampled from."""

from __future__ import annotations

import gc
from typing import Any

from actors.training.engine import TrainEngine
from actors.training.worker import LanguageModelWorker, StartSpec, join


class ReferenceWorker(LanguageModelWorker):
    """See `ModelWorker` for when to call what. There is no optimizer, hence no `save` and no `load`."""

    def __init__(self) -> None:
        super().__init__()
        self._spec: StartSpec | None = None

    def start(self, spec: StartSpec) -> dict[str, Any]:
        """Joins the group and loads the model; returns `describe()`."""
        join(spec)
        self._spec = spec
        self._build(spec.model_path)
        return self.describe()

    def initialize(self, directory: str) -> None:
        """Takes the weights of another folder of the same architecture, such as the policy's after a warm-up.

        A connection to the rollout engines ends: `connect` again.
        """
        self.disconnect()
        self._engine = None
        gc.collect()  # DeepSpeed's engine under ZeRO-3 is full of cycles; two of them need not fit
        self._build(directory)

    def _build(self, path: str) -> None:
        assert self._spec is not None
        spec = self._spec
        self._engine = TrainEngine(path, spec.model, spec.engine, spec.device, trainable=False)
