"""Config of tracking."""

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
    mode: WandbMode = WandbMode.offline  # offline: writes only to the run folder
    project: str = "rlcore"  # project name
    entity: str | None = None  # user or team
    tags: list[str] = field(default_factory=list)  # labels of the run


@dataclass
class TrackingConfig:
    console: bool = True  # show a table of steps in the terminal
    tensorboard: bool = False  # write TensorBoard files into the run folder
    wandb: WandbConfig = field(default_factory=WandbConfig)  # Weights & Biases
    samples_every: int = bounded(10, ge=0)  # steps between tables of completions
    num_samples: int = bounded(8, ge=0)  # rows of such a table
