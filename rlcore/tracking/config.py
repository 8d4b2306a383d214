"""Settings of logging."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rlcore.problems import bounded


class WandbMode(str, enum.Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    mode: WandbMode = WandbMode.offline
    project: str = "rlcore"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class TrackingConfig:
    console: bool = True
    tensorboard: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)
    samples_every: int = bounded(10, ge=0)  # steps between tables of completions
    num_samples: int = bounded(8, ge=0)  # rows of such a table
