"""An address in OpenAI's form under which an agent calls the policy, and where its rollouts are recorded.

    POST /session/<id>/v1/chat/completions     messages, tools, max_tokens, stream, logprobs
    GET  /session/<id>/v1/models

A session is one rollout. A request that continues a recorded turn continues its exact tokens: the messages up to the
assistant's last one are recognised, and only what follows is rendered. Any other request begins a new context, and so a
new trajectory of the rollout: the first one, one of a second agent, a history that the agent has rewritten.

Temperature and the like are the run's, because log-probs of other distributions could not be trained on; what a client
asks for is ignored.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rlcore.agents.record import Ask, Context, Record
from rlcore.agents.renderers import ChatRenderer, Conversation
from rlcore.agents.tools import Call

MODEL = "policy"
MAX_BODY = 64 << 20  # bytes
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class BadRequest(Exception):
    """A request that cannot be answered, with OpenAI's error code."""

    def __init__(self, message: str, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Turn:
    """A recorded answer: where a request that repeats its messages continues."""

    key: tuple[Any, ...]  # of all messages up to the answer
    conversation: Conversation  # up to the request
    ids: list[int]  # the answer
    context: Context
    num_pieces: int  # of the context, with the answer
    renderer: ChatRenderer


@dataclass
class Session:
    """One rollout of an agent.

    Args:
        renderer: for the tools of a request.
        ask: samples a turn.
        max_tokens: of a context.
        max_new_tokens: of a turn; a client may ask for less.
        max_turns: of the session.
    """

    renderer: Callable[[Sequence[Mapping[str, Any]]], ChatRenderer]
    ask: Ask
    max_tokens: int
    max_new_tokens: int
    max_turns: int
    record: Record = field(default_factory=Record)
    turns: list[Turn] = field(default_factory=list)
    begun: int = 0  # turns, with those under way
    calls: int = 0
    overlong: bool = False  # a request had no room for an answer
    failure: BaseException | None = None  # of the engines

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion.

        Raises:
            BadRequest: malformed, or no room for an answer.
        """
        messages, tools, most = _read(body)
        renderer = self.renderer(tools)
        if self.begun >= self.max_turns:
            self.overlong = True
            raise BadRequest(f"the rollout has had its {self.max_turns} turns (environment.max_turns)", "max_turns")
        self.begun += 1
        context, conversation, more = self._place(messages, renderer)
        room = self.max_tokens - context.tokens.size
        if room <= 0:
            self.overlong = True
            text = f"This model's maximum context length is {self.max_tokens} tokens; the messages have more"
            raise BadRequest(text, "context_length_exceeded")
        size = len(context.pieces)
        try:
            ids = await self.record.sample(context, min(room, self.max_new_tokens, most or room), self.ask)
        except BaseException as error:
            self.failure = error if isinstance(error, Exception) else None
            raise
        text, calls = renderer.parse(ids)
        for message in more:
            self.record.turn(str(message["role"]), str(message["content"]))
        self.record.turn("assistant", text)
        reply = _message(text, calls)
        self.calls += len(calls)
        key = (*map(_key, messages), _key(reply))
        self.turns.append(Turn(key, conversation, ids, context, size + 1, renderer))
        logprobs = context.pieces[-1][1]
        return _completion(reply, self.record.cut, renderer, ids, logprobs, context.tokens.size - len(ids))

    def _place(
        self, messages: Sequence[dict[str, Any]], renderer: ChatRenderer
    ) -> tuple[Context, Conversation, Sequence[Mapping[str, Any]]]:
        """The context of the next turn, its conversation, and the messages that are new."""
        keys = tuple(map(_key, messages))
        for turn in reversed(self.turns):
            count = len(turn.key)
            new = messages[count:]
            if keys[:count] != turn.key or renderer.tools != turn.renderer.tools or not new:
                continue
            if any(m["role"] == "assistant" for m in new):
                continue
            conversation = turn.conversation.copy()
            follows = renderer.following(conversation, turn.ids, new)
            if follows.breaks:
                return self.record.begin(follows.ids), conversation, new
            context = turn.context
            if len(context.pieces) != turn.num_pieces:  # it was continued in another way: a branch
                seen = [ids for ids, _, _ in context.pieces[: turn.num_pieces]]
                context = self.record.begin([*context.begin.tolist(), *(i for ids in seen for i in ids.tolist())])
            context.given(follows.ids)
            return context, conversation, new
        ids, conversation = renderer.opening_of(messages)
        return self.record.begin(ids), conversation, messages


def _read(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]], int | None]:
    """Messages with text contents, tools, and the limit of the answer."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message")
    if body.get("n") not in (None, 1):
        raise BadRequest("n must be 1: a rollout has one answer to each request")
    found = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise BadRequest(f"a message must be an object with a role of {', '.join(ROLES)}")
        found.append({**message, "content": _text(message.get("content"))})
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRequest("tools must be a list of objects")
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise BadRequest("max_tokens must be a positive number")
    return found, tools, most


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise BadRequest("content must be text or a list of parts of type text")


