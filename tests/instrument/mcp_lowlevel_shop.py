"""The server of `mcp_guarded_shop`, made of the SDK's low-level `Server`: `python mcp_lowlevel_shop.py FILE`."""

from __future__ import annotations

import asyncio

import mcp_guarded_shop
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

SCHEMA = {"type": "object", "properties": {"order_id": {"type": "string"}, "amount": {"type": "integer"}}}
TOOLS = [Tool.model_validate({"name": "refund", "inputSchema": SCHEMA})]


def refunded(arguments: dict) -> list[TextContent]:
    """Refund an order, and say so."""
    return [TextContent(type="text", text=str(mcp_guarded_shop.refund(**arguments)))]


def made() -> Server:
    """Make the server, as the installed version wants it."""
    if hasattr(Server, "get_request_handler"):  # 2

        async def list_tools(context, params):
            return ListToolsResult(tools=TOOLS)

        async def call_tool(context, params):
            return CallToolResult(content=refunded(params.arguments))

        return Server("shop", on_list_tools=list_tools, on_call_tool=call_tool)
    server = Server("shop")

    @server.list_tools()
    async def list_tools_registered():
        return TOOLS

    @server.call_tool()
    async def call_tool_registered(name, arguments):
        return refunded(arguments)

    return server


async def serve(server: Server) -> None:
    """Answer on standard input and output."""
    async with stdio_server() as streams:
        await server.run(*streams, server.create_initialization_options())


if __name__ == "__main__":
    mcp_guarded_shop.guard()
    asyncio.run(serve(made()))
