"""From conversations to tokens. What was sampled is never rendered again: a renderer gives the tokens of the first
context, and those that follow a sampled turn.

Text of environments is data: special tokens in it (`<|im_end|>`) are encoded as their characters.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlcore.agents.config import ToolFormat
from rlcore.agents.tools import Call, calls_in
from rlcore.data.sources.render import MESSAGES
from rlcore.types import Prompt

Message = Mapping[str, Any]
Ids = list[int]
_MARK = ("\ue000", "\ue001")  # around the number of a held text; characters for private use
_SPLIT = re.compile(f"{_MARK[0]}(\\d+){_MARK[1]}")


@dataclass(frozen=True, slots=True)
class Following:
    """Tokens after a sampled turn: `ids` are appended to the exact tokens so far, or with `breaks` they are a whole new
    context, because the template shows the conversation in another way than the model has seen it.
    """

    ids: Ids
    breaks: bool = False


@dataclass
class Conversation:
    """What was said so far, for the template.

    Texts with special tokens are held back: messages have marks in their place, so that the template's own special
    tokens can be told from theirs.
    """

    messages: list[dict[str, Any]]
    held: list[str] = field(default_factory=list)
    text: str = ""  # rendered, up to where the model's turn begins

    def copy(self) -> Conversation:
        return Conversation([*self.messages], [*self.held], self.text)

    def mark(self, text: str) -> str:
        self.held.append(text)
        return f"{_MARK[0]}{len(self.held) - 1}{_MARK[1]}"


class Renderer(Protocol):
    """Renders and reads conversations."""

    def opening(self, prompt: Prompt, more: str | None) -> tuple[Ids, Conversation]:
        """The first context, and the conversation to continue.

        Args:
            more: untrusted text to append to the prompt.
        """
        ...

    def parse(self, ids: Sequence[int]) -> tuple[str, list[Call]]:
        """Text and tool calls of a turn."""
        ...

    def following(self, conversation: Conversation, ids: Sequence[int], messages: Sequence[Message]) -> Following:
        """What follows a turn; the conversation is extended in place.

        Args:
            ids: the sampled turn.
            messages: of others, with untrusted texts.
        """
        ...


@dataclass
class TextRenderer:
    """Plain continuation: the text of the environment follows the turn. For base models and `reply`."""

    tokenizer: Any

    def opening(self, prompt: Prompt, more: str | None) -> tuple[Ids, Conversation]:
        return [*prompt.token_ids, *(plain(self.tokenizer, more) if more else [])], Conversation([])

    def parse(self, ids: Sequence[int]) -> tuple[str, list[Call]]:
        return decode(self.tokenizer, without_end(ids, special_ids(self.tokenizer))), []

    def following(self, conversation: Conversation, ids: Sequence[int], messages: Sequence[Message]) -> Following:
        return Following([token for m in messages for token in plain(self.tokenizer, str(m["content"]))])


@dataclass
class ChatRenderer:
    """The tokens that a chat template puts after a turn, cut from its whole text.

    The template renders the conversation with the sampled turn as the assistant's content and with the results. If this
    text begins with what the model has seen, and then has the turn (up to blanks around it, which many templates
    strip), the rest is appended to the exact tokens. Otherwise the template has rewritten earlier messages, for example
    removed their reasoning, and a new context begins.

    Args:
        tokenizer: with a chat template.
        tools: JSON schemas, for the template.
        style: of the tool calls in a turn.
        options: other variables of the template.
    """

    tokenizer: Any
    tools: Sequence[Mapping[str, Any]] = ()
    style: ToolFormat = ToolFormat.auto
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._special = special_ids(self.tokenizer)
        self._names = [name for name in special_texts(self.tokenizer) if name]
        self._ends = [text for i in sorted(self._special) if (text := decode(self.tokenizer, [i]))]
        if self.style is ToolFormat.auto:
            self.style = style_of(str(self.options.get("chat_template") or self.tokenizer.chat_template or ""))

    def opening(self, prompt: Prompt, more: str | None) -> tuple[Ids, Conversation]:
        return self._opening(messages_of(prompt), more)

    def opening_of(self, messages: Sequence[Message]) -> tuple[Ids, Conversation]:
        """The first context of a conversation with untrusted texts, in OpenAI's form."""
        conversation = Conversation([])
        for message in messages:
            content = self._safe(conversation, str(message["content"]))
            conversation.messages.append({**_with_objects(message), "content": content})
        conversation.text = self._rendered(conversation)
        return self._encode(conversation.text, conversation.held), conversation

    def _opening(self, messages: Sequence[Message], more: str | None) -> tuple[Ids, Conversation]:
        conversation = Conversation([dict(m) for m in messages])
        for message in conversation.messages:
            if any(c in str(message["content"]) for c in _MARK):
                message["content"] = conversation.mark(str(message["content"]))
        if more is not None:
            last = conversation.messages[-1]
            last["content"] = f"{last['content']}{self._safe(conversation, more)}"
        conversation.text = self._rendered(conversation)
        return self._encode(conversation.text, conversation.held), conversation

    def parse(self, ids: Sequence[int]) -> tuple[str, list[Call]]:
        text = decode(self.tokenizer, without_end(ids, self._special))
        return text, calls_in(text, self.style)

    def following(self, conversation: Conversation, ids: Sequence[int], messages: Sequence[Message]) -> Following:
        seen, kept = conversation.text, without_end(ids, self._special)
        turn = self._safe(conversation, decode(self.tokenizer, kept))
        conversation.messages.append({"role": "assistant", "content": turn})
        for message in messages:
            content = self._safe(conversation, str(message["content"]))
            conversation.messages.append({**message, "content": content})
        conversation.text = whole = self._rendered(conversation)
        rest = after_turn(whole[len(seen) :], turn) if whole.startswith(seen) else None
        if rest is None:
            return Following(self._encode(whole, conversation.held), breaks=True)
        if len(kept) < len(ids):  # the model has written an end, and need not read the template's too
            rest = self._without_end(rest)
        return Following(self._encode(rest, conversation.held))

    def problem(self, messages: Sequence[Message], replies: bool = False) -> tuple[str, bool]:
        """What is wrong with a conversation of several turns under this template, and whether it cannot be rendered."""
        name = str(self.tools[0]["function"]["name"]) if self.tools else "look"
        by = {"role": "user"} if replies else {"role": "tool", "name": name}
        try:
            _, conversation = self._opening(messages, None)
            turn = plain(self.tokenizer, "Let me see.")
            follows = self.following(conversation, turn, [{**by, "content": "It is 7."}])
        except Exception as error:  # a template is third-party code
            return f"the chat template rejects a conversation with a tool's result: {error}", True
        if "It is 7." not in decode(self.tokenizer, follows.ids):
            return "the chat template does not show the results of tools", True
        if follows.breaks:
            return "the chat template rewrites earlier turns, so each turn is a trajectory of its own", False
        return "", False

    def _without_end(self, rest: str) -> str:
        stripped = rest.lstrip()
        for end in self._ends:
            if stripped.startswith(end):
                return stripped[len(end) :]
        return rest

    def _rendered(self, conversation: Conversation) -> str:
        options: dict[str, Any] = dict(self.options)
        if self.tools:
            options["tools"] = [dict(tool) for tool in self.tools]
        messages = [dict(m) for m in conversation.messages]
        render = self.tokenizer.apply_chat_template
        return str(render(messages, tokenize=False, add_generation_prompt=True, **options))

    def _safe(self, conversation: Conversation, text: str) -> str:
        """The text itself; a mark if it has special tokens."""
        dangerous = any(name in text for name in self._names) or any(c in text for c in _MARK)
        return conversation.mark(text) if dangerous else text

    def _encode(self, text: str, held: Sequence[str]) -> Ids:
        ids: Ids = []
        for index, piece in enumerate(_SPLIT.split(text)):
            if index % 2:
                ids += plain(self.tokenizer, held[int(piece)])
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids


