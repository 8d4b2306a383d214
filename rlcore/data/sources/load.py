"""Loads training and held-out prompts from any source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlcore.data.sources import addition, constrained, procedural, readers, rows
from rlcore.data.sources.config import BUILT_IN, EVAL_SETS, DataConfig, LongPrompt, SourceKind
from rlcore.data.sources.problem import BrokenRow
from rlcore.data.sources.readers import DataError, Place, Problems, Table
from rlcore.data.sources.render import PromptRenderer
from rlcore.data.sources.rows import Row
from rlcore.data.tokenizer import Tokenizer
from rlcore.types import Prompt


@dataclass(frozen=True, slots=True)
class PromptData:
    """Training and held-out prompts. `counts`, for the start-up table:

    rows                    read, of all files
    skipped_too_long        skipped: more than `max_prompt_tokens`
    skipped_seen_in_eval    skipped in training: the same text as a held-out prompt of the same file
    skipped_copies          procedural tasks only: generated, but the same question as an earlier row
    also_in_eval            trained, although the eval file has the same text: evaluation is too optimistic
    without_reference       prompts whose reference is None
    longest_prompt_tokens   over the kept prompts
    train, eval             prompts kept: rows = train + eval + all skipped counts
    """

    train: list[Prompt]
    eval: list[Prompt]
    counts: dict[str, int]


def load_data(
    config: DataConfig, tokenizer: Tokenizer, seed: int, tools: Sequence[Mapping[str, Any]] | None = None
) -> PromptData:
    """Reads, renders and tokenises all rows.

    Args:
        tools: JSON schemas for all rows that have none, of an environment; prompts keep their messages. None: no
            environment.

    Raises:
        DataError: conflicting settings, unreadable files, broken rows (the count and the first few), duplicate uids, no
            rows left to train on.
    """
    renderer = PromptRenderer(config, tokenizer, "data", tools or (), keep_messages=tools is not None)
    counts: Counter[str] = Counter(
        dict.fromkeys(("rows", "skipped_too_long", "skipped_seen_in_eval", "also_in_eval", "without_reference"), 0)
    )
    if config.source in BUILT_IN:
        train, held = _load_built_in(config, renderer, seed, counts)
    else:
        if not config.train:
            raise DataError(f"data.source={config.source.value} needs data.train, the path to read")
        table = readers.read(config.source, config.train, "data.train", config.train_split)
        train = _prompts_of(table, config, renderer, counts)
        if config.eval is None:
            train, held = _hold_out(train, config.num_eval, seed, counts)
        else:
            held = _held_out_files(table, train, config, renderer, counts)
            held_texts = {p.text for p in held}
            counts["also_in_eval"] = sum(p.text in held_texts for p in train)
    if not train:
        raise DataError(f"nothing to train on: {dict(counts)}; data.max_prompt_tokens is {config.max_prompt_tokens}")
    kept = train + held
    counts["without_reference"] = sum(p.reference is None for p in kept)
    counts["longest_prompt_tokens"] = max(len(p.token_ids) for p in kept)
    counts["train"], counts["eval"] = len(train), len(held)
    return PromptData(train, held, dict(counts))


def _load_built_in(
    config: DataConfig, renderer: PromptRenderer, seed: int, counts: Counter[str]
) -> tuple[list[Prompt], list[Prompt]]:
    result = []
    for made in _made(config, seed, counts):
        counts["rows"] += len(made)
        problems = Problems(config.source.value)
        result.append(_to_prompts(made, config, renderer, problems, counts))
        problems.check(len(made))
    return result[0], result[1]


def _made(config: DataConfig, seed: int, counts: Counter[str]) -> tuple[list[Row], list[Row]]:
    """Rows of a built-in source, as (train, held out)."""
    try:
        if config.source is SourceKind.procedural:
            made = procedural.make(config.procedural, config.num_eval, seed)
            counts["rows"] = counts["skipped_copies"] = made.num_copies
            return made.train, made.eval
        if config.source is SourceKind.constraints:
            return constrained.rows(config.num_eval, seed)
        train, held = addition.problems(config.num_eval, seed)
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
    return _additions(train), _additions(held)


def _additions(problems: list[tuple[int, int]]) -> list[Row]:
    return [
        Row(Place(a * 100 + b), f"addition-{a}+{b}", addition.prompt(a, b), addition.reference(a, b))
        for a, b in problems
    ]


def _held_out_files(
    table: Table, train: list[Prompt], config: DataConfig, renderer: PromptRenderer, counts: Counter[str]
) -> list[Prompt]:
    """Prompts of the sets of `data.eval`; each has the name of its set as `source`, "" if it has none."""
    sets = config.eval if isinstance(config.eval, Mapping) else {"": config.eval}
    held: list[Prompt] = []
    for name, given in sets.items():
        if name in EVAL_SETS or "/" in name:
            raise DataError(f"data.eval: a set cannot be called {name!r}: metrics are eval/<set>/...; rename it")
        prompts = _prompts_of(_eval_table(table, config, name, given), config, renderer, counts)
        if name and not prompts:
            raise DataError(f"data.eval.{name}={given} leaves no prompt: {dict(counts)}")
        _check_uids(train + held, prompts)
        held += [replace(prompt, source=name) for prompt in prompts]
    return held


def _eval_table(train: Table, config: DataConfig, name: str, given: Any) -> Table:
    """Held-out rows of one set from separate files; their uids must differ from the training uids."""
    key = f"data.eval.{name}" if name else "data.eval"
    table = readers.read(config.source, given, key, config.eval_split, for_eval=True)
    both = {file.resolve() for file in train.files} & {file.resolve() for file in table.files}
    if both:
        raise DataError(
            f"{key} is data.train: both read {min(both)}; unset data.eval to hold data.num_eval rows out of training"
        )
    if name or {place.label for place, _ in train.rows} & {place.label for place, _ in table.rows}:
        prefix = name or "eval"
        table.rows = [(place._replace(label=f"{prefix}-{place.label}"), values) for place, values in table.rows]
    return table


def _prompts_of(table: Table, config: DataConfig, renderer: PromptRenderer, counts: Counter[str]) -> list[Prompt]:
    prompts = _to_prompts(rows.parse(table, config.columns), config, renderer, table.problems, counts)
    table.problems.check(table.num_read)
    counts["rows"] += table.num_read
    return prompts


def _to_prompts(
    parsed: list[Row], config: DataConfig, renderer: PromptRenderer, problems: Problems, counts: Counter[str]
) -> list[Prompt]:
    rendered: list[tuple[Row, str]] = []
    for row in parsed:
        try:
            rendered.append((row, renderer.prompt(row.prompt, row.tools)))
        except BrokenRow as broken:
            problems.add(row.place, str(broken))
    prompts = []
    for (row, text), token_ids in zip(rendered, renderer.ids([text for _, text in rendered]), strict=True):
        if not token_ids:
            problems.add(row.place, f"{text[:60]!r} gives no token")
        elif len(token_ids) <= config.max_prompt_tokens:
            metadata = renderer.with_raw(row.metadata, row.prompt)
            prompts.append(Prompt(row.uid, token_ids, text, row.reference, row.rewards, metadata))
        elif config.long_prompts is LongPrompt.skip:
            counts["skipped_too_long"] += 1
        else:
            problems.add(row.place, f"{len(token_ids)} tokens, data.max_prompt_tokens is {config.max_prompt_tokens}")
    return prompts


def _hold_out(
    prompts: list[Prompt], num_eval: int, seed: int, counts: Counter[str]
) -> tuple[list[Prompt], list[Prompt]]:
    """Distinct texts, drawn by seed; training skips their copies."""
    if num_eval < 0:
        raise DataError(f"data.num_eval={num_eval} is negative")
    first = list({p.text: i for i, p in reversed(list(enumerate(prompts)))}.values())
    if prompts and num_eval >= len(first):
        raise DataError(
            f"data.num_eval={num_eval} rows cannot be held out of {len(first)} different prompts: lower it or give "
            "data.eval"
        )
    chosen = np.random.default_rng([seed, 0xE7A1]).permutation(len(first))[:num_eval]
    held_rows = sorted(first[i] for i in chosen)
    held = [prompts[i] for i in held_rows]
    texts = {p.text for p in held}
    train = [p for p in prompts if p.text not in texts]
    counts["skipped_seen_in_eval"] = len(prompts) - len(held) - len(train)
    return train, held


def _check_uids(train: list[Prompt], held: list[Prompt]) -> None:
    both = sorted({p.uid for p in train} & {p.uid for p in held})
    if both:
        raise DataError(
            f"{len(both)} uids are in data.train and in data.eval, or in two of its sets, as "
            f"{', '.join(map(repr, both[:3]))}: make them unique over both files, or set data.columns.uid='' to "
            "generate them"
        )
