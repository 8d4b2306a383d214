"""The kinds of stages. Every module in this package is one kind: its config with its checks, and `run(context) ->
Artefact`.

Modules are discovered automatically; no table lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlcore.rounds.context import StageContext
from rlcore.rounds.plan.config import StageConfig
from rlcore.rounds.store.store import Artefact


@dataclass(frozen=True, slots=True)
class Stage:
    config: type[StageConfig]
    run: Callable[[StageContext], Artefact]


def _stages() -> Iterator[Stage]:
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        own = [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__]
        (config,) = [one for one in own if isinstance(one, type) and issubclass(one, StageConfig)]
        yield Stage(config, module.run)


STAGES = {stage.config.KIND: stage for stage in _stages()}
