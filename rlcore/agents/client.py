"""What a user's rollout function gets: the task and the model. Runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]


class ModelError(RuntimeError):
    """The model refused a request; `code` is OpenAI's, such as `context_length_exceeded`."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Task:
    """One row of the data."""

    prompt: str | Sequence[Message]  # text, or messages with a chat template
    reference: str | None
    row: Mapping[str, Any] = field(default_factory=dict)  # all columns

    @property
    def messages(self) -> list[Message]:
        """The prompt as messages."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else list(self.prompt)


@dataclass(frozen=True)
class Model:
    """The policy. `base_url` and `api_key` are for any client of OpenAI's interface, the model's name is `policy`."""

    base_url: str
    api_key: str
    timeout_s: float = 600.0

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None, max_tokens: int | None = None
    ) -> dict[str, Any]:
        """Samples a turn after the messages and returns it as a message of the assistant: "content", and "tool_calls"
        if it has any. Append it to the messages as it is: a call that continues it continues the exact tokens.

        Raises:
            ModelError: for example with `code` "context_length_exceeded".
        """
        body: dict[str, Any] = {"model": "policy", "messages": list(messages)}
        body |= {"tools": list(tools)} if tools else {}
        body |= {"max_tokens": max_tokens} if max_tokens else {}
        found = await asyncio.to_thread(self._post, body)
        message: dict[str, Any] = found["choices"][0]["message"]
        return message

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        request = urllib.request.Request(f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
        try:
            with opener.open(request, timeout=self.timeout_s) as response:
                found: dict[str, Any] = json.loads(response.read())
                return found
        except urllib.error.HTTPError as error:
            raise _error(error.read()) from None


def _error(body: bytes) -> ModelError:
    try:
        found = json.loads(body)["error"]
        return ModelError(str(found["message"]), str(found.get("code")))
    except (ValueError, KeyError, TypeError):
        return ModelError(body.decode("utf-8", "replace")[:500], "unknown")
