"""Conversations as data sets write them, to one form: checked lists of {"role", "content"} messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlcore.data.sources.rows import Messages, _shown, _Wrong

ROLES = ("system", "developer", "user", "assistant", "tool")
_ASKERS = ("user", "tool")  # after whom the model answers
_OTHER_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
                "chatgpt": "assistant", "function": "tool", "observation": "tool"}  # fmt: skip
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")  # Anthropic's HH, arXiv 2204.05862
ANSWER_MARK = "\n\nAssistant:"
Said = str | Messages


def said(value: Any, name: str) -> Said:
    """Text as it is; a list of messages checked one by one, null keys dropped (tables give every message all keys).

    ShareGPT's {"from": "human", "value": ...} is read as {"role": "user", "content": ...}, for whole messages only: an
    unknown role in the usual form is an error, not guessed at.

    Raises:
        _Wrong: neither text nor messages, empty, or an unknown role.
    """
    if isinstance(value, str):
        if not value.strip():
            raise _Wrong(f"{name} is empty")
        return value
    if not isinstance(value, list):
        raise _Wrong(f"{name} must be text or a list of messages, not {_shown(value)}")
    if not value:
        raise _Wrong(f"{name} is empty")
    return [_message(one, name) for one in value]


def _message(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Wrong(f'{name} holds {_shown(value)}; a message is {{"role": text, "content": text}}')
    message = {key: held for key, held in value.items() if held is not None}
    if "role" not in message and isinstance(message.get("from"), str) and "value" in message:
        speaker = message.pop("from")
        message = {"role": _OTHER_ROLES.get(speaker, speaker), "content": message.pop("value"), **message}
    if message.get("role") == "assistant" and message.get("tool_calls"):
        message.setdefault("content", "")
    if not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise _Wrong(f'{name} holds {_shown(value)}; a message is {{"role": text, "content": text}}')
    if message["role"] not in ROLES:
        raise _Wrong(f"{name} has a message of the unknown role {message['role']!r}; the roles are {', '.join(ROLES)}")
    return message


def check_turns(messages: Messages, name: str) -> None:
    """System messages first, then the user, then user and assistant by turns; tools speak after the assistant.

    Raises:
        _Wrong: another order, or a user's or assistant's message without text.
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
            raise _Wrong(
                f"{name}: turns out of order: message {place} is {_article(role)} message {after}; "
                f"{' or '.join(allowed)} is wanted there"
            )
        if role in ("user", "assistant") and not message["content"].strip() and not message.get("tool_calls"):
            raise _Wrong(f"{name}: message {place} ({role}) is empty")
        before = "system" if role == "developer" else role


def _article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' and role != 'user' else 'a'} {role}"


def check_asks(messages: Messages, name: str) -> None:
    """Raises _Wrong unless the messages end where the model is to answer."""
    check_turns(messages, name)
    if messages[-1]["role"] not in _ASKERS:
        role = messages[-1]["role"]
        raise _Wrong(f"{name} ends with {_article(role)} message; it must end where the model is to answer")


def check_answers(messages: Messages, name: str) -> None:
    """Raises _Wrong unless they begin and end with the assistant."""
    for place, word in ((0, "begins"), (-1, "ends")):
        if messages[place]["role"] != "assistant":
            raise _Wrong(f"{name} {word} with {_article(messages[place]['role'])} message, not with the assistant's")


def is_transcript(text: str) -> bool:
    """Whether a text is a dialogue written as `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
    return text.lstrip().startswith("Human:") and ANSWER_MARK in text


def transcript(text: str) -> Messages:
    """Messages of such a dialogue, without the white space around each."""
    parts = _SPEAKER.split("\n\n" + text.lstrip())[1:]
    return [
        {"role": _OTHER_ROLES.get(speaker.lower(), speaker.lower()), "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def answer_places(messages: Messages) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def common_messages(one: Messages, other: Messages) -> int:
    """How many first messages both share, counted back to where the model is to answer; 0 when there is no such place.

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
    """How many first characters of both are the prompt: of transcripts up to the last `Assistant:` they share, of other
    texts up to the last white space they share, so that no word is cut; 0 when they share none.

    >>> "The sky is blue."[: common_text("The sky is blue.", "The sky is blunt.")]
    'The sky is'
    """
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = one[:length]
    if is_transcript(one) and is_transcript(other):
        return shared.rfind(ANSWER_MARK) + len(ANSWER_MARK) if ANSWER_MARK in shared else 0
    cut = max((place for place, letter in enumerate(shared) if letter.isspace()), default=0)
    return cut if shared[:cut].strip() else 0
