"""Checks an environment and the chat template before anything starts, and makes what plays rollouts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlcore.agents.capture import CaptureServer
from rlcore.agents.config import EnvironmentConfig, ToolFormat
from rlcore.agents.environments import Description, EnvironmentFailure, EnvironmentPool
from rlcore.agents.play import AgentPlayer, EnvironmentPlayer, Player
from rlcore.agents.renderers import ChatRenderer, Renderer, TextRenderer
from rlcore.agents.rollouts import AgentRollout, TurnEngine
from rlcore.agents.tools import InvalidEnvironment
from rlcore.data.sources.config import DataConfig
from rlcore.data.sources.render import PromptRenderer
from rlcore.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def describe(config: EnvironmentConfig, chat: bool, cwd: str | None = None) -> Description:
    """Loads the class in a process of its own, and returns what it offers: tools, or `reply` alone.

    Args:
        chat: prompts are rendered by a chat template (`data.chat_template`).

    Raises:
        InvalidEnvironment: the class cannot be loaded or used, or has tools and there is no chat template.
    """

    async def ask() -> Description:
        pool = EnvironmentPool(replace(config, concurrency=1, memory_limit_mb=0), cwd)  # schemas import torch
        try:
            async with pool.environment() as environment:
                return await environment.describe()
        finally:
            await pool.close()

    try:
        found = asyncio.run(ask())
    except OSError as error:
        raise InvalidEnvironment(f"environment.python={config.python} cannot be started: {error}") from error
    except EnvironmentFailure as error:
        raise InvalidEnvironment(f"environment.fn={config.fn}: {error}") from error
    except InvalidEnvironment as error:
        raise InvalidEnvironment(f"environment.fn={config.fn}: {error}") from None
    if found.is_rollout:
        if not chat:
            raise InvalidEnvironment(
                f"the rollout function {found.name} calls the model with messages: set data.chat_template=true, with "
                "data.chat_template_file=template.jinja if the tokenizer has none"
            )
        return found
    if config.tools is ToolFormat.text or not found.schemas or (found.reply and not chat):
        if not found.reply:
            raise InvalidEnvironment(
                f"environment.tools=text needs an environment with reply(self, text), which {found.name} has not"
            )
        return replace(found, schemas=())
    if not chat:
        raise InvalidEnvironment(
            f"the tools of {found.name} ({', '.join(s['function']['name'] for s in found.schemas)}) are shown to the "
            "model by a chat template: set data.chat_template=true, with data.chat_template_file=template.jinja if the "
            "tokenizer has none, or give the class a method reply(self, text)"
        )
    return replace(found, reply=False)


def make_rollouts(
    engines: TurnEngine, config: EnvironmentConfig, description: Description, data: DataConfig, tokenizer: Tokenizer,
    max_tokens: int, cwd: str | None = None,
) -> AgentRollout:  # fmt: skip
    """Rollouts of several turns on engines; see `make_player`."""
    player = make_player(config, description, data, tokenizer, max_tokens)
    return AgentRollout(engines, config, player, lambda: EnvironmentPool(config, cwd))


def make_player(
    config: EnvironmentConfig, description: Description, data: DataConfig, tokenizer: Tokenizer, max_tokens: int
) -> Player:
    """See `Player`.

    Args:
        description: of `describe`.
        max_tokens: of a context of the engines.

    Raises:
        InvalidEnvironment: the chat template cannot show conversations with results of tools.
    """
    renderer: Renderer = TextRenderer(tokenizer)
    prompts = PromptRenderer(data, tokenizer, "data")
    if data.chat_template:
        renderer = ChatRenderer(tokenizer, description.schemas, config.tools, prompts.options)
        text, fatal = renderer.problem(prompts.messages("Which is it?"), description.reply)
        if fatal:
            raise InvalidEnvironment(f"{text}: give another as data.chat_template_file")
        if text:
            log.warning("%s (agent/breaks counts them)", text)
    limit = min(config.max_tokens or max_tokens, max_tokens)
    columns = {"prompt": data.columns.prompt, "reference": data.columns.reference}
    if not description.is_rollout:
        return EnvironmentPlayer(description, renderer, config.max_turns, limit, columns)
    made: dict[str, ChatRenderer] = {}

    def for_tools(tools: Sequence[Mapping[str, Any]]) -> ChatRenderer:
        key = json.dumps(tools, sort_keys=True)
        if key not in made:
            made[key] = ChatRenderer(tokenizer, tools, config.tools, prompts.options)
        return made[key]

    return AgentPlayer(for_tools, config.max_turns, limit, CaptureServer(config.host), columns)
