"""Settings of the data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import bounded


class SourceKind(str, enum.Enum):
    addition = "addition"  # built in: two-digit addition, digits reversed
    constraints = "constraints"  # built in: strings of letters under constraints, as `2a no c end x 5-7:`
    procedural = "procedural"  # tasks of reasoning-gym, see ProceduralConfig
    file = "file"  # of the format that the ending tells: .jsonl .ndjson .json .csv .tsv .parquet, also .gz .bz2 .xz
    jsonl = "jsonl"  # one JSON object a line, or one array of them
    csv = "csv"
    parquet = "parquet"
    dataset = "dataset"  # a folder written by datasets.save_to_disk


BUILT_IN = frozenset({SourceKind.addition, SourceKind.constraints, SourceKind.procedural})  # they read no file


class LongPrompt(str, enum.Enum):
    skip = "skip"  # left out and counted
    error = "error"  # refused at start


@dataclass
class ColumnsConfig:
    """Names of the columns in the user's file; `a.b` reads inside a column that holds objects."""

    prompt: str = "prompt"  # a string, or a list of {"role", "content"} messages
    reference: str = "reference"  # optional column: text, a number, true or false; of a list any is right
    rewards: str = "rewards"  # optional column: name or list of names of this row's rewards
    uid: str = "uid"  # optional column; without it the uid is made of the file and row number
    tools: str = "tools"  # optional column: list of JSON schemas, or its JSON, for the chat template


@dataclass
class ProceduralTaskConfig:
    name: str = "leg_counting"  # a task of reasoning-gym
    size: int = bounded(1000, ge=1)  # rows to train on
    level: int | None = bounded(None, ge=0)  # of the task's curriculum, from 0; None: its defaults
    options: dict[str, Any] = field(default_factory=dict)  # fields of the task's config; they win over the level


@dataclass
class ProceduralConfig:
    tasks: list[ProceduralTaskConfig] = field(default_factory=list)  # tasks of reasoning-gym, mixed
    seed: int | None = None  # of the rows; None: the run's


@dataclass
class DataConfig:
    source: SourceKind = SourceKind.addition  # kind of the data
    train: Any = None  # path, glob, folder, or a list of them; unused by built-in sources
    eval: Any = None  # likewise; None with a file source: `num_eval` rows are held out of `train`
    train_split: str = ""  # of a folder or glob with several splits; "": train
    eval_split: str = ""  # "": the only split that is not train
    num_eval: int = bounded(500, ge=1)  # held-out rows, where data.eval names no file
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)  # names of the columns in the file
    procedural: ProceduralConfig = field(default_factory=ProceduralConfig)  # of source=procedural
    chat_template: bool = False  # render prompts through the tokenizer's chat template
    chat_template_file: str | None = None  # a Jinja template to use instead
    chat_options: dict[str, Any] = field(default_factory=dict)  # variables of the template, as enable_thinking: false
    system_prompt: str | None = None  # system message in front of every prompt, with chat_template
    prompt_template: str = "{prompt}"  # applied to the prompt string before the chat template
    max_prompt_tokens: int = bounded(64, ge=1)  # longest prompt
    long_prompts: LongPrompt = LongPrompt.skip  # what happens to longer ones
    shuffle: bool = True  # in another order each epoch; false: as in the file
