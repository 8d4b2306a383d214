"""Tools of a server of the Model Context Protocol that is started as a program (stdio)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

try:
    from anyio.from_thread import start_blocking_portal
    from mcp import ClientSession, StdioServerParameters, stdio_client
except ImportError as error:
    raise ImportError(f"environment.fn=mcp needs the package mcp ({error}): pip install 'rlcore[agents]'") from error

from rlcore.agents import environment


@environment("mcp")
class McpTools:
    """The tools of one server, which is started for each rollout, so that none sees what another one left.

    Args:
        command, args: the server's program.
        env: its environment variables, in addition to PATH, HOME and the like.
        tools: names of the tools to offer; None: all.
        keep: keep one server for all rollouts of a process, for servers without a state.
    """

    def __init__(
        self, command: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None,
        tools: Sequence[str] | None = None, keep: bool = False,
    ) -> None:  # fmt: skip
        self._server = StdioServerParameters(command=command, args=list(args), env=dict(env or {}) or None)
        self._wanted, self._keep = tools, keep
        self._stack = ExitStack()
        self._portal: Any = None  # runs the session in a thread of its own
        self._session: Any = None

    def reset(self, **_: Any) -> None:
        if self._session is None or not self._keep:
            self.close()
            self._open()

    def list_tools(self) -> list[dict[str, Any]]:
        """Schemas in OpenAI's form. Raises ValueError for a name in `tools` that the server does not have."""
        if self._session is None:
            self._open()
        found = {tool.name: tool for tool in self._portal.call(self._session.list_tools).tools}
        if missing := [name for name in self._wanted or () if name not in found]:
            raise ValueError(f"the server has no tool {', '.join(missing)}; it has {', '.join(found)}")
        return [_schema(found[name]) for name in self._wanted or found]

    def call_tool(self, name: str, arguments: Mapping[str, Any]) -> str:
        result = self._portal.call(self._session.call_tool, name, dict(arguments))
        text = "\n".join(str(part.text) for part in result.content if getattr(part, "type", "") == "text")
        if getattr(result, "is_error", False) or getattr(result, "isError", False):
            raise RuntimeError(text)
        return text

    def close(self) -> None:
        self._stack.close()
        self._session = None

    def _open(self) -> None:
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._session = self._stack.enter_context(self._portal.wrap_async_context_manager(_session(self._server)))


@asynccontextmanager
async def _session(server: StdioServerParameters) -> Any:
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


def _schema(tool: Any) -> dict[str, Any]:
    parameters = getattr(tool, "input_schema", None) or getattr(tool, "inputSchema", None) or {"type": "object"}
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    return {"type": "function", "function": function}
