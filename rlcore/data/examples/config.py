"""Settings of one source of examples: what its rows are, which column is what, how they become tokens."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rlcore.data.sources.config import SourceKind

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # arXiv 2311.09528, section 2


class ExampleKind(str, enum.Enum):
    prompts = "prompts"  # Prompt
    demonstrations = "demonstrations"  # Sample: a response, or a whole conversation
    preferences = "preferences"  # Pair: chosen and rejected
    labelled = "labelled"  # Sample with reward 1 or 0: good or bad, unpaired, as KTO wants (arXiv 2402.01306)
    attributes = "attributes"  # Sample whose reward has a part per graded attribute, as HelpSteer
    attribute_pairs = "attribute_pairs"  # Pair: two responses and a signed preference, as HelpSteer2-Preference


class RowPolicy(str, enum.Enum):
    error = "error"  # refused, all of them counted, the first few shown
    skip = "skip"  # left out and counted


class Turns(str, enum.Enum):
    """What becomes of a demonstration in which the assistant speaks more than once."""

    all = "all"  # one sample: the prompt ends before the first answer, all answers are trained on
    last = "last"  # one sample: the prompt ends before the last answer
    each = "each"  # a sample per answer, each with all that was said before as its prompt


@dataclass
class ExampleColumnsConfig:
    """Names of the columns in the user's file; `a.b` reads inside a column that holds objects; "" for an optional one:
    there is none."""

    prompt: str = "prompt"
    response: str = "response"  # demonstrations, attributes
    messages: str = "messages"  # demonstrations: the whole conversation, in place of prompt and response
    chosen: str = "chosen"
    rejected: str = "rejected"
    score_chosen: str = "score_chosen"
    score_rejected: str = "score_rejected"
    strength: str = "strength"  # preferences; `margin` is read where this is left alone and the file has only that
    completion: str = "completion"  # labelled
    label: str = "label"  # labelled: true or false
    response_1: str = "response_1"  # attribute_pairs
    response_2: str = "response_2"
    preference: str = "preference_strength"  # attribute_pairs: below 0 the first is better, above 0 the second, 0 a tie
    uid: str = "uid"  # optional; without it the uid is made of the source's name and the row number
    reference: str = "reference"  # optional: the expected answer, for verifiers
    rewards: str = "rewards"  # optional: name or names of this row's rewards
    tools: str = "tools"  # optional: list of JSON schemas, or its JSON, for the chat template
    attributes: dict[str, str] = field(default_factory=dict)  # attribute: its column, where they differ


@dataclass
class ExamplesConfig:
    """One source of examples of one kind."""

    kind: ExampleKind = ExampleKind.demonstrations
    source: SourceKind = SourceKind.jsonl  # or file, csv, parquet, dataset
    path: Any = ""  # path, glob, folder, or a list of them
    split: str = ""  # of a folder or glob with several splits; "": train
    name: str = ""  # of the source: records carry it, uids begin with it; "": the file's name without its ending
    columns: ExampleColumnsConfig = field(default_factory=ExampleColumnsConfig)
    attributes: list[str] = field(default_factory=lambda: list(HELPSTEER))
    attribute_weights: list[float] | None = None  # of the samples' score, as many as attributes; None: their mean
    turns: Turns = Turns.all
    chat_template: bool = False
    chat_template_file: str | None = None  # a Jinja template instead of the tokenizer's
    chat_options: dict[str, Any] = field(default_factory=dict)  # variables of the template
    system_prompt: str | None = None  # a conversation's own system message wins
    prompt_template: str = "{prompt}"  # applied to the prompt's last user message
    max_prompt_tokens: int = 512
    max_response_tokens: int = 1024  # the end token included
    long_rows: RowPolicy = RowPolicy.skip
    broken_rows: RowPolicy = RowPolicy.error
    limit: int | None = None  # first rows of the file; the rest is left out before anything is skipped
