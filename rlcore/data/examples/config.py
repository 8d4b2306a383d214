"""Config of one source of examples: kind, columns, rendering and limits."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.data.sources.config import BUILT_IN, EVAL_SETS, SourceKind
from rlcore.data.sources.files import stem
from rlcore.problems import Problem, bounded

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # arXiv 2311.09528, section 2


class ExampleKind(str, enum.Enum):
    prompts = "prompts"  # rows become Prompt
    demonstrations = "demonstrations"  # rows become Sample: a response, or a whole conversation
    preferences = "preferences"  # rows become Pair: chosen and rejected
    labelled = "labelled"  # rows become Sample with reward 1 (good) or 0 (bad), for KTO (arXiv 2402.01306)
    attributes = "attributes"  # rows become Sample with one reward part per attribute, as in HelpSteer
    attribute_pairs = "attribute_pairs"  # rows become Pair, as in HelpSteer2-Preference


class RowPolicy(str, enum.Enum):
    error = "error"  # an error with the count and the first few
    skip = "skip"  # skipped and counted


class Turns(str, enum.Enum):
    """Training samples from a demonstration with several assistant turns."""

    all = "all"  # one sample: the prompt ends before the first answer, all answers are trained
    last = "last"  # one sample: the prompt ends before the last answer
    each = "each"  # one sample per answer, with all earlier turns as its prompt


@dataclass
class ExampleColumnsConfig:
    """Names of the columns in the user's file. `a.b` reads inside a column of objects; "" disables an optional column.
    """

    prompt: str = "prompt"
    response: str = "response"  # demonstrations, attributes
    messages: str = "messages"  # demonstrations: the whole conversation, in place of prompt and response
    chosen: str = "chosen"
    rejected: str = "rejected"
    score_chosen: str = "score_chosen"
    score_rejected: str = "score_rejected"
    strength: str = "strength"  # preferences; if unchanged and missing, the column `margin` is read
    completion: str = "completion"  # labelled
    label: str = "label"  # labelled: true or false
    response_1: str = "response_1"  # attribute_pairs
    response_2: str = "response_2"
    preference: str = "preference_strength"  # attribute_pairs: below 0 the first is better, above 0 the second, 0 a tie
    uid: str = "uid"  # optional; the default uid is the source's name and the row number
    reference: str = "reference"  # optional: the expected answer, for verifiers
    rewards: str = "rewards"  # optional: name or list of names of the row's rewards
    tools: str = "tools"  # optional: list of JSON schemas, or its JSON text, for the chat template
    attributes: dict[str, str] = field(default_factory=dict)  # attribute -> column, where the names differ


@dataclass
class ExamplesConfig:
    """One source of examples of one kind."""

    kind: ExampleKind = ExampleKind.demonstrations
    source: SourceKind = SourceKind.jsonl  # or file, csv, parquet, dataset
    path: Any = ""  # path, glob, folder, or a list of them
    split: str = ""  # split of a folder or glob with several; "": train
    name: str = ""  # name of the source in records and uids; "": the file name without its extension
    columns: ExampleColumnsConfig = field(default_factory=ExampleColumnsConfig)
    attributes: list[str] = field(default_factory=lambda: list(HELPSTEER))
    attribute_weights: list[float] | None = None  # weights of the attributes in the score; None: their mean
    turns: Turns = Turns.all
    chat_template: bool = False
    chat_template_file: str | None = None  # file with a Jinja template that replaces the tokenizer's
    chat_options: dict[str, Any] = field(default_factory=dict)  # variables for the chat template
    system_prompt: str | None = None  # a system message in the conversation takes precedence
    prompt_template: str = "{prompt}"  # applied to the last user message of the prompt
    max_prompt_tokens: int = bounded(512, ge=1)
    max_response_tokens: int = bounded(1024, ge=1)  # including the end token
    long_rows: RowPolicy = RowPolicy.skip
    broken_rows: RowPolicy = RowPolicy.error
    limit: int | None = bounded(None, ge=1)  # use only the first rows of the file, before rows are skipped; None: all

    def problems(self, key: str) -> Iterator[Problem]:
        names, weights = self.attributes, self.attribute_weights
        if not self.path:
            yield Problem(f"{key}.path", self.path, "not set", "give a file, a glob or a folder")
        if self.source in BUILT_IN:
            yield Problem(f"{key}.source", self.source, "it reads no file", "set it to jsonl")
        name = self.name or (stem(Path(self.path)) if isinstance(self.path, str) else "")
        if self.kind is ExampleKind.prompts and (name in EVAL_SETS or "/" in name):
            text = f"an evaluation set cannot be called {name!r}: metrics are eval/<set>/..."
            yield Problem(f"{key}.name", self.name, text, "give the source another name")
        if self.kind is ExampleKind.attributes and not names:
            yield Problem(f"{key}.attributes", names, "empty", "name the columns with the grades")
        if len(set(names)) < len(names):
            yield Problem(f"{key}.attributes", names, "one is named twice", "name each once")
        if weights is not None and len(weights) != len(names):
            text = f"{len(weights)} numbers for {len(names)} attributes"
            yield Problem(f"{key}.attribute_weights", weights, text, "give one for each")
        if unknown := sorted(self.columns.attributes.keys() - set(names)):
            text = f"{', '.join(unknown)} is not among {key}.attributes"
            yield Problem(f"{key}.columns.attributes", self.columns.attributes, text, "add it there")
