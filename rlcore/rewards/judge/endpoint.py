"""A judge at an OpenAI-compatible endpoint: bounded concurrency, retries within a deadline, one status per prompt."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import Sequence
from typing import Any

from rlcore.problems import UserError, setting_problems
from rlcore.redact import MASK, strip_text
from rlcore.rewards.judge.config import JudgeEndpointConfig, endpoint_problems
from rlcore.rewards.judge.prompts import Messages, Reply
from rlcore.types import Status

PAUSE_S, MAX_PAUSE_S = 0.5, 20.0
TOP_LOGPROBS = 20  # maximum of the API
SLACK_S = 30.0
MAX_ERROR = 300
AGAIN = {408, 409, 425, 429}  # and 5xx


class EndpointError(UserError, ValueError):
    """The settings of an endpoint are invalid."""


class _Failed(Exception):
    """Result of one attempt. `again`: a retry may succeed; `after_s`: the pause requested by the server."""

    def __init__(self, message: str, again: bool = True, after_s: float = 0.0, status: Status = Status.ERROR) -> None:
        super().__init__(message)
        self.again, self.after_s, self.status = again, after_s, status


class EndpointCompleter:
    """`Completer` over `<base_url>/chat/completions`. The key is read from the environment once and never printed.

    Raises:
        EndpointError: a setting, the environment variable in `api_env` or the package httpx is missing.
    """

    def __init__(self, config: JudgeEndpointConfig) -> None:
        try:
            import httpx
        except ImportError:
            raise EndpointError("reward.judge.kind=endpoint needs the package httpx: pip install httpx") from None
        key = "reward.judge.endpoint"
        if wrong := [*setting_problems(config, key), *endpoint_problems(config, key)]:
            raise EndpointError("\n".join(map(str, wrong)))
        self._key = os.environ.get(config.api_env, "") if config.api_env else ""
        if config.api_env and not self._key:
            raise EndpointError(f"reward.judge.endpoint.api_env={config.api_env}: that environment variable is not set")
        self._httpx, self._config = httpx, config
        self._url = str(config.base_url).rstrip("/") + "/chat/completions"

    def complete(
        self,
        prompts: Sequence[str | Messages],
        max_tokens: int,
        temperature: float = 0.0,
        choices: Sequence[str] = (),
    ) -> list[Reply]:
        """See `Completer.complete`. A choice outside of the 20 most likely tokens gets the log-prob -inf.

        Must not be called from a thread that runs an event loop.
        """
        body: dict[str, Any] = {"model": self._config.model, "temperature": temperature, "max_tokens": max_tokens}
        if choices:
            body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        body |= self._config.extra
        bodies = [
            body | {"messages": [{"role": "user", "content": p}] if isinstance(p, str) else list(p)} for p in prompts
        ]
        return asyncio.run(self._all(bodies, choices))

    def limit_s(self, num_prompts: int) -> float:
        return math.ceil(num_prompts / self._config.max_concurrency) * self._config.deadline_s + SLACK_S

    async def _all(self, bodies: Sequence[dict[str, Any]], choices: Sequence[str]) -> list[Reply]:
        config, httpx = self._config, self._httpx
        slots = asyncio.Semaphore(config.max_concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.max_concurrency)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:

            async def one(body: dict[str, Any]) -> Reply:
                async with slots:
                    return await self._answer(client, body, choices)

            return list(await asyncio.gather(*(one(body) for body in bodies)))

    async def _answer(self, client: Any, body: dict[str, Any], choices: Sequence[str]) -> Reply:
        """Completes one prompt, with retries."""
        config, loop = self._config, asyncio.get_running_loop()
        ends_at = loop.time() + config.deadline_s
        failed = _Failed("no attempt was made", status=Status.TIMEOUT)
        for attempt in range(config.retries + 1):
            left = min(config.request_timeout_s, ends_at - loop.time())
            try:
                async with asyncio.timeout(left):  # for the whole attempt, also against servers that send slowly
                    return await self._attempt(client, body, choices)
            except TimeoutError:
                failed = _Failed(f"no answer within {left:.1f} s", status=Status.TIMEOUT)
            except self._httpx.HTTPError as error:
                failed = _Failed(f"{type(error).__name__}: {error}")
            except _Failed as error:
                failed = error
            pause = max(min(PAUSE_S * 2**attempt, MAX_PAUSE_S) * random.uniform(0.5, 1.0), failed.after_s)
            if not failed.again or attempt == config.retries:
                break
            if loop.time() + pause >= ends_at:
                failed = _Failed(f"{failed}; deadline_s={config.deadline_s:g} is over", status=failed.status)
                break
            await asyncio.sleep(pause)
        return Reply(status=failed.status, error=self._clean(f"{self._url}: {failed} ({attempt + 1} attempts)"))

    async def _attempt(self, client: Any, body: dict[str, Any], choices: Sequence[str]) -> Reply:
        response = await client.post(self._url, json=body)
        code = response.status_code
        if code != 200:
            again = code in AGAIN or code >= 500
            raise _Failed(f"HTTP {code}: {response.text[:MAX_ERROR]}", again, _retry_after(response.headers))
        try:
            return _reply(response.json(), choices)
        except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}: {response.text[:MAX_ERROR]}"
            raise _Failed(f"no chat completion: {said}") from error

    def _clean(self, text: str) -> str:
        return strip_text(text.replace(self._key, MASK) if self._key else text)


def _reply(answer: Any, choices: Sequence[str]) -> Reply:
    """Parses a chat completion. Raises LookupError, TypeError or ValueError if it is not one."""
    choice = answer["choices"][0]
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    finish = "length" if choice.get("finish_reason") == "length" else "stop"
    if not choices:
        return Reply(text, finish_reason=finish)
    if not choice.get("logprobs") or not choice["logprobs"].get("content"):
        raise _Failed("it reports no log-probs: set reward.judge.reading.how=text", again=False)
    seen = [(str(t["token"]).strip(), float(t["logprob"])) for t in choice["logprobs"]["content"][0]["top_logprobs"]]
    logprobs = tuple(log_sum([x for token, x in seen if token == label]) for label in choices)
    return Reply(choices[max(range(len(choices)), key=logprobs.__getitem__)], logprobs=logprobs)


def log_sum(logprobs: Sequence[float]) -> float:
    """Log of the sum of probabilities; -inf for an empty list."""
    top = max(logprobs, default=-math.inf)
    return top + math.log(sum(math.exp(x - top) for x in logprobs)) if top > -math.inf else top


def _retry_after(headers: Any) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0