def messages_of(prompt: Prompt) -> Sequence[Message]:
    """The prompt as messages.

    Raises:
        ValueError: it was rendered, and its messages were not kept.
    """
    if MESSAGES not in prompt.metadata:
        raise ValueError(f"prompt {prompt.uid!r} has no messages: it was loaded without its environment")
    found: Sequence[Message] = prompt.metadata[MESSAGES]
    return found


def _with_objects(message: Message) -> dict[str, Any]:
    """The message with arguments of tool calls as objects, as chat templates expect them; OpenAI has JSON text."""
    if not message.get("tool_calls"):
        return {k: v for k, v in message.items() if k != "tool_calls"}
    calls = []
    for call in message["tool_calls"]:
        function = dict(call.get("function") or {})
        with contextlib.suppress(ValueError, TypeError):
            function["arguments"] = json.loads(function["arguments"])
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def after_turn(text: str, turn: str) -> str | None:
    """The text after a turn at its beginning, which may have lost blanks at its ends; None if it is not there.

    >>> after_turn("so 7.<|im_end|>", " so 7.\\n"), after_turn("7.", "so 7.")
    ('<|im_end|>', None)
    """
    for form in dict.fromkeys((turn, turn.rstrip(), turn.lstrip(), turn.strip())):
        if text.startswith(form):
            return text[len(form) :]
    return None


def style_of(template: str) -> ToolFormat:
    """The style of calls that a chat template teaches, by its text."""
    if "<tool_call>" in template:
        return ToolFormat.hermes
    if "ipython" in template or '"parameters"' in template:
        return ToolFormat.llama
    return ToolFormat.python if "tool_code" in template else ToolFormat.hermes


def plain(tokenizer: Any, text: str) -> Ids:
    """Tokens of untrusted text: special tokens in it are encoded as their characters."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def without_end(ids: Sequence[int], special: Collection[int]) -> Sequence[int]:
    """A turn without the special token that ends it, if there is one."""
    return ids[:-1] if len(ids) and int(ids[-1]) in special else ids


def special_ids(tokenizer: Any) -> frozenset[int]:
    return frozenset(int(i) for i in tokenizer.all_special_ids)


def special_texts(tokenizer: Any) -> list[str]:
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    return list(dict.fromkeys([*map(str, tokenizer.all_special_tokens), *added]))
