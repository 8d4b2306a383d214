"""Converts conversations of common layouts to checked lists of {"role", "content"} messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlcore.data.sources.problem import BrokenRow, shown

ROLES = ("system", "developer", "user", "assistant", "tool")
_ASKERS = ("user", "tool")  # roles that the model answers
_OTHER_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
                "chatgpt": "assistant", "function": "tool", "observation": "tool"}  # fmt: skip
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")  # Anthropic's HH, arXiv 2204.05862
ANSWER_MARK = "\n\nAssistant:"
Messages = list[dict[str, Any]]
Said = str | Messages


def said(value: Any, name: str) -> Said:
    """Text, or a list of checked messages without null keys (tables give every message all keys).

    ShareGPT's {"from": "human", "value": ...} is read as {"role": "user", "content": ...}, only if the message has this
    layout: an unknown role in the usual layout is an error.

    Raises:
        BrokenRow: neither text nor messages, empty, or an unknown role.
    """
    if isinstance(value, str):
        if not value.strip():
            raise BrokenRow(f"{name} is empty")
        return value
    if not isinstance(value, list):
        raise BrokenRow(f"{name} must be text or a list of messages, not {shown(value)}")
    if not value:
        raise BrokenRow(f"{name} is empty")
    return [_message(one, name) for one in value]


def _message(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BrokenRow(f'{name} holds {shown(value)}; a message is {{"role": text, "content": text}}')
    message = {key: inner for key, inner in value.items() if inner is not None}
    if "role" not in message and isinstance(message.get("from"), str) and "value" in message:
        speaker = message.pop("from")
        message = {"role": _OTHER_ROLES.get(speaker, speaker), "content": message.pop("value"), **message}
    if message.get("role") == "assistant" and message.get("tool_calls"):
        message.setdefault("content", "")
    if isinstance(message.get("content"), list):
        message["content"] = _text_of(message["content"], name)
    if not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise BrokenRow(f'{name} holds {shown(value)}; a message is {{"role": text, "content": text}}')
    if message["role"] not in ROLES:
        role, known = message["role"], ", ".join(ROLES)
        raise BrokenRow(f"{name} has a message of the unknown role {role!r}; the roles are {known}")
    return message


def _text_of(parts: list[Any], name: str) -> str:
    """The text of a message in parts, joined by line breaks.

    Raises:
        BrokenRow: a part that is not text, for example an image.
    """
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else None
            what = f"a part of type {kind!r}" if kind not in (None, "text") else f"the part {shown(part)}"
            raise BrokenRow(f'{name} holds {what}; only text can be read: {{"type": "text", "text": text}}')
        texts.append(text)
    return "\n".join(texts)


def check_turns(messages: Messages, name: str) -> None:
    """Checks the order: system messages, then user and assistant in turns; tool messages follow the assistant.

    Raises:
        BrokenRow: another order, or a user's or assistant's message without text.
    """
    before = "system"
    for place, message in enumerate(messages):
        role = message["role"]
        allowed = {
            "system": ("system", "developer", "user"),
            "user": ("assistant",),
            "assistant": ("user", "tool"),
            "tool": ("tool", "assistant"),
        }[before]
        if role not in allowed:
            after = f"after {_article(messages[place - 1]['role'])}" if place else "at the start"
            raise BrokenRow(
                f"{name}: turns out of order: message {place} is {_article(role)} message {after}; "
                f"{' or '.join(allowed)} is wanted there"
            )
        if role in ("user", "assistant") and not message["content"].strip() and not message.get("tool_calls"):
            raise BrokenRow(f"{name}: message {place} ({role}) is empty")
        before = "system" if role == "developer" else role


def _article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' and role != 'user' else 'a'} {role}"


def check_asks_model(messages: Messages, name: str) -> None:
    """Raises BrokenRow if the last message is the assistant's. The chat template checks the order of turns."""
    if messages[-1]["role"] == "assistant":
        raise BrokenRow(f"{name} ends with the assistant's message; the last one must be one that the model answers")
    if not any(message["content"].strip() for message in messages):
        raise BrokenRow(f"{name} is empty")


def check_asks(messages: Messages, name: str) -> None:
    """Raises BrokenRow unless the last message is one that the model answers."""
    check_turns(messages, name)
    if messages[-1]["role"] not in _ASKERS:
        role = messages[-1]["role"]
        raise BrokenRow(f"{name} ends with {_article(role)} message; the last one must be one that the model answers")


def check_answers(messages: Messages, name: str) -> None:
    """Raises BrokenRow unless the first and the last message are the assistant's."""
    for place, word in ((0, "begins"), (-1, "ends")):
        if messages[place]["role"] != "assistant":
            raise BrokenRow(f"{name} {word} with {_article(messages[place]['role'])} message, not with the assistant's")


def is_transcript(text: str) -> bool:
    """True if the text is a dialogue in the form `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
    return text.lstrip().startswith("Human:") and ANSWER_MARK in text


def transcript(text: str) -> Messages:
    """Messages of such a dialogue, without surrounding white space."""
    parts = _SPEAKER.split("\n\n" + text.lstrip())[1:]
    return [
        {"role": _OTHER_ROLES.get(speaker.lower(), speaker.lower()), "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def answer_places(messages: Messages) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def common_messages(one: Messages, other: Messages) -> int:
    """Number of common first messages, up to the last one that the model answers; 0 without such a message.

    >>> ask = {"role": "user", "content": "1+1"}
    >>> common_messages([ask, {"role": "assistant", "content": "2"}], [ask, {"role": "assistant", "content": "3"}])
    1
    """
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    while count and one[count - 1]["role"] not in _ASKERS:
        count -= 1
    return count if count < min(len(one), len(other)) else 0


def common_text(one: str, other: str) -> int:
    """Length in characters of the common prompt: for transcripts up to the last common `Assistant:`, for other texts up
    to the last common white space, so that no word is cut; 0 if there is none.

    >>> "The sky is blue."[: common_text("The sky is blue.", "The sky is blunt.")]
    'The sky is'
    """
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = one[:length]
    if is_transcript(one) and is_transcript(other):
        return shared.rfind(ANSWER_MARK) + len(ANSWER_MARK) if ANSWER_MARK in shared else 0
    cut = max((place for place, letter in enumerate(shared) if letter.isspace()), default=0)
    return cut if shared[:cut].strip() else 0