def _key(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells messages apart. Clients drop and add fields, but keep the ids of tool calls."""
    calls = tuple(call.get("id") for call in message.get("tool_calls") or () if isinstance(call, Mapping))
    content = "" if calls else _text(message.get("content")).strip()
    return (message["role"], content, calls, message.get("tool_call_id"))


def _message(text: str, calls: Sequence[Call]) -> dict[str, Any]:
    """An answer in OpenAI's form. A call that cannot be read stays text."""
    good = [call for call in calls if not call.error]
    if not good:
        return {"role": "assistant", "content": text}
    functions = [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
        }
        for call in good
    ]
    before = text.partition("<tool_call>")[0].strip() if "<tool_call>" in text else ""
    return {"role": "assistant", "content": before or None, "tool_calls": functions}


def _completion(
    reply: dict[str, Any], cut: bool, renderer: ChatRenderer, ids: Sequence[int], logprobs: Any, num_prompt: int
) -> dict[str, Any]:
    reason = "length" if cut else "tool_calls" if "tool_calls" in reply else "stop"
    pieces = [renderer.tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    content = [
        {"token": piece, "logprob": float(p), "bytes": list(piece.encode()), "top_logprobs": []}
        for piece, p in zip(pieces, logprobs, strict=True)
    ]
    choice = {"index": 0, "message": reply, "finish_reason": reason, "logprobs": {"content": content}}
    usage = {"prompt_tokens": num_prompt, "completion_tokens": len(ids), "total_tokens": num_prompt + len(ids)}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": MODEL,
        "choices": [choice], "usage": usage,
    }  # fmt: skip


class CaptureServer:
    """The server, in the event loop of the rollouts.

    Args:
        host: where it listens. On another address than loopback clients must send the token as their API key.
        port: 0: a free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._sessions: dict[str, Session] = {}
        self._runner: web.AppRunner | None = None
        self.token = secrets.token_urlsafe(24)

    async def start(self) -> None:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/session/{id}/v1/chat/completions", self._complete)
        app.router.add_get("/session/{id}/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @asynccontextmanager
    async def session(self, session: Session) -> AsyncIterator[str]:
        """The base URL of a session, valid in the block."""
        name = secrets.token_urlsafe(16)
        self._sessions[name] = session
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            yield f"http://{host}:{self._port}/session/{name}/v1"
        finally:
            del self._sessions[name]

    def _found(self, request: web.Request) -> Session:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if self._host not in ("127.0.0.1", "::1", "localhost") and not secrets.compare_digest(given, self.token):
            raise _refusal(web.HTTPUnauthorized, "a wrong API key", "invalid_api_key")
        if (session := self._sessions.get(request.match_info["id"])) is None:
            raise _refusal(web.HTTPNotFound, "no such session: its rollout is over", "session_not_found")
        return session

    async def _models(self, request: web.Request) -> web.Response:
        self._found(request)
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "rlcore"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        session = self._found(request)
        try:
            body = await request.json()
            if not isinstance(body, Mapping):
                raise BadRequest("the body must be an object")
            found = await session.answer(body)
        except json.JSONDecodeError as error:
            raise _refusal(web.HTTPBadRequest, f"the body is not JSON: {error}", "invalid_request_error") from error
        except BadRequest as error:
            raise _refusal(web.HTTPBadRequest, str(error), error.code) from error
        except Exception as error:
            raise _refusal(web.HTTPInternalServerError, f"the engines failed: {error}", "server_error") from error
        if not body.get("logprobs"):
            found["choices"][0]["logprobs"] = None
        if body.get("stream"):
            options = body.get("stream_options") or {}
            return await _stream(request, found, bool(options.get("include_usage")))
        return web.json_response(found)


def _refusal(kind: type[web.HTTPException], message: str, code: str) -> web.HTTPException:
    text = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}})
    return kind(text=text, content_type="application/json")


async def _stream(request: web.Request, found: dict[str, Any], usage: bool) -> web.StreamResponse:
    """The whole answer as events: the client's interface is that of a stream, the turn is sampled in one piece."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    (choice,) = found["choices"]
    message = choice["message"]
    base = {**{k: found[k] for k in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    async def send(delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> None:
        part = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        await response.write(f"data: {json.dumps({**base, 'choices': [part]})}\n\n".encode())

    await send({"role": "assistant", "content": ""})
    if message["content"]:
        await send({"content": message["content"]}, logprobs=choice["logprobs"])
    for index, call in enumerate(message.get("tool_calls", ())):
        await send({"tool_calls": [{"index": index, **call}]})
    await send({}, choice["finish_reason"])
    if usage:
        await response.write(f"data: {json.dumps({**base, 'choices': [], 'usage': found['usage']})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
