"""The tools of an MCP server (extra `mcp`): a program that is started and spoken to over its pipes, or a URL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.errors import MissingExtraError, TinsmithError, WorldError
from tinsmith.domain.messages import Tool
from tinsmith.ports.loop import BackgroundLoop
from tinsmith.ports.tools import ToolReply

INVALID_PARAMS = -32602
"""JSON-RPC's code for arguments that do not fit."""
CLOSED = -32000
"""The code of a connection that is gone."""
START_S = 60.0
"""Seconds that a server has to start and to list its tools."""


class McpServer:
    """A ToolServer. The connection outlives event loops; one that broke is made anew for the next call, with what the
    server knew lost. A call that takes too long leaves the server, and the calls beside it, alone."""

    def __init__(
        self,
        where: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """where: a URL (streamable HTTP), or a program with its arguments, which gets of the environment a few common
        names and `env`. timeout_s: seconds that a call may take. Raises MissingExtraError, WorldError for a server that
        does not start, DeadlineError."""
        try:
            import mcp
        except ImportError:
            raise MissingExtraError("mcp", "mcp") from None
        self._mcp: Any = mcp
        self._where: Any = where
        if not isinstance(where, str):
            program, *arguments = where
            self._where = mcp.StdioServerParameters(
                command=program, args=arguments, env=dict(env) if env else None, cwd=cwd
            )
        self._name = f"the MCP server {where if isinstance(where, str) else ' '.join(where)}"
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting: asyncio.Lock | None = None
        self._loop = BackgroundLoop(self._name)
        try:
            self._tools = self._loop.wait(self._list, self._name, START_S)
        except BaseException:
            self.close()
            raise

    @property
    def tools(self) -> Sequence[Tool]:
        return self._tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolReply:
        what = f"the tool {name} of {self._name}"
        return await self._loop.run(lambda: self._call(name, dict(arguments)), what, self._timeout_s)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.wait(connection.end, self._name, START_S)
        self._loop.close()

    # On the loop of the connection.

    async def _list(self) -> tuple[Tool, ...]:
        connection = await self._connected()
        tools: list[Tool] = []
        cursor = None
        while True:
            page = await self._asked(connection, connection.client.list_tools(cursor=cursor))
            tools += [_tool(tool) for tool in page.tools]
            if not (cursor := page.next_cursor):
                return tuple(tools)

    async def _call(self, name: str, arguments: dict[str, Any]) -> ToolReply:
        connection = await self._connected()
        try:
            result = await self._asked(connection, connection.client.call_tool(name, arguments))
        except _Refused as error:
            return ToolReply(str(error), refused=True)
        text = "\n".join(_text(block) for block in result.content)
        if not result.content and result.structured_content is not None:
            text = json.dumps(result.structured_content, ensure_ascii=False)
        return ToolReply(text, refused=bool(result.is_error))

    async def _connected(self) -> _Connection:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._connection is None or self._connection.over:
                connection = _Connection(self._mcp.Client(self._where))
                await self._asked(connection, connection.begin())
                self._connection = connection
            return self._connection

    async def _asked(self, connection: _Connection, work: Any) -> Any:
        """What a call of the client gives. What it raises is the world's, but for arguments that do not fit."""
        try:
            return await work
        except TinsmithError:
            raise
        except Exception as error:
            cause = _first(error)
            if isinstance(cause, self._mcp.MCPError) and cause.code == INVALID_PARAMS:
                raise _Refused(str(cause)) from error
            if not isinstance(cause, self._mcp.MCPError) or cause.code == CLOSED:
                connection.leave()
            said = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise WorldError(f"{self._name} failed: {said}") from error


class _Refused(Exception):
    """The server says that a call's arguments do not fit."""


class _Connection:
    """A client that is entered and left by one task, as its scopes ask for."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self._task is None or self._task.done() or self._leave.is_set()

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._live())
        try:
            await self._ready
        except BaseException:
            self._task.cancel()
            raise

    def leave(self) -> None:
        self._leave.set()

    async def end(self) -> None:
        self.leave()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=START_S)

    async def _live(self) -> None:
        try:
            async with self.client:
                self._ready.set_result(None)
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 - who waits is told
            if not self._ready.done():
                self._ready.set_exception(error)


def _tool(tool: Any) -> Tool:
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return Tool({"type": "function", "function": function})


def _text(block: Any) -> str:
    """A block of a result as text; of what is none, its kind and size."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":
        held = getattr(block.resource, "text", None)
        return f"[{block.resource.uri}]" if held is None else str(held)
    if block.type == "resource_link":
        return f"[{block.uri}]"
    return f"[{block.type} of type {block.mime_type}, {len(block.data) * 3 // 4} bytes]"


def _first(error: BaseException) -> BaseException:
    """The first of errors that came together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
