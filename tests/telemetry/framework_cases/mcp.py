"""The MCP SDK since 2: a server's spans show the tool's name; a client reads of a refusal in a clean error."""

import asyncio

from framework_case import Case
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

REQUIRES = ["mcp>=2,<3"]


def run(refund, url):
    server = MCPServer("shop")
    server.tool()(refund)

    async def turn():
        async with Client(server) as client:
            try:
                result = await client.call_tool("refund", {"order_id": "o-1"})
            except MCPError as error:
                return f"{error.code} {error.message}"
            finally:
                assert (await client.list_tools()).tools, "the server lives on"
            return result.content[0].text

    return asyncio.run(turn())


CASE = Case("mcp-python-sdk", run, stops=False)
