"""A server of MCP on standard input and output, whose tool writes what it refunds into a file; both are arguments."""

from __future__ import annotations

import sys
from pathlib import Path

try:  # 2
    from mcp.server.mcpserver import MCPServer
except ImportError:  # 1
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("shop")


@server.tool(name=sys.argv[2])
def refund(order_id: str, amount: int) -> str:
    """Refund an order."""
    with Path(sys.argv[1]).open("a") as file:
        file.write(f"{order_id}\n")
    return "refunded"


server.run()
