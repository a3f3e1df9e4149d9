"""A client of MCP that has a tool of a server refund money. Both know nothing of spanledger.

    pip install -e '.[embedded]' 'mcp>=2'
    opentelemetry-instrument --traces_exporter console python examples/with_mcp.py

`spanledger.toml` beside this file names the side-effecting tool. The server is a process of its own, which this file
starts. A server that is started with `opentelemetry-instrument`, too, runs a tool once whichever client asks.
"""

import asyncio
import sys

import shop
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.server.mcpserver import MCPServer


async def main() -> None:
    """Refund one order."""
    server = StdioServerParameters(command=sys.executable, args=[__file__, "serve"])
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        result = await session.call_tool("refund", {"order_id": "o-123", "amount": "10.00"})
    print(result.content)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        served = MCPServer("shop")
        served.tool()(shop.refund)
        served.run()
    else:
        asyncio.run(main())
