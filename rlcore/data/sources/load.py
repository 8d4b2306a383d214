"""Prompts to train on and prompts held out, from any source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlcore.data.sources import addition, constrained, procedural, readers, rows
from rlcore.data.sources.config import BUILT_IN, DataConfig, LongPrompt, SourceKind
from rlcore.data.sources.readers import DataError, Problems
from rlcore.data.sources.rows import Row
from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.types import Prompt


@dataclass(frozen=True, slots=True)
class PromptData:
    """`counts` holds, for the start-up table:

    rows                    read, of all files
    skipped_too_long        left out: more than `max_prompt_tokens`
    skipped_seen_in_eval    left out of training: the same text as a prompt held out of the same file
    skipped_copies          of procedural tasks: made and left out, the same question as a row made before
    also_in_eval            trained on although the eval file has the same text: not left out, but eval flatters
    without_reference       prompts whose reference is None
    longest_prompt_tokens   of those kept
    train, eval             prompts kept: rows = train + eval + all skipped counts
    """

    train: list[Prompt]
    eval: list[Prompt]
    counts: dict[str, int]


def load_data(config: DataConfig, tokenizer: Tokenizer, seed: int) -> PromptData:
    """Reads, renders and tokenises everything once.

    Raises:
        DataError: settings that cannot go together, files that cannot be read, broken rows (all counted, the first few
            shown), uids that occur twice, nothing left to train on.
    """
    rows.check_rendering(config, tokenizer)
    counts: Counter[str] = Counter(
        dict.fromkeys(("rows", "skipped_too_long", "skipped_seen_in_eval", "also_in_eval", "without_reference"), 0)
    )
    if config.source in BUILT_IN:
        train, held = _load_built_in(config, tokenizer, seed, counts)
    else:
        train = _load_file(config, tokenizer, "train", counts)
        if config.eval is None:
            train, held = _hold_out(train, config.num_eval, seed, counts)
        else:
            held = _load_file(config, tokenizer, "eval", counts)
            _check_uids(train, held)
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
    config: DataConfig, tokenizer: Tokenizer, seed: int, counts: Counter[str]
) -> tuple[list[Prompt], list[Prompt]]:
    result = []
    for made in _made(config, seed, counts):
        counts["rows"] += len(made)
        problems = Problems(Path(config.source.value), "row")
        result.append(_to_prompts(made, config, tokenizer, problems, counts))
        problems.check(len(made))
    return result[0], result[1]


def _made(config: DataConfig, seed: int, counts: Counter[str]) -> tuple[list[Row], list[Row]]:
    """Rows of a built-in source as (train, held out)."""
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
    return [Row(a * 100 + b, f"addition-{a}+{b}", addition.prompt(a, b), addition.reference(a, b)) for a, b in problems]


def _load_file(config: DataConfig, tokenizer: Tokenizer, which: str, counts: Counter[str]) -> list[Prompt]:
    path = config.train if which == "train" else config.eval
    if not path:
        raise DataError(f"data.source={config.source.value} needs data.{which}, the path to read")
    if which == "eval" and Path(path).resolve() == Path(config.train or "").resolve():
        raise DataError("data.eval is data.train: leave data.eval out to hold data.num_eval rows out of training")
    table = readers.read(config.source, path, f"data.{which}")
    prefix = table.path.resolve().stem
    if which == "eval" and prefix == Path(config.train or "").resolve().stem:
        prefix = f"eval-{prefix}"
    parsed = rows.parse(table, config.columns, prefix)
    prompts = _to_prompts(parsed, config, tokenizer, table.problems, counts)
    table.problems.check(table.num_read)
    counts["rows"] += table.num_read
    return prompts


def _to_prompts(
    parsed: list[Row], config: DataConfig, tokenizer: Tokenizer, problems: Problems, counts: Counter[str]
) -> list[Prompt]:
    rendered: list[tuple[Row, str]] = []
    for row in parsed:
        try:
            rendered.append((row, rows.render(row, config, tokenizer)))
        except ValueError as error:
            problems.add(row.number, str(error))
    # a chat template writes the start token itself
    ids = encode(tokenizer, [text for _, text in rendered], special=not config.chat_template)
    prompts = []
    for (row, text), token_ids in zip(rendered, ids, strict=True):
        if not token_ids:
            problems.add(row.number, f"{text[:60]!r} gives no token")
        elif len(token_ids) <= config.max_prompt_tokens:
            metadata = rows.with_raw(row.metadata, row.prompt, config.prompt_template, config.chat_template)
            prompts.append(Prompt(row.uid, token_ids, text, row.reference, row.rewards, metadata))
        elif config.long_prompts is LongPrompt.skip:
            counts["skipped_too_long"] += 1
        else:
            problems.add(row.number, f"{len(token_ids)} tokens, data.max_prompt_tokens is {config.max_prompt_tokens}")
    return prompts


def _hold_out(
    prompts: list[Prompt], num_eval: int, seed: int, counts: Counter[str]
) -> tuple[list[Prompt], list[Prompt]]:
    """Different texts, drawn by seed; their copies, if any, are left out of training."""
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
            f"{len(both)} uids are in data.train and in data.eval, as {', '.join(map(repr, both[:3]))}: make them "
            "unique over both files, or set data.columns.uid='' to have them made"
        )
