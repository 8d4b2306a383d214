"""Rows as read to rows as meant: one checked record per row, then its prompt as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlcore.data.rewriting.question import RAW
from rlcore.data.sources.config import ColumnsConfig, DataConfig
from rlcore.data.sources.readers import DataError, Table
from rlcore.data.tokenizer import Tokenizer
from rlcore.problems import nearest

Messages = list[dict[str, Any]]
_OTHER_NAMES = {
    "prompt": ("question", "problem", "instruction", "messages", "query", "input", "text"),
    "reference": ("answer", "solution", "ground_truth", "final_answer", "target", "label", "output"),
}


@dataclass(frozen=True, slots=True)
class Row:
    number: int  # line or row in the file
    uid: str
    prompt: str | Messages
    reference: str | None = None
    rewards: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class _Wrong(Exception):
    """Of one row; caught where rows are looped over."""


def parse(table: Table, names: ColumnsConfig, prefix: str) -> list[Row]:
    """Checks every row; the broken ones go to `table.problems`.

    Columns `reference`, `rewards` and `uid` may be left out of the file under their default names; an empty name means
    there is none. A row without a uid gets `<prefix>-<line or row number>`.

    Raises:
        DataError: a column that must be there is in no row, or the file has one that looks like a missing `reference`.
    """
    _check_columns(table, names)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, values in table.rows:
        try:
            row = _parse_row(number, values, names, prefix)
            if row.uid in seen:
                raise _Wrong(f"uid {row.uid!r} is that of {table.problems.unit} {seen[row.uid]}")
        except _Wrong as wrong:
            table.problems.add(number, str(wrong))
            continue
        seen[row.uid] = number
        rows.append(row)
    return rows


def _check_columns(table: Table, names: ColumnsConfig) -> None:
    defaults, present = ColumnsConfig(), ", ".join(table.columns)
    if not table.rows:  # nothing but broken rows: they are told instead
        return
    for key in ("prompt", "reference", "rewards", "uid"):
        name = getattr(names, key)
        if name in table.columns or (not name and key != "prompt"):
            continue
        guess = nearest(name, [c for c in table.columns if c != names.prompt], _OTHER_NAMES.get(key, ()))
        optional = key != "prompt" and name == getattr(defaults, key)
        if optional and not (guess and key == "reference"):
            continue
        cure = f" Did you mean data.columns.{key}={guess}?" if guess else ""
        cure += f" (data.columns.{key}='' if there is none)" if key != "prompt" else ""
        raise DataError(f"{table.path}: no column {name!r} (data.columns.{key}); the columns are {present}.{cure}")


def _parse_row(number: int, values: Mapping[str, Any], names: ColumnsConfig, prefix: str) -> Row:
    if names.prompt not in values:
        raise _Wrong(f"no column {names.prompt!r}; the row has {', '.join(values) or 'none'}")
    special = {names.prompt, names.reference, names.rewards, names.uid}
    uid = values.get(names.uid)
    if uid is None:
        uid = f"{prefix}-{number}"
    elif isinstance(uid, bool) or not isinstance(uid, str | int) or uid == "":
        raise _Wrong(f"{names.uid} must be text or a whole number, not {_shown(uid)}")
    return Row(
        number=number,
        uid=str(uid),
        prompt=_prompt(values[names.prompt], names.prompt),
        reference=_reference(values.get(names.reference), names.reference),
        rewards=_rewards(values.get(names.rewards), names.rewards),
        metadata={name: value for name, value in values.items() if name not in special},
    )


def _prompt(value: Any, name: str) -> str | Messages:
    if isinstance(value, str):
        if not value.strip():
            raise _Wrong(f"{name} is empty")
        return value
    if not isinstance(value, list):
        raise _Wrong(f"{name} must be text or a list of messages, not {_shown(value)}")
    if not value:
        raise _Wrong(f"{name} is empty")
    messages: Messages = []
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise _Wrong(f'{name} holds {_shown(message)}; a message is {{"role": text, "content": text}}')
        # tables give every message all keys of all messages
        messages.append({k: v for k, v in message.items() if v is not None})
    if messages[-1]["role"] == "assistant":
        raise _Wrong(f"{name} ends with the assistant's message; it must end where the model is to answer")
    if not any(m["content"].strip() for m in messages):
        raise _Wrong(f"{name} is empty")
    return messages


def _reference(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong(f"{name} must be text or a number, not {_shown(value)}")
    return str(value)


def _rewards(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(x, str) and x for x in listed):
        raise _Wrong(f"{name} must be the name of a reward or a list of names, not {_shown(value)}")
    return tuple(listed)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def check_rendering(config: DataConfig, tokenizer: Tokenizer) -> None:
    """Raises DataError for settings that cannot go together."""
    if "{prompt}" not in config.prompt_template:
        raise DataError(f"data.prompt_template={config.prompt_template!r} has no {{prompt}}: all prompts would be one")
    if config.chat_template and getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            "data.chat_template=true, but the tokenizer has no chat template: use an instruct model or turn it off"
        )
    if config.system_prompt is not None and not config.chat_template:
        raise DataError("data.system_prompt needs data.chat_template=true; otherwise put it into data.prompt_template")


def with_raw(metadata: Mapping[str, Any], prompt: str | Messages, template: str, chat: bool) -> Mapping[str, Any]:
    """The metadata with `raw_prompt`: what the user asks, prompt template applied, before any chat template. Nothing is
    added without chat template, for a conversation of several turns, or where the row has such a column.

    >>> with_raw({"level": 1}, [{"role": "user", "content": "1+1"}], "{prompt}=", chat=True)
    {'level': 1, 'raw_prompt': '1+1='}
    """
    if not chat or RAW in metadata:
        return metadata
    if isinstance(prompt, str):
        return {**metadata, RAW: template.replace("{prompt}", prompt)}
    said = [message for message in prompt if message["role"] not in ("system", "developer")]
    if len(said) != 1 or said[0]["role"] != "user":
        return metadata
    return {**metadata, RAW: template.replace("{prompt}", said[0]["content"])}


def render(row: Row, config: DataConfig, tokenizer: Tokenizer) -> str:
    """The prompt as text: prompt template (on the last user message of a list), system prompt, chat template.

    A row's own system message wins over `data.system_prompt`.

    Raises:
        ValueError: a list of messages without chat template, or one the chat template refuses.
    """
    if isinstance(row.prompt, str):
        text = config.prompt_template.replace("{prompt}", row.prompt)  # not format: templates hold braces (\boxed{})
        if not config.chat_template:
            return text
        messages: Messages = [{"role": "user", "content": text}]
    else:
        if not config.chat_template:
            raise ValueError(f"{config.columns.prompt} is a list of messages, which needs data.chat_template=true")
        messages = [dict(m) for m in row.prompt]
        for message in reversed(messages):
            if message["role"] == "user":
                message["content"] = config.prompt_template.replace("{prompt}", message["content"])
                break
    if config.system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the model's author: it raises what it likes
        raise ValueError(f"the chat template refuses it: {error}") from error
