"""Config of the data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import bounded


class SourceKind(str, enum.Enum):
    addition = "addition"  # built-in: two-digit addition with reversed digits
    constraints = "constraints"  # built-in: strings of letters under constraints, for example `2a no c end x 5-7:`
    procedural = "procedural"  # tasks of reasoning-gym, see ProceduralConfig
    file = "file"  # format by extension: .jsonl .ndjson .json .csv .tsv .parquet, also .gz .bz2 .xz
    jsonl = "jsonl"  # one JSON object per line, or one array of objects
    csv = "csv"
    parquet = "parquet"
    dataset = "dataset"  # a folder written by datasets.save_to_disk


EVAL_SETS = ("all", "heldout")  # sets of the metrics `eval/<set>/...` that rlcore names itself
BUILT_IN = frozenset({SourceKind.addition, SourceKind.constraints, SourceKind.procedural})  # they read no file


class LongPrompt(str, enum.Enum):
    skip = "skip"  # skipped and counted
    error = "error"  # an error at start


@dataclass
class ColumnsConfig:
    """Names of the columns in the user's file; `a.b` reads inside a column of objects."""

    prompt: str = "prompt"  # a string, or a list of {"role", "content"} messages
    reference: str = "reference"  # optional column: text, a number, true or false, or a list of alternatives
    rewards: str = "rewards"  # optional column: name or list of names of the row's rewards
    uid: str = "uid"  # optional column; the default uid is the file name and row number
    tools: str = "tools"  # optional column: list of JSON schemas, or its JSON text, for the chat template


@dataclass
class ProceduralTaskConfig:
    name: str = "leg_counting"  # a task of reasoning-gym
    size: int = bounded(1000, ge=1)  # rows to train on
    level: int | None = bounded(None, ge=0)  # level of the task's curriculum, from 0; None: the defaults of the task
    options: dict[str, Any] = field(default_factory=dict)  # fields of the task's config; they override the level


@dataclass
class ProceduralConfig:
    tasks: list[ProceduralTaskConfig] = field(default_factory=list)  # tasks of reasoning-gym, mixed
    seed: int | None = None  # seed of the rows; None: the seed of the run


@dataclass
class DataConfig:
    source: SourceKind = SourceKind.addition  # kind of the data
    train: Any = None  # path, glob, folder, or a list of them; unused by built-in sources
    # path of held-out data, or {name: path, ...} for several sets; None: `num_eval` rows of `train` are held out
    eval: Any = None
    train_split: str = ""  # split of a folder or glob with several; "": train
    eval_split: str = ""  # split for evaluation; "": the only one other than train
    num_eval: int = bounded(500, ge=1)  # number of held-out rows, if data.eval is not set
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)  # names of the columns in the file
    procedural: ProceduralConfig = field(default_factory=ProceduralConfig)  # settings of source=procedural
    chat_template: bool = False  # render prompts through the tokenizer's chat template
    chat_template_file: str | None = None  # file with a Jinja template that replaces the tokenizer's
    chat_options: dict[str, Any] = field(default_factory=dict)  # template variables, for example enable_thinking: false
    system_prompt: str | None = None  # system message before every prompt, with chat_template
    prompt_template: str = "{prompt}"  # applied to the prompt string before the chat template
    max_prompt_tokens: int = bounded(64, ge=1)  # limit on the length of prompts, in tokens
    long_prompts: LongPrompt = LongPrompt.skip  # treatment of longer prompts
    shuffle: bool = True  # a new order in each epoch; false: the order of the file
