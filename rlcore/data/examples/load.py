"""Loads examples of any kind from files into records: prompts, samples, pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcore.data.examples.columns import check_columns, describe
from rlcore.data.examples.config import (
    ExampleColumnsConfig,
    ExampleKind,
    ExamplesConfig,
    RowPolicy,
    Turns,
)
from rlcore.data.examples.render import Answer, Rendered, Renderer
from rlcore.data.examples.rows import Draft, Tie, drafts
from rlcore.data.sources import readers
from rlcore.data.sources.problem import BrokenRow
from rlcore.data.sources.readers import DataError, Place, Problems, Table
from rlcore.data.sources.render import prompt_problems
from rlcore.data.sources.rows import collect
from rlcore.data.tokenizer import Tokenizer
from rlcore.problems import setting_problems
from rlcore.types import Pair, Prompt, Sample

__all__ = [
    "ExampleColumnsConfig", "ExampleKind", "ExamplesConfig", "Loaded", "RowPolicy", "Turns", "describe",
    "load_examples",
]  # fmt: skip

Record = Prompt | Sample | Pair


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records of one kind, and counts of the rows. `counts`:

    rows                    read
    extra_turns             examples beyond one per row, with `turns=each`
    records                 kept; rows + extra_turns = records + all skipped counts
    skipped_by_limit        rows after the first `limit`
    skipped_broken          invalid rows, with `broken_rows=skip`; `broken` has the first few reasons
    skipped_ties            of attribute_pairs: neither response preferred
    skipped_long_prompt     prompt over `max_prompt_tokens`
    skipped_long_response   a response over `max_response_tokens`, the prompt not too long
    borders_cut             kept, tokenised part by part: tokenised as one text, a token would reach from the prompt
                            into the response (or from turn to turn)
    longest_prompt_tokens, longest_response_tokens  of those kept
    """

    name: str
    records: list[Record]
    counts: dict[str, int]
    broken: list[str]
    notes: list[str]  # messages for the user about template and tokenizer

    @property
    def prompts(self) -> list[Prompt]:
        """The records as prompts. Raises TypeError for records of another kind."""
        return [r for r in self.records if _is(r, Prompt)]  # type: ignore[misc]

    @property
    def samples(self) -> list[Sample]:
        return [r for r in self.records if _is(r, Sample)]  # type: ignore[misc]

    @property
    def pairs(self) -> list[Pair]:
        return [r for r in self.records if _is(r, Pair)]  # type: ignore[misc]


def _is(record: Record, kind: type) -> bool:
    if not isinstance(record, kind):
        raise TypeError(f"the records are of type {type(record).__name__}, not {kind.__name__}")
    return True


