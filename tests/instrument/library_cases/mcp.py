"""MCP tools, called by a client, of a server in the same process; and a server alone."""

from __future__ import annotations

import asyncio

from library_case import Answer, Case, Way

try:  # 2
    from mcp import Client
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # 1
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError
    from mcp.shared.memory import create_connected_server_and_client_session as Client


def tool(function):
    server = MCPServer("shop")
    server.tool(name="refund")(function)
    return server


def answer(result):
    return Answer(" ".join(block.text for block in result.content), result)


async def session_of(server, use):
    # What stops us leaves two task groups, and need not be told from their own errors.
    async with Client(server if hasattr(Client, "__aenter__") else server._mcp_server) as client:
        return await use(getattr(client, "session", client))


def one_by_one(server, asked, thread):
    async def use(session):
        return [answer(await session.call_tool("refund", call.arguments)) for call in asked]

    return asyncio.run(session_of(server, use))


def at_once(server, asked, thread):
    async def use(session):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(session.call_tool("refund", call.arguments)) for call in asked]
        return [answer(task.result()) for task in tasks]

    return asyncio.run(session_of(server, use))


CASE = Case(
    "mcp",
    tool,
    ways={"one by one": Way(one_by_one), "at once": Way(at_once)},
    call_ids=False,
    told_error=ToolError,
)
