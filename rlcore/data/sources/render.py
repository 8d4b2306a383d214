"""Prompts as text and tokens: prompt template, system prompt, chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlcore.data.sources.conversations import Messages, Said
from rlcore.data.sources.problem import BrokenRow
from rlcore.data.sources.readers import DataError
from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.problems import nearest
from rlcore.types import Prompt

MESSAGES = "messages"  # metadata key: the prompt as messages, before the chat template
RAW = "raw_prompt"  # metadata key: the user's request after the prompt template, before the chat template
_OWN = ("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "tokenize", "return_dict")


def raw_text(prompt: Prompt) -> str:
    """The user's request, without chat template if known."""
    return str(prompt.metadata.get(RAW, prompt.text))


class PromptSettings(Protocol):
    """Common settings of `DataConfig` and `ExamplesConfig`."""

    chat_template: bool
    chat_template_file: str | None
    chat_options: dict[str, Any]
    system_prompt: str | None
    prompt_template: str


class PromptRenderer:
    """Renders prompts under one config and tokenizer.

    Args:
        key: path of the config for error messages, for example `data`.
        tools: JSON schemas for rows that have none.
        keep_messages: put the prompt as messages into the metadata, for rollouts of several turns.

    Raises:
        DataError: conflicting settings, an unreadable template file, an option that the chat template does not use.
    """

    def __init__(
        self, config: PromptSettings, tokenizer: Tokenizer, key: str, tools: Sequence[Mapping[str, Any]] = (),
        keep_messages: bool = False,
    ) -> None:  # fmt: skip
        if problems := prompt_problems(config, tokenizer, key):
            raise DataError("\n".join(problems))
        self._config, self._tokenizer, self._key = config, tokenizer, key
        self._template = _read(config.chat_template_file, key)
        self._tools, self._keep_messages = tools, keep_messages

    @property
    def options(self) -> dict[str, Any]:
        """Variables of the chat template, with the template itself if it is not the tokenizer's."""
        own = {} if self._template is None else {"chat_template": self._template}
        return {**self._config.chat_options, **own}

    @property
    def chat(self) -> bool:
        return self._config.chat_template

    def messages(self, prompt: Said) -> Messages:
        """The prompt as messages: prompt template on the last user message, system prompt first.

        A system message in the conversation takes precedence over the config's.
        """
        messages: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        for place in reversed(range(len(messages))):
            if messages[place]["role"] == "user":
                content = self.fill(messages[place]["content"])
                messages[place] = messages[place] | {"content": content}
                break
        return self.with_system(messages)

    def with_system(self, messages: Messages) -> Messages:
        if self._config.system_prompt is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": self._config.system_prompt}, *messages]

    def fill(self, text: str) -> str:
        """Inserts a text into the prompt template."""
        return self._config.prompt_template.replace("{prompt}", text)  # not str.format: templates may contain braces

    def prompt(self, prompt: Said, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Renders a prompt. Raises BrokenRow for messages or tools without chat template, or if the template rejects
        it.
        """
        if self.chat:
            return self.apply(self.messages(prompt), True, tools or self._tools)
        if not isinstance(prompt, str):
            raise BrokenRow(f"the prompt is a list of messages, which needs {self._key}.chat_template=true")
        return self.fill(prompt)

    def apply(self, messages: Messages, ask: bool, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text of the chat template; with `ask` including the start of the answer.

        Raises:
            BrokenRow: the template rejects the messages or ignores the tools.
        """
        text = self._rendered(messages, ask, self.options)
        if not tools:
            return text
        with_tools = self._rendered(messages, ask, self.options | {"tools": [dict(tool) for tool in tools]})
        if with_tools == text:
            key = self._key
            raise BrokenRow(
                f"the row has tools, which the chat template ignores: set {key}.columns.tools='', or give one that "
                f"shows them as {key}.chat_template_file"
            )
        return with_tools

    def _rendered(self, messages: Messages, ask: bool, options: Mapping[str, Any]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, **options)
            )
        except Exception as error:  # a template is third-party code and may raise any exception
            raise BrokenRow(f"the chat template rejects it: {error}") from error

    def ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of rendered prompts; chat templates already contain the start token."""
        return encode(self._tokenizer, texts, special=not self.chat)

    def with_raw(self, metadata: Mapping[str, Any], prompt: Said) -> Mapping[str, Any]:
        """The metadata with `raw_prompt`; unchanged without chat template, for conversations of several turns, and for
        rows with such a column.
        """
        if self.chat and self._keep_messages:
            metadata = {**metadata, MESSAGES: self.messages(prompt)}
        if not self.chat or RAW in metadata:
            return metadata
        if isinstance(prompt, str):
            return {**metadata, RAW: self.fill(prompt)}
        asked = [message for message in prompt if message["role"] not in ("system", "developer")]
        if len(asked) != 1 or asked[0]["role"] != "user":
            return metadata
        return {**metadata, RAW: self.fill(asked[0]["content"])}


def prompt_problems(config: PromptSettings, tokenizer: Tokenizer, key: str) -> list[str]:
    """Errors in the settings, one line each, beginning with the key."""
    found = []
    if "{prompt}" not in config.prompt_template:
        found.append(f"{key}.prompt_template={config.prompt_template!r} has no {{prompt}}: all prompts would be equal")
    if not config.chat_template:
        needs = f"needs {key}.chat_template=true"
        if config.system_prompt is not None:
            found.append(f"{key}.system_prompt {needs}; otherwise put it into {key}.prompt_template")
        found += [f"{key}.chat_options {needs}"] if config.chat_options else []
        return found + ([f"{key}.chat_template_file {needs}"] if config.chat_template_file is not None else [])
    try:
        template = _template_of(config, tokenizer, key)
    except DataError as error:
        return [*found, str(error)]
    if template is None:
        return [
            *found,
            f"{key}.chat_template=true, but the tokenizer has no chat template: use an instruct model, give one as "
            f"{key}.chat_template_file=template.jinja, or turn it off",
        ]
    words = sorted(set(re.findall(r"[A-Za-z_]\w*", template)))
    for name in config.chat_options:
        if name in _OWN:
            found.append(f"{key}.chat_options.{name} is set by rlcore")
        elif name not in words:
            guess = nearest(name, words)
            cure = f". Did you mean {guess}?" if guess else ""
            found.append(f"{key}.chat_options.{name}: the chat template uses no such variable{cure}")
    return found


def _template_of(config: PromptSettings, tokenizer: Tokenizer, key: str) -> str | None:
    """The text of the template, to find its variables. Raises DataError if its file cannot be read."""
    template = _read(config.chat_template_file, key)
    template = getattr(tokenizer, "chat_template", None) if template is None else template
    return None if template is None else str(template)


def _read(path: str | None, key: str) -> str | None:
    if path is None:
        return None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}.chat_template_file={path} cannot be read: {error}") from error
    if not text.strip():
        raise DataError(f"{key}.chat_template_file={path} is empty")
    return text