def load_examples(
    config: ExamplesConfig, tokenizer: Tokenizer, key: str = "examples",
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Loaded:  # fmt: skip
    """Reads, checks, renders and tokenises one source.

    uids come from the file, else they are `<source name>-<line or row number>`, followed by `.<k>` if a row gives
    several samples (`turns=each`). Sample ids are `<uid>#0.0`, and `<uid>#0.1` for the rejected response of a pair.
    Other columns go to the metadata of the prompt.

    Args:
        key: path of the config for error messages, as in `<key>.chat_template`.
        tools: of an environment, for prompts; see `rlcore.data.sources.load.load_data`.

    Raises:
        DataError: conflicting settings, an unreadable file, missing columns, broken rows (the count and the first few)
            unless they are skipped, duplicate uids, no rows left.
    """
    if found := [*map(str, setting_problems(config, key)), *prompt_problems(config, tokenizer, key)]:
        raise DataError("\n".join(found))
    played = config.kind is ExampleKind.prompts and tools is not None
    renderer = Renderer(config, tokenizer, key, tools if played else None)
    table = readers.read(config.source, config.path, f"{key}.path", config.split, label=config.name)
    name = config.name or table.name
    counts: Counter[str] = Counter(dict.fromkeys(("rows", "extra_turns", "skipped_by_limit", "skipped_broken"), 0))
    counts["rows"] = table.num_read
    if config.limit is not None:
        _cut(table, config.limit, counts)
    maker = _Maker(config, renderer, table.problems, counts)
    records = maker.make(_parse(table, config, key, counts), name)
    if config.broken_rows is RowPolicy.error:
        table.problems.check(table.num_read)
    counts["skipped_broken"] = table.problems.count
    if not records:
        told = "\n".join(table.problems.first)
        raise DataError(f"{table.path}: no rows are left: {dict(counts)}" + (f"\n{told}" if told else ""))
    counts["records"] = len(records)
    return Loaded(name, records, dict(counts), list(table.problems.first), maker.notes(tokenizer))


def _cut(table: Table, limit: int, counts: Counter[str]) -> None:
    """Drops rows after the first `limit`; unreadable lines were already counted while reading."""
    counts["skipped_by_limit"] = max(0, len(table.rows) - limit)
    del table.rows[limit:]


def _parse(table: Table, config: ExamplesConfig, key: str, counts: Counter[str]) -> list[Draft]:
    layout = check_columns(table, config, key)
    counts["skipped_ties"] = 0

    def make(place: Place, values: Mapping[str, Any]) -> list[Draft]:
        try:
            return drafts(place, values, config, layout)
        except Tie:
            counts["skipped_ties"] += 1
            return []

    return collect(table, make)


class _Maker:
    """Converts drafts to records. A row with one broken example gives no record."""

    def __init__(self, config: ExamplesConfig, renderer: Renderer, problems: Problems, counts: Counter[str]) -> None:
        self._config, self._renderer, self._problems, self._counts = config, renderer, problems, counts
        self._broken: set[Place] = set()
        self._long: dict[str, list[Place]] = {"skipped_long_prompt": [], "skipped_long_response": []}

    def make(self, made: list[Draft], source: str) -> list[Record]:
        prompts, texts = self._renderer.prompts, list[tuple[Draft, str, list[Rendered]]]()
        for draft in made:
            try:
                rendered = [self._renderer.render(draft.row, answer) for answer in draft.answers]
                text = rendered[0].prompt if rendered else prompts.prompt(draft.row.prompt, draft.row.tools)
                texts.append((draft, text, rendered))
            except BrokenRow as wrong:
                self._add(draft, str(wrong))
        prompt_ids = prompts.ids([prompt for _, prompt, _ in texts])
        answers = iter(self._renderer.answers([r for _, _, rendered in texts for r in rendered]))
        records: list[tuple[Draft, Record, bool]] = []
        for (draft, text, rendered), ids in zip(texts, prompt_ids, strict=True):
            own = [next(answers) for _ in rendered]
            if self._fits(draft, text, ids, own):
                row = draft.row
                metadata = prompts.with_raw(row.metadata, row.prompt)
                prompt = Prompt(row.uid, ids, text, row.reference, row.rewards, metadata, source)
                records.append((draft, _record(draft, prompt, own), any(a.cut for a in own)))
        return self._kept(made, records)

    def _kept(self, made: list[Draft], records: list[tuple[Draft, Record, bool]]) -> list[Record]:
        whole = [one for one in records if one[0].row.place not in self._broken]
        used = [draft.row.place for draft in made if draft.row.place not in self._broken]
        self._counts["extra_turns"] = len(used) - len(set(used))
        self._counts["borders_cut"] = sum(cut for _, _, cut in whole)
        sizes = [_lengths(record) for _, record, _ in whole]
        self._counts["longest_prompt_tokens"] = max((prompt for prompt, _ in sizes), default=0)
        self._counts["longest_response_tokens"] = max((response for _, response in sizes), default=0)
        for name, numbers in self._long.items():
            self._counts[name] = sum(number not in self._broken for number in numbers)
        return [record for _, record, _ in whole]

    def _fits(self, draft: Draft, text: str, ids: tuple[int, ...], answers: list[Answer]) -> bool:
        config = self._config
        if not ids:
            return self._add(draft, f"{text[:60]!r} gives no token")
        if len(answers) == 2 and answers[0].token_ids == answers[1].token_ids:
            return self._add(draft, "both responses have the same tokens: neither is better")
        longest = max((len(a.token_ids) for a in answers), default=0)
        if len(ids) > config.max_prompt_tokens:
            return self._too_long(draft, "prompt", len(ids), config.max_prompt_tokens)
        if longest > config.max_response_tokens:
            return self._too_long(draft, "response", longest, config.max_response_tokens)
        return True

    def _too_long(self, draft: Draft, what: str, num_tokens: int, limit: int) -> bool:
        if self._config.long_rows is RowPolicy.error:
            return self._add(draft, f"the {what} has {num_tokens} tokens, max_{what}_tokens is {limit}")
        self._long[f"skipped_long_{what}"].append(draft.row.place)
        return False

    def _add(self, draft: Draft, reason: str) -> bool:
        if draft.row.place not in self._broken:
            self._broken.add(draft.row.place)
            self._problems.add(draft.row.place, reason)
        return False

    def notes(self, tokenizer: Tokenizer) -> list[str]:
        end, eos = self._renderer.end_text.strip(), str(getattr(tokenizer, "eos_token", ""))
        notes = []
        if self._config.chat_template and end and end != eos:
            notes.append(
                f"the chat template ends a turn with {end}, the tokenizer's end token is {eos}: responses end with "
                f"{end}, and sampling must stop there"
            )
        if self._config.chat_template and not end:
            notes.append(f"the chat template ends a turn with no special token: {eos} is appended to every response")
        return notes


def _lengths(record: Record) -> tuple[int, int]:
    if isinstance(record, Prompt):
        return len(record.token_ids), 0
    responses = [record] if isinstance(record, Sample) else [record.chosen, record.rejected]
    return len(record.prompt.token_ids), max(len(r.token_ids) for r in responses)


def _record(draft: Draft, prompt: Prompt, answers: list[Answer]) -> Record:
    samples = [
        Sample(prompt, f"{draft.uid}#0.{k}", a.text, a.token_ids, a.loss_mask, reward=draft.rewards[k])
        for k, a in enumerate(answers)
    ]
    if not samples:
        return prompt
    return samples[0] if len(samples) == 1 else Pair(prompt, samples[0], samples[1], draft.strength)
